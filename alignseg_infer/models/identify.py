"""Recognising what a file is by its structure, whatever it is called. Needs no package.

Strong signs come before weak ones: a header whose length fits the file, the members of an archive
and the fields of a message say more than one byte.
"""

import codecs
import json
import os
import re
import shlex
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from alignseg_infer.backports import StrEnum
from alignseg_infer.errors import ModelFileError
from alignseg_infer.spec.protobuf import read_fields
from alignseg_infer.text import first_few

SAFETENSORS_HEADER = 8  # bytes of the length that precedes the JSON header
_LONGEST_JSON = 100_000_000  # the format's own limit
_TORCH_MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."  # as pickled
_OLD_PICKLE = re.compile(  # of protocol 0 or 1: a dict, a list, or an object of a class
    rb"\(dp0\n|\(lp0\n|\}q\x00|\]q\x00|c\w+(\.\w+)*\n\w+\n[p(q]"
)
_MEMBERS_READ = 1000  # of a tar archive, whose list is spread over the file
_IR_VERSION, _GRAPH = 1, 7  # fields of ModelProto
_MOST_FIELDS = 1 << 16


class FileKind(StrEnum):
    """What reads a file. ``pytorch`` is what ``torch.save`` writes; text may be anything's."""

    PYTORCH = "pytorch"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    ENGINE = "engine"
    TEXT = "text"
    OTHER = "other"
    UNKNOWN = "unknown"


CHECKPOINT_KINDS = (FileKind.PYTORCH, FileKind.SAFETENSORS)


class Detected(NamedTuple):
    """What a file is, and what to do where a checkpoint was expected."""

    what: str
    fix: str
    kind: FileKind = FileKind.OTHER


_CONVERT = 'python -c "import sys, numpy, pickle, torch; torch.save({}, sys.argv[2])" FILE NEW.pth'
_AS_TENSORS = (  # arrays as tensors, at all depths
    "(f := lambda x: {k: f(v) for k, v in x.items()} if isinstance(x, dict) else "
    "torch.as_tensor(x) if isinstance(x, numpy.ndarray) and x.dtype.kind in 'biuf' else x)"
)
_FOR_PREDICT = "name the checkpoint first, then the images"
_PYTORCH = Detected("a checkpoint written by torch.save", "name it .pth", FileKind.PYTORCH)
_SAFETENSORS = Detected("a safetensors file", "name it .safetensors", FileKind.SAFETENSORS)
_ONNX = Detected(
    "an ONNX model",
    "let its name end in .onnx, and use it directly: alignseg predict MODEL.onnx IMAGE",
    FileKind.ONNX,
)
_ENGINE = Detected(
    "an engine built by TensorRT",
    "let its name end in .engine: alignseg predict MODEL.engine IMAGE",
    FileKind.ENGINE,
)
_TORCHSCRIPT = Detected(
    "a TorchScript archive (torch.jit.save)",
    "save its weights, then use those: "
    + _CONVERT.format("torch.jit.load(sys.argv[1], map_location='cpu').state_dict()"),
)
_EXPORTED = Detected(
    "a program of torch.export",
    "save its weights, then use those: "
    + _CONVERT.format("dict(torch.export.load(sys.argv[1]).state_dict)"),
)
_NPZ = Detected(
    "NumPy arrays (.npz)",
    "save them as tensors, then use those: "
    + _CONVERT.format("{k: torch.from_numpy(v) for k, v in numpy.load(sys.argv[1]).items()}"),
)
_PICKLE = Detected(
    "a pickle that torch.save did not write",
    "if you trust its author (loading a pickle can run code), save its content with torch.save, "
    "where its training code can be imported if it holds objects of it: "
    + _CONVERT.format(_AS_TENSORS + "(pickle.load(open(sys.argv[1], 'rb')))"),
)
_WEB_PAGE = Detected(
    "a web page, probably a download page or an error saved under this name",
    "download the file itself; for large files on a cloud drive, use the drive's client",
    FileKind.TEXT,
)
_OPENVINO = Detected(
    "an OpenVINO model",
    "use the .onnx that it was made from: alignseg predict MODEL.onnx IMAGE --runtime openvino",
)
TRUSTED_COPY = Detected(
    "a checkpoint that is not read without running code",
    _CONVERT.format("torch.load(sys.argv[1], map_location='cpu', weights_only=False)"),
)
_OLD_TAR = Detected(
    "a checkpoint that PyTorch before 0.1.10 wrote (a tar archive)",
    f"if you trust its author (loading it can run code), save it again: {TRUSTED_COPY.fix}",
)


_BEGINNINGS = (
    (
        b"version https://git-lfs",
        Detected("a Git LFS pointer, not the file itself", "git lfs pull", FileKind.TEXT),
    ),
    (b"\x1f\x8b\x08", Detected("a gzip archive", "unpack it first: gunzip FILE, or tar xzf FILE")),
    (b"BZh", Detected("a bzip2 archive", "unpack it first: bunzip2 FILE, or tar xjf FILE")),
    (b"\xfd7zXZ\0", Detected("an xz archive", "unpack it first: unxz FILE, or tar xJf FILE")),
    (b"\x28\xb5\x2f\xfd", Detected("a Zstandard archive", "unpack it first: unzstd FILE")),
    (b"Rar!\x1a\x07", Detected("a RAR archive", "unpack it first")),
    (b"7z\xbc\xaf\x27\x1c", Detected("a 7-zip archive", "unpack it first")),
    (b"\x89HDF\r\n", Detected("an HDF5 file (Keras?)", "use a PyTorch checkpoint")),
    (b"\x89PNG\r\n", Detected("a PNG image", _FOR_PREDICT)),
    (b"\xff\xd8\xff", Detected("a JPEG image", _FOR_PREDICT)),
    (b"\x93NUMPY", Detected("a single NumPy array (.npy)", "use the file with all weights")),
    (b"ftrt", _ENGINE),
    (b"ptrt", _ENGINE),
    (b"vtrt", _ENGINE),
)

_NETWORKS = (
    (("decode_head.",), "an MMSegmentation network"),
    (("classifier.", "backbone."), "a torchvision segmentation network"),
    (("encoder.", "decoder."), "an encoder-decoder of another library"),
    (("fc.", "layer1."), "an image classification ResNet: a backbone without a decoder"),
    (("layer1.", "layer4."), "a ResNet without AlignSeg's decoder"),
    (("model.",), "a network inside a training wrapper"),
)


def identify(path: Path) -> Detected:
    """Return what the file `path` is.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(512)
        if _is_safetensors(file, start, size):
            return _SAFETENSORS
        if start.startswith(b"PK\x03\x04"):
            return _identify_zip(file)
        if start[257:262] == b"ustar":
            return _identify_tar(file)
        if found := next((kind for magic, kind in _BEGINNINGS if start.startswith(magic)), None):
            return found
        if start[4:8] == b"TFL3":
            return Detected("a TensorFlow Lite model", "use a PyTorch checkpoint")
        if start[:1] == b"\x80" and start[1:2] <= b"\x05":
            return _PYTORCH if _TORCH_MAGIC in start[:64] else _PICKLE
        if _OLD_PICKLE.match(start) and _ends_pickle(file, size):
            return _PICKLE
        return _ONNX if _is_onnx(file, size) else _identify_text(start)


def identify_readable(path: Path) -> Detected | None:
    """Return what `path` is; None if it is no regular file, empty, or cannot be read."""
    try:
        status = path.stat()
        return identify(path) if stat.S_ISREG(status.st_mode) and status.st_size else None
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None


def advice_for(found: Detected, path: Path) -> str:
    """Return what to do with the file `path`, which is what `found` says."""
    return re.sub(r"\bFILE\b", lambda _: shlex.quote(str(path)), found.fix)


def require_named_as_it_is(path: Path) -> None:
    """Check that an ``.onnx`` file or an engine is not a known file of another kind.

    A file that cannot be read or is of no known kind passes; loading it tells what is wrong.

    Raises:
        ModelFileError: It is of another kind.
    """
    is_onnx = path.suffix.lower() == ".onnx"
    passing = {FileKind.UNKNOWN, FileKind.ONNX if is_onnx else FileKind.ENGINE}
    passing |= set() if is_onnx else {FileKind.TEXT}
    if (found := identify_readable(path)) is None or found.kind in passing:
        return
    raise ModelFileError(
        f"{path} cannot be loaded: it looks like {found.what}",
        "an ONNX model" if is_onnx else "an engine built by TensorRT",
        advice_for(found, path),
    )


def detect_network(keys: Iterable[str]) -> str:
    """Return what the network with these state dict keys looks like."""
    names = list(keys)
    for prefixes, what in _NETWORKS:
        if all(any(name.startswith(prefix) for name in names) for prefix in prefixes):
            return what
    return "another network"


def _is_safetensors(file: BinaryIO, start: bytes, size: int) -> bool:
    """Whether a length that fits the file and a JSON object of this length begin it."""
    length = int.from_bytes(start[:SAFETENSORS_HEADER], "little")
    fits = 2 <= length <= min(size - SAFETENSORS_HEADER, _LONGEST_JSON)
    if not fits or start[SAFETENSORS_HEADER : SAFETENSORS_HEADER + 1] != b"{":
        return False
    file.seek(SAFETENSORS_HEADER)
    try:
        return isinstance(json.loads(file.read(length)), dict)
    except (ValueError, RecursionError):
        return False


def _ends_pickle(file: BinaryIO, size: int) -> bool:
    file.seek(size - 1)
    return file.read() == b"."


def _is_onnx(file: BinaryIO, size: int) -> bool:
    """Whether the file is a protobuf message to its end, with a version and a graph."""
    file.seek(0)
    version, has_graph, end = 0, False, 0
    for field in islice(read_fields(file, size), _MOST_FIELDS):
        version = field.value or 0 if field.number == _IR_VERSION else version
        has_graph |= field.number == _GRAPH and field.value is None
        end = field.end
    return 0 < version < 1000 and has_graph and end == size


def _identify_zip(file: BinaryIO) -> Detected:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return _PYTORCH  # PyTorch's reader says what is damaged
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" in inner:
        return _TORCHSCRIPT if "constants.pkl" in inner else _PYTORCH
    if {
        "archive_format",
        "models/model.json",
    } & inner or "serialized_exported_program.json" in names:
        return _EXPORTED
    if names and all(name.endswith(".npy") for name in names):
        return _NPZ
    if any(name.endswith(".weights.h5") for name in names):
        return Detected("a Keras model", "use a PyTorch checkpoint")
    return _archive("a zip archive", names, "python -m zipfile -e FILE FOLDER")


def _identify_tar(file: BinaryIO) -> Detected:
    file.seek(0)
    names = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            names = [member.name for member in islice(archive, _MEMBERS_READ)]
    except (tarfile.TarError, ValueError, OSError, EOFError):
        pass  # cut off; what was listed so far does not matter
    if {"storages", "tensors", "pickle"} <= set(names):
        return _OLD_TAR
    return _archive("a tar archive", names, "tar xf FILE")


def _archive(what: str, names: list[str], command: str) -> Detected:
    return Detected(
        f"{what} of {first_few(names, 3)}" if names else f"{what} without files",
        f"unpack it, and use the checkpoint in it: {command}",
    )


def _identify_text(start: bytes) -> Detected:
    """Return what a file is that has no sign but its first characters."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<net " in text and text.startswith((b"<?xml", b"<net ")):
        return _OPENVINO
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--")):
        return _WEB_PAGE
    if start[SAFETENSORS_HEADER : SAFETENSORS_HEADER + 1] == b"{" and b"\0" in start[:8]:
        return _SAFETENSORS  # cut off
    if seen := _decoded(start):
        return Detected(f"text: {seen[:40]!r}", "read its first lines: head FILE", FileKind.TEXT)
    return Detected(
        f"a file of an unknown kind, which begins with {start[:8]!r}",
        "check where it comes from; an interrupted copy can also leave zeros",
        FileKind.UNKNOWN,
    )


def _decoded(start: bytes) -> str:
    """Return the beginning of a file as text; empty if it is none."""
    try:  # the last character may be cut; the final flag says that more may follow
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return ""
    return text if all(one.isprintable() or one in "\t\r\n" for one in text) else ""
