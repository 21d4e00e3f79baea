"""Choosing images to calibrate with; `tests/export/test_calibration.py` tests what they are for."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer.datasets.image_sets import ImageFiles, choose_images
from alignseg_infer.errors import AlignSegError, DatasetError, ImageError, OptionError
from tests.support.image_files import FILES, HEIGHT, WIDTH, by_opencv, noise

PIXELS = HEIGHT * WIDTH


def write(path: Path, data: bytes = FILES["OpenCV .png"]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def chosen(folder: Path, **options: Any) -> list[str]:
    images = choose_images(folder, **options)
    assert isinstance(images, ImageFiles)
    assert len(list(images.read())) == len(images.paths)
    return [path.relative_to(folder).as_posix() for path in images.paths]


def test_linked_folders_are_searched(tmp_path: Path) -> None:
    write(tmp_path / "disk/deep/b.png")
    write(tmp_path / "here/a.png")
    (tmp_path / "here/more").symlink_to(tmp_path / "disk")
    (tmp_path / "here/again").symlink_to(tmp_path / "here")
    assert chosen(tmp_path / "here") == ["a.png", "more/deep/b.png"]


def test_macos_files_are_no_images(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "._a.png", b"\0\x05\x16\x07")
    assert chosen(tmp_path) == ["a.png"]


@pytest.mark.parametrize("name", ["a.avif", "a.jp2", "a.JFIF", "a.pnm", "a.pam", "a.webp"])
def test_formats_that_can_be_read_are_found(name: str, tmp_path: Path) -> None:
    kinds = {".avif": "AVIF", ".jp2": "JPEG 2000 file", ".jfif": "OpenCV .jpg", ".pnm": "PPM"}
    kinds |= {".pam": "OpenCV .pam", ".webp": "OpenCV .webp"}
    write(tmp_path / name, FILES[kinds[Path(name).suffix.lower()]])
    assert chosen(tmp_path) == [name]


@pytest.mark.parametrize("listed", [False, True])
def test_what_cannot_be_read_is_said(listed: bool, tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\npipe.png\n")
    with pytest.raises(DatasetError, match=r"b\.png does not exist") as error:
        choose_images(tmp_path / "list.txt" if listed else tmp_path)
    assert ("pipe.png is a pipe" in error.value.problem) == listed


def test_images_with_too_many_pixels(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    assert chosen(tmp_path, max_pixels=PIXELS) == ["a.png"]
    for source in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(DatasetError, match=rf"= {PIXELS} pixels"):
            choose_images(source, max_pixels=PIXELS - 1)
    with pytest.raises(OptionError, match="max_pixels='x'"):
        choose_images(tmp_path, max_pixels="x")  # type: ignore[arg-type]


def test_videos_with_too_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for _ in range(3):
        writer.write(noise())
    writer.release()
    assert len(list(choose_images(path, max_pixels=PIXELS).read())) == 3
    with pytest.raises(AlignSegError, match=r"a frame of .* has 40x72"):
        choose_images(path, max_pixels=PIXELS - 1)


def test_the_limit_holds_when_files_change(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    images = choose_images(tmp_path, max_pixels=PIXELS)
    write(path, by_opencv(".png", np.zeros((HEIGHT + 1, WIDTH, 3), np.uint8)))
    with pytest.raises(ImageError, match="41x72"):
        list(images.read())
