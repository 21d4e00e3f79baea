"""Learning what a file by ``torch.save`` names before anything of it is made.

PyTorch's reader stops at the first name that it does not know, and its message about a very long
name takes minutes. So the operations of the pickle are followed here first, without objects: a
value is the name that it was made by, and its size. What would take too much time or memory is
refused, and it becomes known which names stand for kinds of dict and of list.
"""

import pickletools
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from alignseg_infer.errors import CheckpointError

_LONGEST_NAME = 1000  # bytes of a module and a class; PyTorch's message takes 24 s with 40,000
_MOST_NAMES = 500  # a whole network names about 20
_MOST_STEPS = 5_000_000  # about 10 s; the state of Adam for a ResNet-101 has 30,000
_LARGEST_TUPLE = 1 << 18  # parts at all depths, as Python hashes them all; 1 KB of text is a part
_TEXT_PART = 1024
_PICKLES_BEFORE_1_6 = 5  # three headers, the content, the keys of its tensors
_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}
_SAME_OBJECT = {"NEWOBJ", "REDUCE", "BUILD", "SETITEM", "SETITEMS", "APPEND", "APPENDS"}
_DAMAGE = (ValueError, LookupError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
_READ_ONLY = "tensors in plain containers, and objects that training code saves"
_NOT_WEIGHTS = "do not use it; ask its author for a .safetensors file"


class _Value(NamedTuple):
    """An object of the pickle: the name that made it, if any, and its parts at all depths."""

    name: str = ""
    parts: int = 1


_PLAIN = _Value()


class Names(NamedTuple):
    """The names in a pickle.

    Attributes:
        written: Each name as it stands in the file: its module and the name in it.
        dicts: Names whose objects get items, as PyTorch spells them.
        lists: Names whose objects get elements, likewise.
    """

    written: set[tuple[str, str]]
    dicts: set[str]
    lists: set[str]


def scan_names(path: Path) -> Names:
    """Return what the pickle names, as far as it can be read; PyTorch says what is damaged.

    Raises:
        CheckpointError: It would take too much time or memory.
    """
    scan = _Scan(path)
    # What is truncated or of another protocol ends here where PyTorch's reader ends too.
    with suppress(*_DAMAGE), _open_pickle(path) as (file, pickles):
        for _ in range(pickles):
            scan.follow(file)
    return scan.names


@contextmanager
def _open_pickle(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            yield file, _PICKLES_BEFORE_1_6
            return
        with zipfile.ZipFile(file) as archive:
            folder = archive.namelist()[0].partition("/")[0]
            with archive.open(f"{folder}/data.pkl") as pickled:
                yield pickled, 1


class _Scan:
    """The stack machine of pickles, on `_Value` instead of objects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = Names(set(), set(), set())
        self._steps = 0

    def follow(self, file: IO[bytes]) -> None:
        """Follow one pickle to its end."""
        self._stack: list[_Value] = []
        self._frames: list[list[_Value]] = []
        self._memo: dict[int, _Value] = {}
        while (operation := _OPERATIONS[file.read(1).decode("latin-1")]).name != "STOP":
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise self._refusal(f"is a pickle of more than {_MOST_STEPS} steps")
            if operation.name == "GLOBAL":
                self._stack.append(self._name(file))
            else:
                argument = operation.arg.reader(file) if operation.arg else None
                self._step(operation, argument)

    def _name(self, file: IO[bytes]) -> _Value:
        lines = [file.readline(_LONGEST_NAME + 1) for _ in range(2)]
        text = b".".join(line.rstrip(b"\n") for line in lines).decode()
        if len(text) > _LONGEST_NAME or not text.isprintable():
            raise self._refusal(f"names a class that no code can have: {text[:40]!r}")
        module, name = (line.decode()[:-1] for line in lines)
        self.names.written.add((module, name))
        if len(self.names.written) > _MOST_NAMES:
            raise self._refusal(f"names more than {_MOST_NAMES} classes")
        return _Value(".".join(spelt_today(module, name)))

    def _step(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        name, before, stack = operation.name, operation.stack_before, self._stack
        if name == "MARK":
            self._frames.append(stack)
            self._stack = []
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif pickletools.markobject in before:
            self._stack = self._frames.pop()
            self._apply(name, before.index(pickletools.markobject), stack)
        elif name != "PROTO":
            taken = len(before)
            items = stack[len(stack) - taken :] if name.startswith("TUPLE") else []
            text = len(argument) if isinstance(argument, str | bytes) else 0
            self._apply(name, taken, items, text, bool(operation.stack_after))

    def _apply(
        self, name: str, taken: int, items: list[_Value], text: int = 0, makes: bool = True
    ) -> None:
        """Replace `taken` values of the stack by what the operation makes of them."""
        stack = self._stack
        target = stack[len(stack) - taken] if name in _SAME_OBJECT else _PLAIN
        del stack[len(stack) - taken :]
        if name.startswith("SETITEM"):
            self.names.dicts.add(target.name)
        elif name.startswith("APPEND"):
            self.names.lists.add(target.name)
        elif name.startswith("TUPLE"):
            target = _Value("", 1 + sum(item.parts for item in items))
            if target.parts > _LARGEST_TUPLE:
                raise self._refusal(f"has a tuple of more than {_LARGEST_TUPLE} parts")
        elif text > _TEXT_PART:
            target = _Value("", text // _TEXT_PART)
        if makes:
            stack.append(target)

    def _refusal(self, seen: str) -> CheckpointError:
        return CheckpointError(f"{self.path} {seen}", _READ_ONLY, _NOT_WEIGHTS)


def spelt_today(module: str, name: str) -> tuple[str, str]:
    """Return the module and name that PyTorch takes for those of Python 2 or 3."""
    return NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
