"""Images to calibrate with: are there enough, and do they differ?"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from alignseg_infer.arrays import Image
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export.int8.from_onnx import int8_from_onnx
from alignseg_infer.export.int8.image_variety import FEWEST, count_different, describe_lack
from alignseg_infer.export.int8.options import Int8Options


def write(folder: Path, images: list[Image]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
    return folder


def noisy_copies(count: int) -> list[Image]:
    """What a fixed camera sees of an empty street: noise, and a lamp that flickers."""
    image = Street(0).scene(size=(64, 128)).image.astype(np.int16)
    random = np.random.default_rng(0)
    noise = [random.integers(-6, 7, image.shape) + random.integers(-2, 3) for _ in range(count)]
    return [np.clip(image + one, 0, 255).astype(np.uint8) for one in noise]


def test_enough_streets_are_not_mentioned(tmp_path: Path) -> None:
    list(write_streets(tmp_path, first=0, count=FEWEST, size=(64, 128)))
    images = choose_images(tmp_path / "images")
    assert count_different(images) == FEWEST
    assert describe_lack(images) is None


def test_few_images(tmp_path: Path) -> None:
    list(write_streets(tmp_path, first=0, count=FEWEST - 1, size=(64, 128)))
    said = describe_lack(choose_images(tmp_path / "images"))
    assert said is not None
    assert f"only {FEWEST - 1} different images to calibrate with; about 100" in said


def test_copies_do_not_count(tmp_path: Path) -> None:
    folder = write(tmp_path / "fixed", noisy_copies(FEWEST + 4))
    said = describe_lack(choose_images(folder))
    assert said is not None
    assert "only 1 different image to" in said
    assert f"since {FEWEST + 3} of them are nearly the same as others" in said


def test_frames_of_a_fixed_camera(tmp_path: Path) -> None:
    path = tmp_path / "fixed.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (128, 64))
    for image in noisy_copies(FEWEST + 4):
        writer.write(image)
    writer.release()
    said = describe_lack(choose_images(path))
    assert said is not None
    assert "only 1 different image to calibrate with, since 19 of them" in said


def test_it_is_said_before_the_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "two", noisy_copies(2))

    class Begun(Exception):
        pass

    def begin(title: str) -> None:
        raise Begun

    with pytest.raises(Begun):
        int8_from_onnx(model_path("demo"), Int8Options(source=folder), begin)  # type: ignore[arg-type]
    assert "only 1 different image to calibrate with" in caplog.text
