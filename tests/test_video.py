"""Videos through `segment_video`: what comes out against what went in."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from alignseg_infer import AlignSegError, OptionError, Predictor, SizeError, VideoError
from alignseg_infer.images import Image
from alignseg_infer.video.file_source import FileSource
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.process import VideoSummary, segment_video
from alignseg_infer.video.sources import Frame, open_source
from conftest import FakeBackend
from video_clips import NTSC, Clip, Probe, picture, probe, write_clip

LOSSY = ("mpeg4", "mjpeg", "libvpx-vp9")
PLAIN = VideoOptions(overlay=0.0, crf=2)  # the frames themselves
CLIPS = {
    "h264.mp4": Clip(),
    "h265.mp4": Clip("libx265"),
    "vp9.webm": Clip("libvpx-vp9"),
    "mpeg4.avi": Clip("mpeg4"),
    "h264.mkv": Clip(),
    "h264.ts": Clip(),
    "h264.mov": Clip(rate=Fraction(24000, 1001)),
    "25fps.mp4": Clip(rate=Fraction(25)),
    "variable.mp4": Clip(times=(0, 40, 95, 180, 200, 500)),
    "late.mp4": Clip(times=(1000, 1040, 1080, 1120, 1160, 1200)),
    "odd.mkv": Clip("ffv1", (65, 97), pixels="bgr0"),
    "one.mp4": Clip(frames=1),
    "ten_bits.mp4": Clip("libx265", pixels="yuv420p10le"),
    "ten_bits.mkv": Clip(pixels="yuv420p10le", matrix=(9, 1)),
    "444.mp4": Clip(pixels="yuv444p"),
    "422.mkv": Clip("ffv1", pixels="yuv422p"),
    "full_range.mp4": Clip(matrix=(1, 2)),
    "bt709.mp4": Clip(matrix=(1, 1)),
    "bt601.mp4": Clip(matrix=(6, 1)),
    "mjpeg.avi": Clip("mjpeg", pixels="yuvj420p"),
}


def segmented(
    source: Path, output: Path, options: VideoOptions = PLAIN, backend: FakeBackend | None = None
) -> VideoSummary:
    return segment_video(Predictor(backend or FakeBackend()), open_source(source), output, options)


def require_shown(images: list[Image], clip: Clip, tolerance: float) -> None:
    """Each picture has its corners' colours and its own number."""
    height, width = clip.size
    for number, image in enumerate(images):
        expected = picture(clip.size, number).astype(float)
        for rows in (slice(4, height // 2 - 6), slice(height // 2 + 6, height - 4)):
            for columns in (slice(4, width // 2 - 4), slice(width // 2 + 4, width - 4)):
                seen = image[rows, columns].mean((0, 1))
                assert np.abs(seen - expected[rows, columns].mean((0, 1))).max() < tolerance
        bar = image[height // 2 - 1 : height // 2 + 1, :width].min(2).mean(0)
        assert abs(int(bar.argmax()) - (4 * number + 1)) <= 2


@pytest.mark.parametrize("name", CLIPS)
def test_frames_times_and_colours_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    clip = CLIPS[name]
    source = write_clip(tmp_path / name, clip)
    summary = segmented(source, tmp_path / "out.mp4")
    before, after = probe(source), probe(tmp_path / "out.mp4")

    assert summary.frames == len(after.images) == len(before.images) == clip.frames
    start = before.times[0] if name.endswith(".ts") or name.startswith("late") else 0
    assert after.times == [time - start for time in before.times]
    assert after.duration == after.end == before.end - start
    if clip.times is None and "mkv" not in name and "webm" not in name:
        assert after.rate == clip.rate
    assert after.tags == (1, 1, 1, 1)
    assert after.codec == ("h264", "yuv420p")
    assert (summary.damaged, summary.dropped, summary.notes) == (0, 0, ())
    height, width = clip.size
    assert after.images[0].shape[:2] == (height + height % 2, width + width % 2)
    require_shown(after.images, clip, 6 if clip.codec in LOSSY else 3.5)
