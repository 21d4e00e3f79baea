"""Reading what ``torch.save`` wrote without running any code of the file or of training.

PyTorch's own reader (``weights_only=True``) makes tensors and plain containers, and refuses all
else. Training code also saves its options, its schedulers or the whole network, so such objects are
replaced by stand-ins: PyTorch's reader gets an empty class of ours under the name that the file
gives (``torch.serialization.safe_globals``). Nothing of that name is imported or called, whatever
it is; a stand-in keeps what the object held, and does nothing. A file that names what no training
code saves, such as ``os.system`` or ``builtins.eval``, was made to run code, and is refused.
"""

import pickle
import re
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alignseg_infer.backend import is_about_memory, too_large
from alignseg_infer.errors import CheckpointError
from alignseg_infer.models.identify import TRUSTED_COPY, advice_for

_MOST_CLASSES = 500  # that one file may name; a whole network names about 20
_HARMLESS_MODULES = {"argparse", "collections", "datetime", "decimal", "enum", "fractions"}
_HARMLESS_MODULES |= {"pathlib", "typing", "uuid"}
_HARMLESS_NAMES = {
    *("types.SimpleNamespace", "functools.partial", "copyreg._reconstructor"),
    *("builtins.bool", "builtins.bytes", "builtins.dict", "builtins.float", "builtins.frozenset"),
    *("builtins.int", "builtins.list", "builtins.object", "builtins.range", "builtins.slice"),
    *("builtins.str", "builtins.tuple"),
}

_UNKNOWN_NAME = re.compile(r"GLOBAL (\S+) was not an allowed global")
_BLOCKED_NAME = re.compile(r"GLOBAL (\S+) whose module \S+ is blocked")
_USED_AS = re.compile(r"Can only (SETITEM|append|extend).* but got <class '([^']+)'>")
_OPERAND = re.compile(r"Unsupported operand (\d+)")
_NEWER_OPERANDS = {*pickle.BINBYTES, *pickle.SHORT_BINBYTES, *range(0x8C, 0x99)}  # protocol 3 to 5
_SAVE_AGAIN = "where it was trained: torch.save(model.state_dict(), PATH)"
_lock = threading.Lock()  # safe_globals changes a table of the process


class StandIn:
    """An object of a class that is not known here, with what it held.

    Attributes:
        content: Its attributes, or what it would restore itself from.
    """

    content: object = None

    def __new__(cls, *_: object, **__: object) -> Any:
        """Return an object, whatever its class would have been made of."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, content: object) -> None:
        self.content = content


class _Items(StandIn):
    """Stands for a kind of dict. PyTorch's reader puts items in a plain one only."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


class _Elements(StandIn):
    """Stands for a kind of list."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return []


class Unpickled(NamedTuple):
    """The content of a pickle, and the names of the classes that stand-ins replaced."""

    content: object
    replaced: tuple[str, ...]


def read_pickle(path: Path) -> Unpickled:
    """Read a file by ``torch.save``.

    Raises:
        CheckpointError: It would run code, is damaged, or cannot be read in this way.
        OutOfMemoryError: It does not fit into memory.
    """
    stand_ins: dict[str, type[StandIn]] = {}
    for _ in range(_MOST_CLASSES):
        try:
            return Unpickled(_load(path, stand_ins), tuple(sorted(stand_ins)))
        except pickle.UnpicklingError as error:
            if not _learn(path, str(error), stand_ins):
                raise _refusal(path, str(error)) from error
        except Exception as error:  # a damaged pickle calls what is allowed with anything
            if is_about_memory(error):
                raise too_large(path, "PyTorch", error) from error
            raise damage_error(path, str(error).split("\n")[0].split(". ")[0]) from error
    raise _refusal(path, f"it names more than {_MOST_CLASSES} classes")


def damage_error(path: Path, reason: str) -> CheckpointError:
    """Return the error for a checkpoint that is cut off or damaged."""
    return CheckpointError(
        f"{path} is truncated or damaged: {reason}",
        "a complete checkpoint",
        "download or copy it again, and compare its size or SHA-256 with the original",
    )


def _load(path: Path, stand_ins: dict[str, type[StandIn]]) -> object:
    allowed: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
    with _lock, torch.serialization.safe_globals(allowed), path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)  # a path: by its ending


def _learn(path: Path, message: str, stand_ins: dict[str, type[StandIn]]) -> bool:
    """Add the stand-ins that the refusal asks for; return whether there are any new ones.

    Raises:
        CheckpointError: The file names what runs code.
    """
    if used := _USED_AS.search(message):
        name = used[2].partition(":")[2]
        kind = _Items if used[1] == "SETITEM" else _Elements
        if name not in stand_ins or issubclass(stand_ins[name], kind):
            return False
        stand_ins[name] = _class_for(name, kind)
        return True
    named = _UNKNOWN_NAME.search(message) or _BLOCKED_NAME.search(message)
    if named is None:
        return False
    name = named[1] if "." in named[1] else f"builtins.{named[1]}"  # as PyTorch shortens it
    names = {name} if stand_ins else {name, *_names_in(path)}
    _require_harmless(path, names)
    new = names - stand_ins.keys()
    stand_ins |= {name: _class_for(name, StandIn) for name in new}
    return bool(new)


def _class_for(name: str, kind: type[StandIn]) -> type[StandIn]:
    """Return a class of its own for each name, since PyTorch's messages show only the class."""
    return type(f"stand-in:{name}", (kind,), {"__module__": "builtins"})


def _names_in(path: Path) -> list[str]:
    """Return all names at once where PyTorch lists them: in its zip archives."""
    try:
        with path.open("rb") as file:
            return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # an older format or protocol: names become known one by one
        return []


def _require_harmless(path: Path, names: set[str]) -> None:
    """Check that the file names only classes of training code, and containers of Python.

    Raises:
        CheckpointError: It names a function of Python itself that training code does not save.
    """
    code = sorted(name for name in names if not _is_harmless(name))
    if code:
        raise CheckpointError(
            f"{path} is a pickle that would run code while loading: it calls {', '.join(code)}",
            "tensors in plain containers, or objects that training code saves",
            "do not load it in any other way; ask its author for a .safetensors file",
        )


def _is_harmless(name: str) -> bool:
    module = name.partition(".")[0]
    is_pythons = module in sys.stdlib_module_names or module == "__builtin__"
    return not is_pythons or module in _HARMLESS_MODULES or name in _HARMLESS_NAMES


def _refusal(path: Path, message: str) -> CheckpointError:
    """Return the error for what PyTorch's reader refuses and no stand-in can replace."""
    if operand := _OPERAND.search(message):
        again = f"if you trust its author, save it again: {advice_for(TRUSTED_COPY, path)}"
        return CheckpointError(
            f"{path} was saved with a pickle protocol that is not read safely (operand "
            f"{operand[1]})",
            "protocol 2, which torch.save uses",
            again if int(operand[1]) in _NEWER_OPERANDS else _SAVE_AGAIN,
        )
    lines = message.splitlines()
    if "weights only" not in message.lower() and "weights_only" not in message.lower():
        return damage_error(path, lines[0])
    if "persistent_load" in message:
        seen = "a whole network with its source code, as PyTorch before 1.6 saved it"
    else:
        seen = next((line for line in lines if line.startswith(("Can only", "Trying"))), lines[-1])
    return CheckpointError(
        f"{path} holds what cannot be read without running code: {seen}",
        "tensors in plain containers",
        _SAVE_AGAIN,
    )
