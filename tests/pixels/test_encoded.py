"""Limits on what is decoded, and advice that works."""

import re
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from alignseg_infer import ImageError, OptionError, Predictor
from alignseg_infer.cli import main
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.pixels.images import load_image, read_gray_png, read_image, take_over
from tests.support.image_files import FILES, HEIGHT, WIDTH, by_opencv, empty_png, noise
from tests.support.models import FakeBackend

LIMIT = HEIGHT * WIDTH - 1
READABLE = sorted(FILES.keys() - {"OpenCV .hdr", "OpenCV .pfm", "PPM as text", "BMP of OS/2"})


def advised(error: pytest.ExceptionInfo[ImageError]) -> int:
    """Return the limit that the message says to set."""
    found = re.match(r"max_pixels=(\d+) ", error.value.fix)
    assert found
    return int(found[1])


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_decoded_above_the_limit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.write_bytes(FILES[name])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    for source in (path, FILES[name]):
        with pytest.raises(ImageError, match=r"\d+x\d+ \(height x width\) = \d+ pixels") as error:
            load_image(source, LIMIT)
        assert f"at most {LIMIT} pixels" in str(error.value)
        assert advised(error) >= LIMIT + 1


@pytest.mark.parametrize("name", READABLE)
def test_advice(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(FILES[name])
    with pytest.raises(ImageError) as error:
        read_image(path, LIMIT)
    np.testing.assert_array_equal(read_image(path, advised(error)), read_image(path))


def test_a_small_file_takes_no_memory(tmp_path: Path) -> None:
    """This one of 33 kB would take 1.5 GB."""
    path = tmp_path / "bomb.png"
    path.write_bytes(empty_png(16384, 16384))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="16384x16384"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_size_that_no_header_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is checked again after decoding."""
    monkeypatch.setattr("alignseg_infer.pixels.encoded.size_of", lambda _: None)
    with pytest.raises(ImageError, match="40x72"):
        load_image(FILES["GIF"], LIMIT)


def test_pillow_images() -> None:
    picture = PIL.Image.new("RGB", (WIDTH, HEIGHT))
    for read in (load_image, take_over):
        with pytest.raises(ImageError, match="the PIL image has 40x72") as error:
            read(picture, LIMIT)
        read(picture, advised(error))


def test_arrays_are_in_memory_already() -> None:
    np.testing.assert_array_equal(load_image(noise(), 1), noise())


def test_label_files(tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    path.write_bytes(by_opencv(".png", noise()[..., 0]))
    with pytest.raises(ImageError) as error:
        read_gray_png(path, LIMIT)
    np.testing.assert_array_equal(read_gray_png(path, advised(error)), noise()[..., 0])


@pytest.mark.parametrize("wrong", [0, -1, 1e9, "many", None, True])
def test_a_limit_is_a_number(wrong: Any, tmp_path: Path) -> None:
    for read in (
        lambda: load_image(FILES["GIF"], wrong),
        lambda: load_image(tmp_path / "missing", wrong),
        lambda: Predictor(FakeBackend(), max_pixels=wrong),
    ):
        with pytest.raises(OptionError, match="max_pixels="):
            read()


def test_predictor(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(FILES["OpenCV .png"])
    assert Predictor(FakeBackend()).max_pixels == MAX_PIXELS
    low = Predictor(FakeBackend(), max_pixels=np.int64(LIMIT))  # type: ignore[arg-type]
    with pytest.raises(ImageError) as error:
        low(path)
    with pytest.raises(ImageError), low.stream([PIL.Image.open(path)]) as results:
        next(results)
    raised = Predictor(FakeBackend(), max_pixels=advised(error))
    assert raised(path).labels.shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("command", ["predict", "offsets"])
def test_commands(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "image.png").write_bytes(FILES["OpenCV .png"])
    output = tmp_path / ("out" if command == "predict" else "out.png")
    words = [command, "demo", str(tmp_path / "image.png"), "-o", str(output), "--size", "64x64"]
    assert main([*words, "--max-pixels", "100"]) == 1
    found = re.search(r"try: (--max-pixels) (\d+) ", capsys.readouterr().err)
    assert found
    assert main([*words, *found.groups()]) == 0


def bmp(height: int, width: int) -> bytes:
    row = bytes((width + 3) // 4 * 4)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + head + bytes(1024) + row * height


@pytest.mark.parametrize("size", [(2, (1 << 20) + 1), ((1 << 20) + 1, 2)])
def test_the_limits_of_opencv(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "wide.bmp"
    path.write_bytes(bmp(*size))
    with pytest.raises(ImageError, match="more than OpenCV reads") as error:
        read_image(path)
    variable = re.search(r"(OPENCV_\w+)=(\d+)", error.value.fix)
    assert variable
    code = (
        f"from alignseg_infer.pixels.images import *; print(read_image(Path({str(path)!r})).shape)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={"PYTHONPATH": ":".join(sys.path), variable[1]: variable[2]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str((*size, 3))


@pytest.mark.slow
def test_a_whole_satellite_image(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(empty_png(20000, 20000))
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert read_image(path, advised(error)).shape == (20000, 20000, 3)


def test_files_too_long_for_an_image(tmp_path: Path) -> None:
    """They are not read into memory: this one is sparse, and larger than most machines' memory."""
    path = tmp_path / "film.mp4"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="alignseg video MODEL"):
        read_image(path)
