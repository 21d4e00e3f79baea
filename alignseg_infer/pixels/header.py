"""Reads from the header of an image file how large the picture is, and how it is turned.

OpenCV tells neither before it has decoded all pixels.
"""

import itertools
import re
import struct
from typing import NamedTuple

import numpy as np

from alignseg_infer.arrays import Image, Size
from alignseg_infer.pixels.containers import (
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    boxes,
    is_tiff,
    jpeg_segments,
    png_chunks,
    riff_chunks,
    tiff_directories,
)

JPEG_2000_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC, then SIZ, which every codestream begins with
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PNM_SPACE = rb"(?:\s|#[^\n]*\n)+"  # between width, height and the largest value
_TEXT_SIZES = (  # width and height that are written as text, in any order of the two
    re.compile(_PNM_SPACE.join([rb"P[1-6Ff]", rb"(?P<width>\d+)", rb"(?P<height>\d+)\s"])),
    re.compile(rb"P7\s(?=[^\0]*?^WIDTH\s+(?P<width>\d+))[^\0]*?^HEIGHT\s+(?P<height>\d+)", re.M),
    re.compile(rb"#\?[^\0]*?\n[-+]Y (?P<height>\d+) [-+]X (?P<width>\d+)\n"),  # Radiance
)
_TEXT_HEADER = 1 << 16  # number of bytes in which to search for these
_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274  # tags of TIFF 6.0
_SUBFILE = 254  # tag; bit 0 marks a smaller version of another page


class Orientation(NamedTuple):
    """How to turn a decoded picture, so that it is upright.

    Attributes:
        turns: Quarter turns anticlockwise, 0 to 3.
        mirrored: Whether to swap left and right after that.
    """

    turns: int = 0
    mirrored: bool = False

    def then(self, turns: int = 0, *, mirrored: bool = False) -> "Orientation":
        """Return this followed by quarter turns, or by swapping left and right after them."""
        turned = self.turns + (-turns if self.mirrored else turns)
        return Orientation(turned % 4, self.mirrored != mirrored)

    def apply(self, image: Image) -> Image:
        """Return `image` (H, W, ...) upright."""
        turned = np.rot90(image, self.turns)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)


AS_STORED = Orientation()
_EXIF = {
    2: Orientation(0, True),
    3: Orientation(2),
    4: Orientation(2, True),
    5: Orientation(3, True),
    6: Orientation(3),
    7: Orientation(1, True),
    8: Orientation(1),
}


def size_of(data: bytes) -> Size | None:
    """Return (height, width) of an encoded image as it is stored; None if its header has none.

    A file with several pictures, such as one with a thumbnail, has the size of the largest that
    would be decoded.

    Args:
        data: The whole file.
    """
    try:
        return _find_size(data)
    except struct.error:  # the file ends within its header
        return None


def _find_size(data: bytes) -> Size | None:
    if data.startswith(PNG_SIGNATURE):
        return _height_first(struct.unpack_from(">II", data, 16))
    if data.startswith(JPEG_SIGNATURE):
        frames = (place for marker, place in jpeg_segments(data) if marker in _JPEG_FRAMES)
        return next((struct.unpack_from(">HH", data, place + 5) for place in frames), None)
    if data.startswith(b"BM"):
        old = struct.unpack_from("<I", data, 14) == (12,)
        return _height_first(struct.unpack_from("<HH" if old else "<ii", data, 18))
    if data.startswith(b"GIF8"):
        return _height_first(struct.unpack_from("<HH", data, 6))
    if data.startswith(b"\x59\xa6\x6a\x95"):  # Sun raster
        return _height_first(struct.unpack_from(">II", data, 4))
    if data.startswith(b"RIFF"):
        return _size_of_webp(data)
    if is_tiff(data):
        tags = next(tiff_directories(data), {})
        return (tags[_HEIGHT], tags[_WIDTH]) if {_HEIGHT, _WIDTH} <= tags.keys() else None
    if is_avif(data):
        sizes = [
            struct.unpack_from(">II", box, 4)
            for name, box in _properties(data)[0]
            if name == b"ispe"
        ]
        return _height_first(max(sizes, key=lambda size: size[0] * size[1])) if sizes else None
    if codestream := jpeg_2000_codestream(data):
        width, height, left, top = struct.unpack_from(">IIII", codestream, 8)
        return height - top, width - left
    found = next(filter(None, (text.match(data[:_TEXT_HEADER]) for text in _TEXT_SIZES)), None)
    return (int(found["height"]), int(found["width"])) if found else None


def _height_first(width_and_height: tuple[int, ...]) -> Size:
    width, height = width_and_height
    return abs(height), abs(width)  # a BMP from top to bottom has a negative height


def _size_of_webp(data: bytes) -> Size | None:
    name, chunk = next(riff_chunks(data), (b"", b""))
    if name == b"VP8X":
        width, height = (int.from_bytes(chunk[at : at + 3], "little") + 1 for at in (4, 7))
        return height, width
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", chunk, 6)
        return height & 0x3FFF, width & 0x3FFF  # the other bits say how to scale it
    if name == b"VP8L":
        (bits,) = struct.unpack_from("<I", chunk, 1)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return None


def is_avif(data: bytes) -> bool:
    """Return whether the file is an AVIF."""
    return data[4:8] == b"ftyp" and b"av1C" in data


def jpeg_2000_codestream(data: bytes) -> bytes:
    """Return the codestream of a JPEG 2000 file; nothing for other files."""
    if data.startswith(JPEG_2000_CODESTREAM):
        return data
    if data[4:8] != b"jP  ":
        return b""
    return next((box for name, box in boxes(data) if name == b"jp2c"), b"")


def orientation_of(data: bytes) -> Orientation | None:
    """Return how to turn the picture of an AVIF or a WebP; None for formats that OpenCV turns.

    In an AVIF the boxes ``irot`` and ``imir`` decide, and not its EXIF data (ISO/IEC 23008-12),
    which OpenCV would apply instead. OpenCV before 5 does not turn WebP files.

    Args:
        data: The whole file.
    """
    if is_avif(data):
        return _orientation_of_avif(data)
    if data.startswith(b"RIFF"):
        exif = next((chunk for name, chunk in riff_chunks(data) if name == b"EXIF"), b"")
        exif = exif.removeprefix(b"Exif\0\0")
        tags = next(tiff_directories(exif), {}) if is_tiff(exif) else {}
        return _EXIF.get(tags.get(_ORIENTATION, 1), AS_STORED)
    return None


def _orientation_of_avif(data: bytes) -> Orientation:
    every, used = _properties(data)
    found = AS_STORED
    for name, box in (every[index] for index in used if index < len(every)):
        if name == b"irot" and box:
            found = found.then(box[0] & 3)
        elif name == b"imir" and box:  # 1 swaps left and right; 0 swaps top and bottom
            found = found.then(0 if box[0] & 1 else 2, mirrored=True)
    return found


def _properties(data: bytes) -> tuple[list[tuple[bytes, bytes]], list[int]]:
    """Return all item properties of an AVIF, and which of them belong to the primary item."""
    try:
        meta = dict(boxes(dict(boxes(data))[b"meta"][4:]))
        parts = dict(boxes(meta[b"iprp"]))
        pitm = meta[b"pitm"]
        primary = int.from_bytes(pitm[4 : 6 if pitm[0] == 0 else 8], "big")
        return list(boxes(parts[b"ipco"])), _associations(parts[b"ipma"], primary)
    except (KeyError, IndexError, struct.error):
        return [], []


def _associations(ipma: bytes, item: int) -> list[int]:
    """Return the positions of the properties of one item, in the order in which they apply."""
    id_size, wide = (2 if ipma[0] == 0 else 4), ipma[3] & 1
    (entries,) = struct.unpack_from(">I", ipma, 4)
    place = 8
    for _ in range(min(entries, len(ipma))):
        number = int.from_bytes(ipma[place : place + id_size], "big")
        count = ipma[place + id_size]
        place += id_size + 1
        letters = f">{count}{'H' if wide else 'B'}"
        if number == item:
            found = struct.unpack_from(letters, ipma, place)
            return [(index & (0x7FFF if wide else 0x7F)) - 1 for index in found]
        place += struct.calcsize(letters)
    return []


def colors_of_avif(data: bytes) -> tuple[int, int]:
    """Return primaries and transfer of an AVIF file by their numbers in ITU-T H.273.

    Returns:
        The numbers in the first ``colr`` box of type ``nclx`` (ISO/IEC 14496-12). They are 2,
        unspecified, if there is no such box or the file has another format.
    """
    every = _properties(data)[0] if is_avif(data) else []
    for name, box in every:
        if name == b"colr" and box[:4] == b"nclx" and len(box) >= 8:
            primaries, transfer = struct.unpack_from(">HH", box, 4)
            return primaries, transfer
    return 2, 2


def has_more_pictures(data: bytes) -> bool:
    """Return whether OpenCV leaves out pictures of an animated or multi-page file.

    Smaller versions of the first page of a TIFF do not count.

    Args:
        data: The whole file.
    """
    if data.startswith(PNG_SIGNATURE):
        before_pixels = itertools.takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(data))
        return int.from_bytes(dict(before_pixels).get(b"acTL", b"")[:4], "big") > 1
    if data.startswith(b"RIFF"):
        return sum(name == b"ANMF" for name, _ in riff_chunks(data)) > 1
    if data.startswith(b"GIF8"):
        return _gif_pictures(data) > 1
    if is_tiff(data):
        return sum(not tags.get(_SUBFILE, 0) & 1 for tags in tiff_directories(data)) > 1
    return data[4:8] == b"ftyp" and data[8:12] == b"avis"


def _gif_pictures(data: bytes) -> int:
    """Return the number of pictures in a GIF, but at most 2."""
    position, found = 13 + _gif_palette(data, 10), 0
    while found < 2 and position < len(data):
        if data[position] == 0x2C:  # a picture: descriptor, palette, code size, blocks
            found += 1
            position += 11 + _gif_palette(data, position + 9)
        elif data[position] == 0x21:  # an extension: label, blocks
            position += 2
        else:
            break
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    return found


def _gif_palette(data: bytes, flags: int) -> int:
    """Return the number of bytes of the palette that the byte at `flags` announces."""
    packed = data[flags] if flags < len(data) else 0
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0
