"""How large a picture is and how it is turned, read from headers of all formats."""

import io
import struct

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageOps

from alignseg_infer.pixels.header import (
    AS_STORED,
    Orientation,
    colors_of_avif,
    has_more_pictures,
    orientation_of,
    size_of,
)
from alignseg_infer.pixels.images import load_image
from tests.support.image_files import FILES, HEIGHT, WIDTH, by_opencv, by_pillow, noise

ORIENTATION = 0x0112  # tag of EXIF
EXIF_FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]


@pytest.mark.parametrize("name", FILES)
def test_size(name: str) -> None:
    expected = (41, 73) if "odd" in name else (HEIGHT, WIDTH)
    assert size_of(FILES[name]) == expected
    if name not in ("PPM as text", "BMP of OS/2"):  # whose pixels are no such file's
        pixels = cv2.imdecode(np.frombuffer(FILES[name], np.uint8), cv2.IMREAD_ANYDEPTH)
        assert pixels is not None
        assert pixels.shape[:2] == expected


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_ends_in_its_header(name: str) -> None:
    """Headers that lie or end too early have no size, or some size, and never raise."""
    random = np.random.default_rng(1)
    for end in range(0, 120):
        broken = bytearray(FILES[name][:end])
        size_of(bytes(broken))
        if end > 12:
            broken[random.integers(4, end)] ^= 0xFF
        for read in (size_of, orientation_of, has_more_pictures, colors_of_avif):
            read(bytes(broken))


@given(data=st.binary(max_size=200), start=st.sampled_from([data[:16] for data in FILES.values()]))
def test_any_bytes(data: bytes, start: bytes) -> None:
    for read in (size_of, orientation_of, has_more_pictures, colors_of_avif):
        read(start + data)


def test_markers_without_length_hide_no_frame() -> None:
    """A decoder steps over a restart marker; whoever takes it for a segment misses the frame."""
    large, small = by_opencv(".jpg", noise()), by_opencv(".jpg", noise(16, 16))
    hidden = b"\xff\xd8\xff\xd0" + large[2:]
    assert size_of(hidden + small[2:]) == (HEIGHT, WIDTH)
    length = struct.pack(">H", len(large))
    hidden = b"\xff\xd8\xff\xd0\xff\x01" + length + large[2:] + small[2:]
    assert size_of(hidden) == (HEIGHT, WIDTH)


def test_orientations_of_exif_by_hand() -> None:
    """Pillow's names for what undoes each orientation."""
    pixels = noise()
    picture = PIL.Image.fromarray(pixels)
    transpose = PIL.Image.Transpose
    for orientation, method in {
        Orientation(0, True): transpose.FLIP_LEFT_RIGHT,
        Orientation(2, False): transpose.ROTATE_180,
        Orientation(2, True): transpose.FLIP_TOP_BOTTOM,
        Orientation(3, True): transpose.TRANSPOSE,
        Orientation(3, False): transpose.ROTATE_270,
        Orientation(1, True): transpose.TRANSVERSE,
        Orientation(1, False): transpose.ROTATE_90,
    }.items():
        np.testing.assert_array_equal(orientation.apply(pixels), picture.transpose(method))


@pytest.mark.parametrize("first", range(8))
@pytest.mark.parametrize("second", range(8))
def test_one_after_the_other(first: int, second: int) -> None:
    one, two = (Orientation(number % 4, number > 3) for number in (first, second))
    both = one.then(two.turns).then(mirrored=two.mirrored)
    np.testing.assert_array_equal(both.apply(noise()), two.apply(one.apply(noise())))


def written_with_orientation(kind: str, orientation: int) -> bytes:
    """A file whose four quarters have different colours."""
    stored = np.zeros((48, 80, 3), np.uint8)
    stored[:24, :40], stored[:24, 40:], stored[24:, :40] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    PIL.Image.fromarray(stored).save(buffer, kind, exif=exif, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", EXIF_FORMATS)
def test_files_are_upright(kind: str, orientation: int) -> None:
    data = written_with_orientation(kind, orientation)
    expected = np.asarray(ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))).convert("RGB"))
    found = load_image(data)[..., ::-1]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 6


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def avif_meta(
    properties: list[bytes], used: list[int], *, version: int = 0, wide: int = 0
) -> bytes:
    """The boxes of an AVIF that say how the item 2 is turned, after another item's properties."""
    item = ">H" if version == 0 else ">I"
    index = ">B" if wide == 0 else ">H"
    entries = [(1, [1]), (2, used)]
    ipma = bytes([version, 0, 0, wide]) + struct.pack(">I", len(entries))
    for number, indices in entries:
        ipma += struct.pack(item, number) + bytes([len(indices)])
        ipma += b"".join(struct.pack(index, one) for one in indices)
    pitm = bytes([0, 0, 0, 0]) + struct.pack(">H", 2)
    iprp = box(b"iprp", box(b"ipco", b"".join(properties)) + box(b"ipma", ipma))
    meta = box(b"meta", bytes(4) + box(b"pitm", pitm) + iprp)
    return box(b"ftyp", b"avif" + bytes(4) + b"mif1") + meta + b"av1C"


def turned(angle: int) -> bytes:
    return box(b"irot", bytes([angle]))


def mirrored(axis: int) -> bytes:
    return box(b"imir", bytes([axis]))


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("wide", [0, 1])
def test_the_primary_item_of_an_avif_decides(version: int, wide: int) -> None:
    essential = 0x8000 if wide else 0x80
    properties = [turned(1), turned(3), mirrored(1), mirrored(0)]
    for used, expected in (
        ([2], Orientation(3)),
        ([2 | essential], Orientation(3)),
        ([2, 3], Orientation(3, True)),
        ([3, 2], AS_STORED.then(mirrored=True).then(3)),
        ([4], Orientation(2, True)),  # top and bottom
        ([], AS_STORED),
        ([9], AS_STORED),
    ):
        data = avif_meta(properties, used, version=version, wide=wide)
        assert orientation_of(data) == expected


def test_colors_of_avif() -> None:
    nclx = box(b"colr", b"nclx" + struct.pack(">HHHB", 9, 16, 9, 128))
    assert colors_of_avif(avif_meta([nclx], [1])) == (9, 16)
    assert colors_of_avif(avif_meta([box(b"colr", b"prof")], [1])) == (2, 2)


def animation(kind: str, frames: int) -> bytes:
    first, *others = (PIL.Image.fromarray(noise() // (number + 1)) for number in range(frames))
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=others)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_several_pictures(kind: str) -> None:
    assert has_more_pictures(animation(kind, 3))
    assert not has_more_pictures(animation(kind, 1))


@pytest.mark.parametrize("name", FILES)
def test_one_picture(name: str) -> None:
    assert not has_more_pictures(FILES[name])


def test_smaller_versions_of_a_page_do_not_count() -> None:
    """Satellite images have overviews."""
    tiff = by_pillow("TIFF", tiffinfo={254: 0})
    buffer = io.BytesIO()
    first, small = PIL.Image.open(io.BytesIO(tiff)), PIL.Image.fromarray(noise(20, 36))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(buffer, "TIFF", save_all=True, append_images=[small])
    assert not has_more_pictures(buffer.getvalue())
