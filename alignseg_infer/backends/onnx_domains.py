"""Which operator sets an ONNX file declares, read without its graph and without any package.

A file is a protobuf message ``ModelProto``: fields one after the other, each with a tag that holds
its number and kind. All but the declarations are stepped over, whatever their size.
"""

import io
import os
from pathlib import Path
from typing import BinaryIO

from alignseg_infer.spec.plugin_contract import DOMAIN

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields
_OPSET_IMPORT = 8  # of ModelProto
_NAME, _VERSION = 1, 2  # of OperatorSetIdProto
_LONGEST_DECLARATION = 1 << 16
_VARINT_BITS = 64


def needs_plugins(path: Path) -> bool:
    """Whether the ONNX file at `path` has nodes that only TensorRT plugins compute.

    Of what is no ONNX file, or cannot be read, it says False; whoever loads it says what is wrong.
    """
    return DOMAIN in declared_operators(path)


def declared_operators(path: Path) -> dict[str, int]:
    """The versions of the operator sets that the ONNX file at `path` declares, by domain.

    ONNX's own domain is the empty one. Of what is no ONNX file, or cannot be read, nothing.
    """
    try:
        with path.open("rb") as file:
            return _declared(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError):
        return {}


def _declared(file: BinaryIO, end: int) -> dict[str, int]:
    found: dict[str, int] = {}
    while file.tell() < end:
        field, kind = divmod(_varint(file), 8)
        length = _varint(file) if kind == _BYTES else {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind == _VARINT:
            _varint(file)
        elif field == _OPSET_IMPORT and kind == _BYTES and length < _LONGEST_DECLARATION:
            domain, version = _declaration(file.read(length))
            found[domain] = version
        elif length or kind == _BYTES:
            file.seek(length, os.SEEK_CUR)
        else:
            break  # no protobuf message
    return found


def _declaration(content: bytes) -> tuple[str, int]:
    """Domain and version of one operator set; ONNX leaves the domain out where it is its own."""
    domain, version = b"", 0
    fields = io.BytesIO(content)
    while fields.tell() < len(content):
        field, kind = divmod(_varint(fields), 8)
        if (field, kind) == (_NAME, _BYTES):
            domain = fields.read(_varint(fields))
        elif (field, kind) == (_VERSION, _VARINT):
            version = _varint(fields)
        else:
            break
    return "" if domain == b"ai.onnx" else domain.decode("utf-8", "replace"), version


def _varint(file: BinaryIO) -> int:
    """A number in groups of 7 bits, the lowest first; 0 where the file ends."""
    number = 0
    for shift in range(0, _VARINT_BITS, 7):
        byte = file.read(1)
        if not byte:
            return 0
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    return number
