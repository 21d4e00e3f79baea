"""Finds out which value is white in an image file from its header, since OpenCV does not say.

OpenCV returns the values of PNM, JPEG 2000 and AVIF files as they are stored: with 10 bits, white
is 1023. It shifts the values of TIFF files with 10, 12 or 14 bits up to 16 bits. TIFF files with
more than 8 bits in which 0 means white come out inverted (OpenCV 4.12 and 5.0).
"""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image
from alignseg_infer.pixels.containers import PNG_SIGNATURE, is_tiff, tiff_directories
from alignseg_infer.pixels.header import is_avif, jpeg_2000_codestream

_DEPTH = 42  # byte of a JPEG 2000 codestream that holds the bit depth of its first component
_PNM_SPACE = rb"(?:\s|#[^\n]*\n)+"  # between width, height and the largest value
_PNM_HEADER = re.compile(_PNM_SPACE.join([rb"P[2356]", rb"\d+", rb"\d+", rb"(\d+)\s"]))
_PAM_MAXIMUM = re.compile(rb"^MAXVAL\s+(\d+)\s*$", re.MULTILINE)
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
    if is_tiff(data):
        return _range_of_tiff(data)
    if re.match(rb"P[2-7]\s", data):
        return _range_of_pnm(data[:_HEADER])
    if is_avif(data):
        return _range_of_bits(max(_av1_depths(data)))
    depth = jpeg_2000_codestream(data)[_DEPTH : _DEPTH + 1]
    return _range_of_bits((depth[0] & 0x7F) + 1) if depth else None


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
    tags = next(tiff_directories(data), None)
    if tags is None:  # it ends within its first directory
        return None
    bits = tags.get(_BITS_PER_SAMPLE, 1)
    if bits <= 8:
        return ValueRange(255)  # OpenCV scales and inverts these
    if bits > 16:
        return None
    unused = 16 - bits  # low bits, which stay 0
    return ValueRange(65535 >> unused << unused, tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE)


def scale_to_8_bits(image: NDArray[np.uint8] | NDArray[np.uint16], values: ValueRange) -> Image:
    """Scale values so that ``values.maximum`` becomes 255, rounding to the nearest."""
    numbers = np.minimum(image, values.maximum).astype(np.uint32)
    scaled = ((numbers * 255 + values.maximum // 2) // values.maximum).astype(np.uint8)
    return 255 - scaled if values.inverted else scaled
