"""Animated GIF, PNG, WebP and AVIF files are read with all their frames and times."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import PIL.features
import PIL.Image
import pytest

from alignseg_infer import ImageError, MissingDependencyError, VideoError
from alignseg_infer.video import animation_source
from alignseg_infer.video.animation_source import is_animated_webp
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.sources import open_source
from tests.support.video_clips import picture, probe
from tests.video.test_video import run_video

SIZE = (64, 96)
DURATIONS = [100, 50, 200, 100, 100, 100, 30, 100, 100, 500]  # ms
TIMES = [Fraction(sum(DURATIONS[:number]), 1000) for number in range(len(DURATIONS))]
AVIF = pytest.mark.skipif(not PIL.features.check("avif"), reason="Pillow cannot write AVIF here")


def write_animation(path: Path, durations: list[int] = DURATIONS) -> Path:
    images = [
        PIL.Image.fromarray(picture(SIZE, number)[..., ::-1]) for number in range(len(durations))
    ]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, lossless=True)
    return path


@pytest.mark.parametrize(
    "name", ["a.gif", "a.png", "a.webp", pytest.param("a.avif", marks=AVIF), "no_ending"]
)
def test_all_frames_are_read(name: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / name.replace("no_ending", "a.webp"))
    path = path.rename(tmp_path / name)  # the content says what it is
    summary = run_video(path, tmp_path / "out.mp4", VideoOptions(opacity=0, crf=2))
    after = probe(tmp_path / "out.mp4")
    assert (summary.frames, summary.damaged, summary.notes) == (10, 0, ())
    assert after.times == TIMES
    assert after.end == Fraction(sum(DURATIONS), 1000)
    for number, image in enumerate(after.images):
        assert np.median(np.abs(image.astype(int) - picture(SIZE, number).astype(int))) <= 3
        bar = image[31:33].min(2).mean(0)
        assert abs(int(bar.argmax()) - (4 * number + 1)) <= 2


def test_long_webp_is_read_in_parts(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.webp", [40] * 70)
    source = open_source(path)
    frames = list(source)
    assert [frame.time for frame in frames] == [number * Fraction(1, 25) for number in range(70)]
    for number in (0, 31, 32, 69):
        assert np.array_equal(frames[number].image, picture(SIZE, number))
    source.stop()
    assert not list(source)


def test_old_opencv_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_animation(tmp_path / "a.webp")
    monkeypatch.delattr(cv2, "imreadanimation")
    for installed in ("opencv-python", "opencv-python-headless"):  # not its twin beside it
        monkeypatch.setattr(animation_source, "installed_of", lambda shared, one=installed: [one])
        with pytest.raises(MissingDependencyError, match=rf"pip install -U {installed}, or"):
            open_source(path)


def test_damaged_webp_is_an_error(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.webp")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(VideoError, match="no frame"):
        open_source(path)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF\x00\x00\x00\x00WEBPVP8X", b"RIFF\x00\x00\x00\x00WEBPVP8 " * 9]
)
def test_other_files_are_not_taken_for_animations(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(content)
    assert not is_animated_webp(path)
    assert not is_animated_webp(tmp_path)
    PIL.Image.fromarray(picture(SIZE)).save(tmp_path / "still.webp")
    assert not is_animated_webp(tmp_path / "still.webp")
    assert len(list(open_source(tmp_path / "still.webp"))) == 1


def test_a_webp_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.webp")
    height, width = open_source(path).facts.size
    open_source(path, max_pixels=height * width).close()
    with pytest.raises(ImageError, match="pixels"):
        open_source(path, max_pixels=height * width - 1)
