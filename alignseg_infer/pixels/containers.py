"""Finds the parts of image files, such as segments, chunks, boxes and tags, without decoding them.

Each function takes the whole file. A file that ends too early has the parts before its end.
"""

import struct
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
JPEG_SCAN = 0xDA
# Markers without a length: TEM, RST0 to RST7, and the zero after a stuffed FF.
_JPEG_BARE = {0x00, 0x01, *range(0xD0, 0xD8)}
_TIFF_KINDS = {b"II*\0": "<", b"MM\0*": ">"}
_BIG_TIFF_KINDS = {b"II+\0": "<", b"MM\0+": ">"}
_TIFF_LETTERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_TAGS, _MOST_DIRECTORIES = 4096, 64


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield marker and position of each segment of a JPEG, up to its first scan."""
    position = data.find(b"\xff", 2)  # decoders skip stray bytes between segments
    while 0 <= position <= len(data) - 4:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        yield marker, position
        if marker == JPEG_SCAN:
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position = data.find(b"\xff", position + 2 + (0 if marker in _JPEG_BARE else length))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the first 64 bytes of each chunk of a PNG."""
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        yield name, data[position + 8 : position + 8 + min(length, 64)]
        position += 12 + length


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each chunk of a WebP; nothing for other files."""
    position = 12 if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else len(data)
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        yield name, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and the content of each box (ISO/IEC 14496-12) of a file or another box."""
    position = 0
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        start = 8
        if length == 1 and position + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, position + 8)
            start = 16
        elif length == 0:  # up to the end
            length = len(data) - position
        if length < start:
            return
        yield name, data[position + start : position + length]
        position += length


def is_tiff(data: bytes) -> bool:
    """Return whether the file begins like a TIFF or a BigTIFF."""
    return data[:4] in _TIFF_KINDS or data[:4] in _BIG_TIFF_KINDS


def tiff_directories(data: bytes) -> Iterator[dict[int, int]]:
    """Yield, for each directory of a TIFF, the first value of each tag that holds numbers."""
    try:
        (start,) = _unpack(data, _layout(data)[0], _layout(data)[2])
        for _ in range(_MOST_DIRECTORIES):
            if not start:
                return
            tags, start = _read_directory(data, start)
            yield tags
    except struct.error:  # it ends within a directory
        return


def _layout(data: bytes) -> tuple[str, str, int]:
    """Return the letters of offset and count, and where the first offset is."""
    if order := _TIFF_KINDS.get(data[:4]):
        return f"{order}I", f"{order}H", 4
    order = _BIG_TIFF_KINDS[data[:4]]
    return f"{order}Q", f"{order}Q", 8


def _unpack(data: bytes, letters: str, place: int) -> tuple[int, ...]:
    if place > len(data):  # struct reports offsets of more than 63 bits as OverflowError
        raise struct.error
    return struct.unpack_from(letters, data, place)


def _read_directory(data: bytes, start: int) -> tuple[dict[int, int], int]:
    """Return the tags of one directory, and where the next one starts (0 for none)."""
    offset, count, _ = _layout(data)
    order, value_size = offset[0], struct.calcsize(offset)
    (number,) = _unpack(data, count, start)
    place = start + struct.calcsize(count)
    head = f"{order}HH{offset[1]}"
    entry_size = struct.calcsize(head) + value_size
    tags: dict[int, int] = {}
    for index in range(min(number, _MOST_TAGS)):
        at = place + index * entry_size
        tag, kind, values = _unpack(data, head, at)
        letter = _TIFF_LETTERS.get(kind)
        if letter is None or values == 0:
            continue
        where = at + struct.calcsize(head)
        if struct.calcsize(letter) * values > value_size:  # the values stand elsewhere
            (where,) = _unpack(data, offset, where)
        (tags[tag],) = _unpack(data, order + letter, where)
    end = place + number * entry_size
    (following,) = _unpack(data, offset, end) if end + value_size <= len(data) else (0,)
    return tags, following
