"""Finds out which value is white in an image file from its header, since OpenCV does not say.

OpenCV returns the values of PNM, JPEG 2000 and AVIF files as they are stored: with 10 bits, white
is 1023. It shifts the values of TIFF files with 10, 12 or 14 bits up to 16 bits. TIFF files with
more than 8 bits in which 0 means white come out inverted (OpenCV 4.12 and 5.0).
"""

import re
import struct
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_2000_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC, then SIZ, which every codestream begins with
_SIZ_COMPONENTS = 38  # bytes from SIZ's length to the bit depth of its first component
_PNM_SPACE = rb"(?:\s|#[^\n]*\n)+"  # between width, height and the largest value
_PNM_HEADER = re.compile(_PNM_SPACE.join([rb"P[2356]", rb"\d+", rb"\d+", rb"(\d+)\s"]))
_PAM_MAXIMUM = re.compile(rb"^MAXVAL\s+(\d+)\s*$", re.MULTILINE)
_TIFF_KINDS = {b"II*\0": "<", b"MM\0*": ">"}
_BIG_TIFF_KINDS = {b"II+\0": "<", b"MM\0+": ">"}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF 6.0
_MIN_IS_WHITE = 0
_HEADER = 1 << 16  # number of bytes to search for the header of a PNM or PAM file


class ValueRange(NamedTuple):
    """How to read the values that OpenCV decodes.

    Attributes:
        maximum: The value of the brightest pixel that the file can hold, 1 to 65535.
        inverted: Whether `maximum` means black.
    """

    maximum: int
    inverted: bool = False


def value_range_of(data: bytes) -> ValueRange | None:
    """Return the range of values of an encoded image; None if its header does not say.

    Args:
        data: The whole file.
    """
    if data.startswith(PNG_SIGNATURE) and len(data) > 24:
        return ValueRange(65535 if data[24] == 16 else 255)  # OpenCV scales fewer bits to 8
    if data[:4] in _TIFF_KINDS or data[:4] in _BIG_TIFF_KINDS:
        return _range_of_tiff(data)
    if re.match(rb"P[2-7]\s", data):
        return _range_of_pnm(data[:_HEADER])
    if data[4:8] == b"ftyp" and b"av1C" in data:
        return _range_of_bits(max(_av1_depths(data)))
    start = data.find(JPEG_2000_CODESTREAM)
    if start >= 0 and (start == 0 or data[4:8] == b"jP  "):
        depth = data[start + 4 + _SIZ_COMPONENTS : start + 5 + _SIZ_COMPONENTS]
        return _range_of_bits((depth[0] & 0x7F) + 1) if depth else None
    return None


def colors_of_avif(data: bytes) -> tuple[int, int]:
    """Return primaries and transfer of an AVIF file by their numbers in ITU-T H.273.

    Returns:
        The numbers in the first ``colr`` box of type ``nclx`` (ISO/IEC 14496-12). They are 2,
        unspecified, if there is no such box or the file has another format.
    """
    place = data.find(b"colrnclx") if data[4:8] == b"ftyp" else -1
    if place < 0 or len(data) < place + 12:
        return 2, 2
    primaries, transfer = struct.unpack_from(">HH", data, place + 8)
    return primaries, transfer


def _range_of_bits(bits: int) -> ValueRange | None:
    return ValueRange((1 << bits) - 1) if 1 <= bits <= 16 else None


def _range_of_pnm(header: bytes) -> ValueRange | None:
    if header.startswith(b"P4"):  # one bit, which OpenCV scales
        return ValueRange(255)
    found = _PAM_MAXIMUM.search(header) if header.startswith(b"P7") else _PNM_HEADER.match(header)
    maximum = int(found[1]) if found else 0
    if header[:2] in (b"P2", b"P3") and maximum < 256:
        maximum = 255 if maximum else 0  # OpenCV scales what is written as text to 8 bits
    return ValueRange(maximum) if 1 <= maximum <= 65535 else None


def _av1_depths(data: bytes) -> list[int]:
    """Return the bit depth of each AV1 configuration in the file (ISO/IEC 23000-22, `av1C`).

    A file may hold several images: the picture, its transparency, a thumbnail.
    """
    flags = [data[found.end() + 2] for found in re.finditer(b"av1C", data[:-7])]
    return [8 if not flag & 0x40 else 12 if flag & 0x20 else 10 for flag in flags] or [8]


def _range_of_tiff(data: bytes) -> ValueRange | None:
    try:
        tags = _tiff_tags(data)
    except struct.error:  # it ends within its first directory
        return None
    bits = tags.get(_BITS_PER_SAMPLE, 1)
    if bits <= 8:
        return ValueRange(255)  # OpenCV scales and inverts these
    if bits > 16:
        return None
    unused = 16 - bits  # low bits, which stay 0
    return ValueRange(65535 >> unused << unused, tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Return the first value of each tag of the first directory that holds a number."""
    order = _TIFF_KINDS.get(data[:4])
    if order:
        offset, count, first, entry = "I", "H", 4, "HHI"
    else:
        order, offset, count, first, entry = _BIG_TIFF_KINDS[data[:4]], "Q", "Q", 8, "HHQ"
    (start,) = struct.unpack_from(order + offset, data, first)
    (number,) = struct.unpack_from(order + count, data, start)
    place = start + struct.calcsize(order + count)
    value_size = struct.calcsize(order + offset)
    entry_size = struct.calcsize(order + entry) + value_size
    tags = {}
    for index in range(min(number, 4096)):
        at = place + index * entry_size
        tag, kind, values = struct.unpack_from(order + entry, data, at)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is None or values == 0:
            continue
        where = at + struct.calcsize(order + entry)
        if struct.calcsize(letter) * values > value_size:  # the values stand elsewhere
            (where,) = struct.unpack_from(order + offset, data, where)
        (tags[tag],) = struct.unpack_from(order + letter, data, where)
    return tags
