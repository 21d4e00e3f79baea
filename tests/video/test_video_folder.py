"""Folders of images as videos: which files are frames, and what is said of the others."""

from fractions import Fraction
from pathlib import Path

import pytest

from alignseg_infer import Predictor, VideoError, segment_video
from alignseg_infer.video.pictures import FolderSource
from tests.support.image_files import FILES, HEIGHT, WIDTH, by_opencv, noise
from tests.support.models import FakeBackend

RATE = Fraction(25)


def write(path: Path, data: bytes = FILES["OpenCV .png"]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_links_are_frames_and_hidden_files_are_not(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere.png")
    for name in ("10.png", "2.png"):
        write(tmp_path / "frames" / name)
    (tmp_path / "frames/3.png").symlink_to(elsewhere)
    for name in ("._2.png", ".hidden.png"):
        write(tmp_path / "frames" / name, b"\0\x05\x16\x07")
    source = FolderSource(tmp_path / "frames", RATE)
    assert source.facts.frames == len(list(source)) == 3
    assert (source.damaged, source.notes) == (0, [])


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("gone.png")
    write(tmp_path / "3.png", by_opencv(".png", noise(HEIGHT + 1)))
    source = FolderSource(tmp_path, RATE, max_pixels=HEIGHT * WIDTH)
    assert len(list(source)) == 1
    assert source.damaged == 2
    (note,) = source.notes
    assert "2.png does not exist" in note


def test_images_with_too_many_pixels(tmp_path: Path) -> None:
    write(tmp_path / "frames/1.png")
    low = Predictor(FakeBackend(), max_pixels=HEIGHT * WIDTH - 1)
    with pytest.raises(VideoError, match=r"none can be read; the first: .* 40x72") as error:
        segment_video(low, tmp_path / "frames", tmp_path / "out.mp4")
    assert error.value.fix.startswith(f"max_pixels={HEIGHT * WIDTH} ")
    enough = Predictor(FakeBackend(), max_pixels=HEIGHT * WIDTH)
    assert segment_video(enough, tmp_path / "frames", tmp_path / "out.mp4").frames == 1
