"""Reading what ``torch.save`` wrote without running any code of the file or of training.

PyTorch's own reader (``weights_only=True``) makes tensors and plain containers, and refuses all
else. Training code also saves its options, its schedulers or the whole network, so such objects are
replaced by stand-ins: PyTorch's reader gets an empty class of ours under the name that the file
gives (``torch.serialization.safe_globals``). No class or function of that name is called, whatever
it is; a stand-in keeps what the object held, and does nothing. A file that names what no training
code saves, such as ``os.system`` or ``builtins.eval``, was made to run code elsewhere, and is
refused.
"""

import io
import pickle
import re
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alignseg_infer.backend import is_about_memory, too_large
from alignseg_infer.errors import CheckpointError
from alignseg_infer.models.identify import TRUSTED_COPY, advice_for
from alignseg_infer.models.pickle_scan import Names, scan_names, spelt_today
from alignseg_infer.text import first_few

# What runs code, and what no training code saves. All else of Python is replaced like the rest.
_CODE_MODULES = {"os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "shutil", "pty"}
_CODE_MODULES |= {"socket", "_socket", "http.client", "urllib.request", "ftplib", "smtplib"}
_CODE_MODULES |= {"webbrowser", "importlib", "importlib.util", "imp", "_imp", "runpy", "pkgutil"}
_CODE_MODULES |= {"ctypes", "_ctypes", "code", "codeop", "pdb", "bdb", "timeit", "doctest", "pydoc"}
_CODE_MODULES |= {"profile", "cProfile", "pickle", "_pickle", "marshal", "shelve", "zipimport"}
_CODE_NAMES = {
    *("builtins.eval", "builtins.exec", "builtins.execfile", "builtins.compile", "builtins.open"),
    *("builtins.__import__", "builtins.breakpoint", "builtins.input", "builtins.globals"),
    *("builtins.locals", "builtins.vars", "builtins.delattr", "builtins.setattr"),
    *("io.open", "io.open_code", "_io.open", "_io.open_code", "codecs.open", "types.FunctionType"),
    *("types.CodeType", "platform.popen", "asyncio.run"),
}
_GETATTR = "builtins.getattr"  # how protocol 2 writes nested classes and bound methods

_OPERAND = re.compile(r"Unsupported operand (\d+)")
_NEWER_OPERANDS = {*pickle.BINBYTES, *pickle.SHORT_BINBYTES, *range(0x8C, 0x99)}  # protocol 3 to 5
_SAVE_AGAIN = "where it was trained: torch.save(model.state_dict(), PATH)"
_lock = threading.Lock()  # safe_globals changes a table of the process


class StandIn:
    """An object of a class that is not known here, with what it held.

    Attributes:
        content: Its attributes, or what it would be made of or restore itself from.
    """

    content: object

    def __new__(cls, *content: object, **_: object) -> Any:
        """Return an object, whatever its class would have been made of."""
        made = super().__new__(cls)
        made.content = content  # a network that torch.compile wrapped is an argument
        return made

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


class _Attribute(StandIn):
    """Stands for ``getattr``, whose result is a class where it is called in its turn."""

    made: type[StandIn]

    def __new__(cls, *_: object, **__: object) -> Any:
        return cls.made


class Unpickled(NamedTuple):
    """The content of a pickle, and the names of the classes that stand-ins replaced."""

    content: object
    replaced: tuple[str, ...]


def read_pickle(path: Path) -> Unpickled:
    """Read a file by ``torch.save``.

    Raises:
        CheckpointError: It was made to run code, is damaged, or cannot be read in this way.
        OutOfMemoryError: It does not fit into memory.
    """
    names = scan_names(path)
    _require_harmless(path, names)
    _require_whole(path, names)
    replaced: list[str] = []
    try:
        with _lock:
            replaced = sorted(_unknown_to_pytorch(names))
            return Unpickled(_load(path, _stand_ins(replaced, names)), tuple(replaced))
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error), replaced) from error
    except Exception as error:  # a damaged pickle calls what is allowed with anything
        if is_about_memory(error):
            raise too_large(path, "PyTorch", error) from error
        if replaced and isinstance(error, TypeError | AttributeError | ValueError):
            raise _needs_code(path, replaced) from error
        raise damage_error(path, str(error).split("\n")[0].split(". ")[0]) from error


def damage_error(path: Path, reason: str) -> CheckpointError:
    """Return the error for a checkpoint that is cut off or damaged."""
    return CheckpointError(
        f"{path} is truncated or damaged: {reason}",
        "a complete checkpoint",
        "download or copy it again, and compare its size or SHA-256 with the original",
    )


def _load(path: Path, stand_ins: dict[str, type[StandIn]]) -> object:
    allowed: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
    with torch.serialization.safe_globals(allowed), path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)  # a path: by its ending


def _unknown_to_pytorch(names: Names) -> list[str]:
    """Return the names that PyTorch's reader refuses: it lists those of an archive."""
    lines = "".join(f"c{module}\n{name}\n" for module, name in names.written)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("names/data.pkl", b"\x80\x02" + lines.encode() + b"N.")
        file.writestr("names/version", "3\n")
    archive.seek(0)
    return torch.serialization.get_unsafe_globals_in_checkpoint(archive)


def _stand_ins(replaced: list[str], names: Names) -> dict[str, type[StandIn]]:
    classes = {name: _class_for(name, names) for name in replaced}
    if _GETATTR in classes:
        made = classes[_GETATTR]
        classes |= {
            _GETATTR: type("StandIn", (_Attribute,), {"made": made}),
            f"{_GETATTR}()": made,  # PyTorch's reader calls only what it was given
        }
    return classes


def _class_for(name: str, names: Names) -> type[StandIn]:
    """Return a class of its own for each name."""
    kind = _Items if name in names.dicts else _Elements if name in names.lists else StandIn
    return type("StandIn", (kind,), {})


def _require_harmless(path: Path, names: Names) -> None:
    """Check that the file names nothing of Python that only attacks use.

    Raises:
        CheckpointError: It names some.
    """
    pairs = [spelt_today(*name) for name in names.written]
    code = sorted(
        f"{module}.{name}"
        for module, name in pairs
        if module in _CODE_MODULES or f"{module}.{name}" in _CODE_NAMES
    )
    if code:
        raise CheckpointError(
            f"{path} is a pickle that can run code while it is loaded: it names {first_few(code)}",
            "tensors in plain containers, or objects that training code saves",
            "do not load it in any other way, unless you made it; weights alone are safe: "
            "torch.save(model.state_dict(), PATH)",
        )


def _refusal(path: Path, message: str, replaced: list[str]) -> CheckpointError:
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
    if replaced and "persistent_load" not in message:
        return _needs_code(path, replaced)
    if "persistent_load" in message:
        seen = "a whole network with its source code, as PyTorch before 1.6 saved it"
    else:
        seen = next((line for line in lines if line.startswith(("Can only", "Trying"))), lines[-1])
    return CheckpointError(
        f"{path} holds what cannot be read without running code: {seen}",
        "tensors in plain containers",
        _SAVE_AGAIN,
    )


def _needs_code(path: Path, replaced: list[str]) -> CheckpointError:
    """Return the error for objects that stand-ins cannot replace."""
    return CheckpointError(
        f"{path} cannot be read without the code of {first_few(replaced)}",
        "tensors in plain containers, and objects that training code saves",
        _SAVE_AGAIN,
    )


def _require_whole(path: Path, names: Names) -> None:
    """Check that the tensors are not those of one process of many.

    Raises:
        CheckpointError: They are.
    """
    if any(name == "DTensor" for _, name in names.written):
        raise CheckpointError(
            f"{path} holds parts of tensors (DTensor), as one process of several saved them",
            "whole tensors",
            "where it was trained: import torch.distributed.checkpoint.state_dict as d; "
            "whole = d.StateDictOptions(full_state_dict=True); "
            "torch.save(d.get_model_state_dict(model, options=whole), PATH)",
        )
