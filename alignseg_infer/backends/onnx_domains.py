"""Reads the operator sets that an ONNX file declares, without its graph and without any package.

The file is a protobuf message ``ModelProto``: a sequence of fields, each with a tag that holds its
number and kind. The reader skips every field but the declarations, whatever its size.
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
_MOST_FIELDS = 1 << 16  # of ModelProto, each entry of its metadata counted
_VARINT_BITS = 64


def needs_plugins(path: Path) -> bool:
    """Whether the ONNX file at `path` has nodes that only TensorRT plugins compute.

    The answer is False for a file that cannot be read or is not ONNX; loading it tells what is
    wrong.
    """
    return DOMAIN in read_opsets(path)


def read_opsets(path: Path) -> dict[str, int]:
    """Return the version of each operator set that the ONNX file at `path` declares, by domain.

    ONNX's own domain is the empty string. The result is empty for a file that cannot be read or is
    not ONNX.
    """
    try:
        with path.open("rb") as file:
            return _read_declarations(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError):
        return {}


def _read_declarations(file: BinaryIO, end: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for _ in range(_MOST_FIELDS):
        if file.tell() >= end:
            break
        field, kind = divmod(_read_varint(file), 8)
        if field == 0:
            break  # not a protobuf message: a file of zeros, say
        length = _read_varint(file) if kind == _BYTES else {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind == _VARINT:
            _read_varint(file)
        elif field == _OPSET_IMPORT and kind == _BYTES and length < _LONGEST_DECLARATION:
            domain, version = _parse_declaration(file.read(length))
            found[domain] = version
        elif length or kind == _BYTES:
            file.seek(length, os.SEEK_CUR)
        else:
            break  # not a protobuf message
    return found


def _parse_declaration(content: bytes) -> tuple[str, int]:
    """Return domain and version of one operator set; ONNX leaves out the domain of its own set."""
    domain, version = b"", 0
    fields = io.BytesIO(content)
    while fields.tell() < len(content):
        field, kind = divmod(_read_varint(fields), 8)
        if (field, kind) == (_NAME, _BYTES):
            domain = fields.read(_read_varint(fields))
        elif (field, kind) == (_VERSION, _VARINT):
            version = _read_varint(fields)
        else:
            break
    return "" if domain == b"ai.onnx" else domain.decode("utf-8", "replace"), version


def _read_varint(file: BinaryIO) -> int:
    """Read a number in groups of 7 bits, the lowest first; 0 at the end of the file."""
    number = 0
    for shift in range(0, _VARINT_BITS, 7):
        byte = file.read(1)
        if not byte:
            return 0
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    return number
