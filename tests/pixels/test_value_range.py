"""Which value of a file is white, and that it becomes 255."""

import os
import struct
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alignseg_infer import ImageError
from alignseg_infer.pixels.images import read_image
from alignseg_infer.pixels.value_range import ValueRange, value_range_of
from tests.support.video_clips import usual_priority

RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))  # black at the left, white at the right
EXPECTED = np.round(RAMP * 255)
FLOAT = 3  # TIFF's SampleFormat


def values(maximum: int) -> NDArray[np.uint16]:
    return np.asarray(np.round(RAMP * maximum), np.uint16)


def pnm(kind: int, maximum: int) -> bytes:
    """A PNM file: 2 gray as text, 5 gray, 6 colour."""
    numbers = values(maximum)
    if kind == 6:
        numbers = np.repeat(numbers[..., np.newaxis], 3, axis=2)
    head = b"P%d # a comment\n# another one\n64\t48\n%d\n" % (kind, maximum)
    if kind == 2:
        return head + b" ".join(b"%d" % number for number in numbers.ravel()) + b"\n"
    return head + numbers.astype("u1" if maximum < 256 else ">u2").tobytes()


def pam(maximum: int) -> bytes:
    head = b"P7\nWIDTH 64\nHEIGHT 48\nDEPTH 1\nMAXVAL %d\nTUPLTYPE GRAYSCALE\nENDHDR\n" % maximum
    return head + values(maximum).astype("u1" if maximum < 256 else ">u2").tobytes()


def tiff(
    bits: int, *, order: str = "<", white: int = 1, sample: int = 1, big: bool = False
) -> bytes:
    """An uncompressed gray TIFF; `white` is its photometric interpretation, 0 for white."""
    if sample == FLOAT:
        data = RAMP.astype(order + "f4").tobytes()
    elif bits in (8, 16):
        data = values((1 << bits) - 1).astype(f"{order}u{bits // 8}").tobytes()
    else:
        numbers = values((1 << bits) - 1)[..., np.newaxis] >> np.arange(bits - 1, -1, -1)
        data = np.packbits((numbers & 1).astype(np.uint8).reshape(48, -1), axis=1).tobytes()
    start = 16 if big else 8
    tags = {256: 64, 257: 48, 258: bits, 259: 1, 262: white, 273: start, 277: 1, 278: 48}
    tags |= {279: len(data), 339: sample}
    number, offset = ("Q", "Q") if big else ("H", "I")
    directory = struct.pack(order + number, len(tags))
    for tag, value in tags.items():
        directory += struct.pack(order + "HH" + offset + offset, tag, 16 if big else 4, 1, value)
    directory += struct.pack(order + offset, 0)
    magic = b"II" if order == "<" else b"MM"
    if big:
        head = magic + struct.pack(order + "HHHQ", 43, 8, 0, start + len(data))
    else:
        head = magic + struct.pack(order + "HI", 42, start + len(data))
    return head + data + directory


def encoded_by_ffmpeg(codec: str, pixels: str, bits: int) -> bytes:
    frame = av.VideoFrame(64, 48, pixels)
    for plane, level in zip(frame.planes, (RAMP, RAMP * 0 + 0.5, RAMP * 0 + 0.5), strict=False):
        rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
        top = (1 << bits) - 1
        rows[:, : plane.width] = np.round(level[: plane.height, : plane.width] * top)
        plane.update(rows.tobytes())
    frame.pts, frame.color_range = 0, 2  # full range
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 64, 48, pixels
    context.time_base = 1
    return b"".join(map(bytes, [*context.encode(frame), *context.encode()]))


FILES = {
    **{f"PNM P{kind} to {top}": pnm(kind, top) for kind in (2, 5, 6) for top in (1, 15, 100, 255)},
    **{f"PNM P{kind} to {top}": pnm(kind, top) for kind in (2, 5, 6) for top in (300, 1023, 65535)},
    **{f"PAM to {top}": pam(top) for top in (15, 255, 4095, 65535)},
    **{f"TIFF of {bits} bits": tiff(bits) for bits in (8, 10, 12, 14, 16)},
    **{f"TIFF of {bits} bits, big-endian": tiff(bits, order=">") for bits in (12, 16)},
    **{f"BigTIFF of {bits} bits": tiff(bits, big=True) for bits in (8, 16)},
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_white_is_white(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    found = read_image(path)[..., 0].astype(int)
    levels = len(np.unique(found))
    assert np.abs(found - EXPECTED).max() <= max(1, 128 / (levels - 1))
    assert (found[0, 0], found[0, -1]) == (0, 255)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("order", "<>")
def test_zero_may_be_white(bits: int, order: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    path.write_bytes(tiff(bits, order=order, white=0))
    found = read_image(path)[..., 0].astype(int)
    assert np.abs(found - EXPECTED[:, ::-1]).max() <= 1


@pytest.mark.parametrize("bits", [10, 12])
def test_jpeg_2000(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "image.jp2"
    path.write_bytes(encoded_by_ffmpeg("jpeg2000", f"gray{bits}le", bits))
    assert value_range_of(path.read_bytes()) == ValueRange((1 << bits) - 1)
    assert np.abs(read_image(path)[..., 0] - EXPECTED).max() < 12  # of the compression


def test_avif_of_10_bits(tmp_path: Path) -> None:
    lines = [line for line in cv2.getBuildInformation().splitlines() if "AVIF:" in line]
    if not lines or "NO" in lines[0]:
        pytest.skip(f"this build of OpenCV does not read AVIF: {lines}")
    path = tmp_path / "image.avif"
    with usual_priority(), av.open(str(path), "w", format="avif") as container:
        stream: Any = container.add_stream("libsvtav1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        frame = av.VideoFrame(64, 64, "yuv420p10le")
        for plane in frame.planes:
            plane.update(np.full(plane.buffer_size // 2, 512, "<u2").tobytes())
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert value_range_of(path.read_bytes()) == ValueRange(1023)
    assert 120 < read_image(path).mean() < 140


@pytest.mark.parametrize("data", [tiff(32, sample=FLOAT)], ids=["float TIFF"])
def test_what_no_header_tells_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in caught.value.problem


@given(st.sampled_from([pnm(5, 300), pam(1023), tiff(12), tiff(16, big=True)]), st.data())
def test_damaged_headers_end_in_a_value_or_none(data: bytes, draw: st.DataObject) -> None:
    length = draw.draw(st.integers(0, min(len(data), 400)))
    place = draw.draw(st.integers(0, max(len(data) - 1, 0)))
    changed = bytearray(data[:length] if draw.draw(st.booleans()) else data)
    if place < len(changed):
        changed[place] = draw.draw(st.integers(0, 255))
    found = value_range_of(bytes(changed))
    assert found is None or 1 <= found.maximum <= 65535
