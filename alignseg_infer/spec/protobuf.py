"""Reads chosen fields of protobuf messages in a file and skips all others, without any package."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_VARINT, _FIXED64, _BYTES, _GROUP_START, _GROUP_END, _FIXED32 = range(6)  # kinds of fields
_LENGTHS = {_FIXED64: 8, _FIXED32: 4, _GROUP_START: 0, _GROUP_END: 0}
_TAG_MASK = (1 << 32) - 1  # protobuf ignores the bits above
_VARINT_BITS = 64


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        number: Its number in the message.
        value: The value of an integer; None for other kinds.
        end: Where it ends in the file; the file stands where its content begins.
    """

    number: int
    value: int | None
    end: int


def read_fields(file: BinaryIO, end: int) -> Iterator[Field]:
    """Yield the fields of the message between the present position of `file` and `end`.

    The content of a field can be read before the next one is asked for. Fields in groups, which
    nobody writes any more, count as fields of the message. Nothing follows the first field that is
    cut off or no protobuf.
    """
    while file.tell() < end:
        number, kind = divmod(_read_varint(file) & _TAG_MASK, 8)
        if number == 0 or (kind not in _LENGTHS and kind not in (_VARINT, _BYTES)):
            return
        value = _read_varint(file) if kind == _VARINT else None
        length = _read_varint(file) if kind == _BYTES else _LENGTHS.get(kind, 0)
        field = Field(number, value, file.tell() + length)
        if field.end > end:
            return
        yield field
        file.seek(field.end, os.SEEK_SET)


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
