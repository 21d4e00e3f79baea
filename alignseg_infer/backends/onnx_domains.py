"""Which operator sets an ONNX file declares, read without its graph and without any package.

A file is a protobuf message ``ModelProto``: fields one after the other, each with a tag that holds
its number and kind. All but the declarations are stepped over, whatever their size.
"""

import os
from pathlib import Path
from typing import BinaryIO

from alignseg_infer.plugin_contract import DOMAIN

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields
_OPSET_IMPORT = 8  # of ModelProto
_NAME = 1  # of OperatorSetIdProto
_LONGEST_DECLARATION = 1 << 16
_VARINT_BITS = 64


def needs_plugins(path: Path) -> bool:
    """Whether the ONNX file at `path` has nodes that only TensorRT plugins compute.

    Of what is no ONNX file, or cannot be read, it says False; whoever loads it says what is wrong.
    """
    try:
        with path.open("rb") as file:
            return DOMAIN.encode() in _declared(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError):
        return False


def _declared(file: BinaryIO, end: int) -> set[bytes]:
    found: set[bytes] = set()
    while file.tell() < end:
        field, kind = divmod(_varint(file), 8)
        length = _varint(file) if kind == _BYTES else {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind == _VARINT:
            _varint(file)
        elif field == _OPSET_IMPORT and kind == _BYTES and length < _LONGEST_DECLARATION:
            found.add(_name_in(file.read(length)))
        elif length or kind == _BYTES:
            file.seek(length, os.SEEK_CUR)
        else:
            break  # no protobuf message
    return found


def _name_in(declaration: bytes) -> bytes:
    """The domain; ONNX writes it first, and leaves it out where it is its own."""
    if len(declaration) < 2 or declaration[0] != _NAME * 8 + _BYTES:
        return b""
    return declaration[2 : 2 + declaration[1]]


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
