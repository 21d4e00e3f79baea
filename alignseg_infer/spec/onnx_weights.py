"""The files beside an ONNX file that hold weights of it, found and checked without any package.

ONNX Runtime before 1.24.1 reads them wherever the model says, outside its folder too, and 1.23 is
the newest for Python 3.10. So this package checks the paths itself, before a runtime reads a file.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from alignseg_infer.errors import ModelFileError
from alignseg_infer.files.reading import require_file, sha256_of
from alignseg_infer.spec.protobuf import read_fields

_ENTRY = "StringStringEntryProto"
_MESSAGES: dict[str, dict[int, str]] = {  # message: number of a field: the message in it
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: _ENTRY},
}
_KEY, _VALUE = 1, 2  # of StringStringEntryProto
_DEEPEST = 101  # protobuf itself takes 100 messages in one another, in that of the whole file
# ONNX Runtime's mark of weights that are in its own memory, at the address in "offset".
_MEMORY = "_ORT_MEM_ADDR_"
_LONGEST = 1 << 16  # bytes of a key or a path; systems open no longer path
_MOST_FIELDS = 500_000  # the demo model has 7139


def require_weights_beside(model: Path) -> tuple[Path, ...]:
    """Return all files with weights of the ONNX file `model`, which are there, in its folder.

    There are none for a file that is no ONNX; loading it tells what is wrong.

    Raises:
        ModelFileError: One lies outside the folder or does not exist.
    """
    return tuple(weights_file(model, name) for name in sorted(set(read_locations(model))))


def sha256_with_weights(model: Path) -> str:
    """Return the SHA-256 of the ONNX file `model`, followed by all files with weights of it.

    For ``a.onnx`` and ``a.onnx.data`` it is what ``cat a.onnx a.onnx.data | sha256sum`` prints.

    Raises:
        ModelFileError: A file of weights lies outside the folder or does not exist.
    """
    return sha256_of(model, *require_weights_beside(model))


def weights_file(model: Path, location: str) -> Path:
    """Return the path of a file that `model` names as one with its weights.

    Raises:
        ModelFileError: It lies outside the folder of `model`, if links are followed, or does not
            exist.
    """
    file = model.parent / location
    folder = os.path.realpath(model.parent)  # unlike Path.resolve, without an error for a loop
    no_path = "\0" in location or _MEMORY in location
    if no_path or not Path(os.path.realpath(file)).is_relative_to(folder):
        raise ModelFileError(
            f"{model} names {location!r} as a file with its weights, which is outside its folder",
            f"a file in {model.parent}",
            "copy that file beside the model, and export the model again; take models only from "
            "people whom you trust",
        )
    if os.path.isdir(file):
        raise ModelFileError(
            f"{model} names {location!r} as a file with its weights, which is a directory",
            f"the name of a file in {model.parent}",
            "copy the model again with its weights, or export it again",
        )
    try:
        require_file(file, f"the weights of {model}", ModelFileError)
    except ModelFileError as error:
        problem = f"{model} has weights in another file: {error.problem}"
        raise ModelFileError(problem, error.expected, error.fix) from error
    return file


def read_locations(model: Path) -> Iterator[str]:
    """Yield the path of each file that the ONNX file `model` takes weights from, as it is written.

    Paths count from the folder of `model`. There are none for a file that cannot be read.

    Raises:
        ModelFileError: The file has more fields than any model.
    """
    if not os.path.isfile(model):  # a pipe would be waited for
        return
    try:
        with model.open("rb") as file:
            left = iter(range(_MOST_FIELDS))
            size = os.fstat(file.fileno()).st_size
            yield from _find_locations(file, size, "ModelProto", _DEEPEST, left)
    except OSError:
        return
    if next(left, None) is None:
        raise ModelFileError(
            f"{model} cannot be loaded: it has more than {_MOST_FIELDS:,} fields",
            "an ONNX model",
            "copy it again, or export it again: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )


def _find_locations(
    file: BinaryIO, end: int, message: str, depth: int, left: Iterator[int]
) -> Iterator[str]:
    """Yield the locations in one message; read at most as many fields as `left` yields."""
    if message == _ENTRY:
        yield from _read_location(file, end)
        return
    for field, _ in zip(read_fields(file, end), left, strict=False):
        inner = _MESSAGES[message].get(field.number)
        if inner and depth > 1:
            yield from _find_locations(file, field.end, inner, depth - 1, left)


def _read_location(file: BinaryIO, end: int) -> Iterator[str]:
    """Yield the value of an entry whose key is ``location``."""
    texts = {
        field.number: file.read(min(field.end - file.tell(), _LONGEST))
        for field in read_fields(file, end)
        if field.number in (_KEY, _VALUE)
    }
    if texts.get(_KEY) == b"location":
        yield os.fsdecode(texts.get(_VALUE, b""))
