"""Frames that change their size midway are segmented as they are and shown in their shape."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from alignseg_infer import OptionError, Predictor
from alignseg_infer.arrays import Image, Size
from alignseg_infer.video.camera_source import CameraSource
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.process import segment_source
from alignseg_infer.video.render import fit_into
from alignseg_infer.video.sources import open_source
from tests.support.models import FakeBackend
from tests.support.video_clips import Clip, picture, probe, write_clip
from tests.video.test_video_camera import FakeCapture

SIZES = [(128, 192), (64, 128), (192, 128), (128, 192)]  # wide, wider, tall, and wide again
FRAMES = 5
RATE = Fraction(25)


def write_transport_stream(folder: Path) -> Path:
    """Join whole files of H.264, as recorders do."""
    parts = [
        write_clip(folder / f"{number}.ts", Clip(size=size, frames=FRAMES, rate=RATE)).read_bytes()
        for number, size in enumerate(SIZES)
    ]
    path = folder / "joined.ts"
    path.write_bytes(b"".join(parts))
    return path


def write_webm(folder: Path) -> Path:
    """Write VP8, each key frame of which has its own size, as video calls do."""
    path, begin = folder / "joined.webm", 0
    with av.open(str(path), "w") as target:
        copied: av.VideoStream | None = None
        for size in SIZES:
            clip = Clip("libvpx", size=size, frames=FRAMES, rate=RATE)
            with av.open(str(write_clip(folder / "part.webm", clip))) as part:
                copied = copied or target.add_stream_from_template(part.streams.video[0])
                for packet in part.demux(video=0):
                    if packet.dts is not None:
                        packet.pts, packet.dts = begin + (packet.pts or 0), begin + packet.dts
                        packet.stream = copied
                        target.mux(packet)
            begin += 40 * FRAMES
    return path


def write_folder(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir()
    for number in range(FRAMES * len(SIZES)):
        cv2.imwrite(str(images / f"{number}.png"), picture(SIZES[number // FRAMES], number))
    return images


def require_fitted(image: Image, expected: Image) -> None:
    """Check that `image` shows all of `expected`, in its shape, and black around it."""
    shown = fit_into(expected, SIZES[0])
    off = np.abs(image.astype(int) - shown.astype(int)).max(2)
    assert np.median(off) <= 3
    assert (off > 60).mean() < 0.03  # the bar, and edges


@pytest.mark.parametrize("write", [write_transport_stream, write_webm, write_folder])
def test_frames_of_other_sizes_keep_their_shape(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    seen: list[tuple[int, ...]] = []

    def view(image: Image) -> Image:
        seen.append(image.shape[:2])
        return 255 - image

    options = VideoOptions(opacity=0, crf=2, side_by_side=True, legend=True, smoothing=0.5)
    source, backend, output = open_source(write(tmp_path)), FakeBackend(), tmp_path / "out.mp4"
    summary = segment_source(Predictor(backend), source, output, options, view=view)
    sizes = [size for size in SIZES for _ in range(FRAMES)]
    assert seen == sizes
    assert [shape[2:] for shape in backend.batches] == sizes
    images = probe(output).images
    assert summary.frames == len(images) == len(sizes)
    for image, size in zip(images, sizes, strict=True):
        require_fitted(image[:128, :192], picture(size))
        require_fitted(image[:128, 192:384], picture(size))
        require_fitted(image[:128, 384:], 255 - picture(size))
    assert summary.notes[-1] == (
        "the frame size changed 3 times, first from 128x192 to 64x128 (height x width) at 0.20 s; "
        "each frame was segmented as it is, and fitted into the first size with black bars"
    )


def test_camera_that_comes_back_with_another_size_keeps_its_shape(tmp_path: Path) -> None:
    captures = iter([FakeCapture(5, (64, 96)), FakeCapture(10_000, (64, 48))])
    source = CameraSource("fake", lambda: next(captures), first_wait=0.01)
    output = tmp_path / "out.mp4"
    summary = segment_source(
        Predictor(FakeBackend()), source, output, VideoOptions(opacity=0, max_frames=9)
    )
    assert "the frame size changed from 64x96 to 64x48 (height x width)" in summary.notes[-1]
    images = probe(output).images
    assert not images[0][:, :20].max(2).min() < 30
    assert images[-1][:, :20].max() < 30  # a black bar


def test_view_may_not_change_its_size_unless_the_frame_does(tmp_path: Path) -> None:
    widths = iter([96, 96, 50, 96])

    def view(image: Image) -> Image:
        return np.zeros((image.shape[0], next(widths), 3), np.uint8)

    source = open_source(write_clip(tmp_path / "a.mp4", Clip()))
    with pytest.raises(OptionError, match=r"shape \(64, 50, 3\)"):
        segment_source(Predictor(FakeBackend()), source, tmp_path / "out.mp4", view=view)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((40, 20), slice(0, 20), slice(5, 15)),
        ((10, 20), slice(5, 15), slice(0, 20)),
        ((5, 10), slice(5, 15), slice(0, 20)),
        ((900, 1), slice(0, 20), slice(9, 10)),
        ((7, 7), slice(0, 20), slice(0, 20)),
    ],
)
def test_picture_is_as_large_as_fits(size: Size, rows: slice, columns: slice) -> None:
    fitted = fit_into(np.full((*size, 3), 200, np.uint8), (20, 20))
    expected = np.zeros((20, 20, 3), np.uint8)
    expected[rows, columns] = 200
    assert np.array_equal(fitted, expected)
