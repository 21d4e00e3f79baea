"""Images from files, arrays and Pillow, compared with pixels known beforehand."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alignseg_infer import OptionError, Predictor
from alignseg_infer.arrays import Image
from alignseg_infer.cli import main
from alignseg_infer.errors import ImageError
from alignseg_infer.pixels.images import load_image
from tests.support.models import FakeBackend

END_OF_JPEG = b"\xff\xd9"
START_OF_SCAN = b"\xff\xda"


def noise(height: int = 40, width: int = 56) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encoded(ending: str, pixels: NDArray[Any], *options: int) -> bytes:
    done, data = cv2.imencode(ending, pixels, options)
    assert done
    return data.tobytes()


def decoded(data: bytes) -> NDArray[Any]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


def written(folder: Path, data: bytes, name: str = "picture") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def with_thumbnail(jpeg: bytes) -> bytes:
    """Add an EXIF segment to `jpeg`, whose second directory points to a small JPEG thumbnail."""
    small = encoded(".jpg", noise(16, 16))
    tiff = b"II*\0" + struct.pack("<IHI", 8, 0, 14)  # an empty first directory, the next at 14
    tiff += struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, 44, 0x202, 4, 1, len(small), 0)
    assert len(tiff) == 44
    exif = b"Exif\0\0" + tiff + small
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize("kind", [str, Path])
def test_path(kind: type[str | Path], tmp_path: Path) -> None:
    pixels = noise()
    path = written(tmp_path, encoded(".png", pixels))
    np.testing.assert_array_equal(load_image(kind(path)), pixels)


def test_unicode_file_name(tmp_path: Path) -> None:
    path = written(tmp_path, encoded(".png", noise()), "Straße 東京 🚲.png")
    np.testing.assert_array_equal(load_image(path), noise())


@pytest.mark.parametrize("axes", ["HW", "HW1"])
def test_gray_array(axes: str) -> None:
    gray = noise()[..., 0]
    image = load_image(gray if axes == "HW" else gray[..., np.newaxis])
    np.testing.assert_array_equal(image, np.dstack([gray, gray, gray]))


def test_bgra_array_loses_alpha() -> None:
    alpha = np.zeros((40, 56, 1), np.uint8)
    np.testing.assert_array_equal(load_image(np.concatenate([noise(), alpha], axis=2)), noise())


def test_strided_array_becomes_contiguous() -> None:
    image = load_image(noise()[::2, ::-1])
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, noise()[::2, ::-1])


@pytest.mark.parametrize(
    ("ending", "channels"), [(".png", 1), (".png", 3), (".png", 4), (".tiff", 3)]
)
def test_file_channels(ending: str, channels: int, tmp_path: Path) -> None:
    pixels = np.dstack([noise(), np.full((40, 56), 9, np.uint8)])[..., :channels]
    image = load_image(written(tmp_path, encoded(ending, pixels)))
    expected = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[..., :3]
    np.testing.assert_array_equal(image, expected)


# round(value / 257), by hand
SIXTEEN_BITS = [0, 128, 129, 257, 385, 386, 32768, 65406, 65407, 65535]
EIGHT_BITS = [0, 0, 1, 1, 1, 2, 128, 254, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled(channels: int, tmp_path: Path) -> None:
    pixels = np.tile(np.array(SIXTEEN_BITS, np.uint16)[:, np.newaxis], (2, 1, channels))
    image = load_image(written(tmp_path, encoded(".png", pixels)))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[1], np.repeat(np.c_[EIGHT_BITS], 3, axis=1))


def test_exif_orientation_of_a_file(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16] = 255
    exif = pil.Exif()
    exif[0x0112] = 6  # turn clockwise to look at it: what is stored on top is on the right
    pil.fromarray(stored).save(tmp_path / "turned.jpg", exif=exif)
    image = load_image(tmp_path / "turned.jpg")
    assert image.shape == (64, 32, 3)
    assert image[:, 18:].min() > 240
    assert image[:, :14].max() < 15


@pytest.mark.parametrize(
    ("mode", "color", "bgr"),
    [
        ("RGB", (200, 100, 50), (50, 100, 200)),
        ("L", 77, (77, 77, 77)),
        ("RGBA", (200, 100, 50, 0), (50, 100, 200)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (55, 155, 205, 0), (50, 100, 200)),
    ],
)
def test_pil_modes(mode: str, color: int | tuple[int, ...], bgr: tuple[int, int, int]) -> None:
    pil = pytest.importorskip("PIL.Image")
    image = load_image(pil.new(mode, (5, 3), color))
    np.testing.assert_array_equal(image, np.full((3, 5, 3), bgr, np.uint8))


def test_pil_palette() -> None:
    pil = pytest.importorskip("PIL.Image")
    picture = pil.new("P", (2, 2), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    picture.putpixel((1, 0), 0)
    image = load_image(picture)
    assert image.tolist() == [[[50, 100, 200], [0, 0, 0]], [[50, 100, 200], [50, 100, 200]]]


PIL_MODES = ["1", "CMYK", "F", "HSV", "I", "I;16", "I;16B", "I;16L", "L", "LA", "LAB", "La"]
PIL_MODES += ["P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"]


@pytest.mark.parametrize("mode", PIL_MODES)
def test_every_pil_mode_is_taken_or_refused_by_name(mode: str) -> None:
    pil = pytest.importorskip("PIL.Image")
    picture = pil.new(mode, (5, 3))
    if mode in ("F", "I", "La"):
        with pytest.raises(ImageError, match=f"mode {mode!r}"):
            load_image(picture)
        if mode == "La":
            assert load_image(picture.convert("LA")).shape == (3, 5, 3)  # what the error advises
    else:
        image = load_image(picture)
        assert image.shape == (3, 5, 3)
        assert image.dtype == np.uint8


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("leave_block", [False, True])
def test_pil_image_that_was_closed(ending: str, leave_block: bool, tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    path = written(tmp_path, encoded(ending, noise()))
    if leave_block:
        with pil.open(path) as picture:
            pass
    else:
        picture = pil.open(path)
        picture.close()
    with pytest.raises(ImageError, match="inside the block that opens it"):
        load_image(picture)
    with pil.open(path) as picture:
        picture.load()  # what the error advises
    assert load_image(picture).shape == load_image(path).shape


@pytest.mark.parametrize("channels", [1, 3])
def test_matrix_views_are_arrays(channels: int) -> None:
    """A view of ``np.matrix`` stays two-dimensional: ``np.repeat`` wrote past the end of one."""
    pixels = noise(48, 64)[..., 0]
    for _ in range(20):
        image = load_image(np.asmatrix(pixels))
    np.testing.assert_array_equal(image, np.repeat(pixels[..., np.newaxis], 3, axis=2))
    masked = np.ma.masked_equal(noise(8, 8)[..., :channels], 3)
    np.testing.assert_array_equal(load_image(masked), load_image(masked.data))


def test_pil_16_bits_like_the_file(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    pixels = np.tile(np.array(SIXTEEN_BITS, np.uint16), (2, 1))
    path = written(tmp_path, encoded(".png", pixels))
    np.testing.assert_array_equal(load_image(pil.open(path)), load_image(path))


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
def test_truncated_file(ending: str, kept: float, tmp_path: Path) -> None:
    data = encoded(ending, noise())
    with pytest.raises(ImageError, match="truncated"):
        load_image(written(tmp_path, data[: int(kept * len(data))]))


@pytest.mark.parametrize(("ending", "missing"), [(".jpg", 2), (".png", 12)])
def test_file_without_its_end_marker(ending: str, missing: int, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="truncated"):
        load_image(written(tmp_path, encoded(ending, noise())[:-missing]))


def test_thumbnail_is_not_taken_for_the_end(tmp_path: Path) -> None:
    plain = encoded(".jpg", noise())
    data = with_thumbnail(plain)
    thumbnail_end = data.find(END_OF_JPEG) + 2
    assert thumbnail_end < len(data) - len(plain) + 3
    np.testing.assert_array_equal(load_image(written(tmp_path, data)), decoded(plain))
    for end in (thumbnail_end, data.find(START_OF_SCAN, thumbnail_end), len(data) - 100):
        with pytest.raises(ImageError, match="truncated"):
            load_image(written(tmp_path, data[:end]))


@pytest.mark.parametrize("trailing", [b"\0" * 500, b"written by some camera", b"\xff\xd8\xff"])
def test_bytes_after_the_end_of_a_jpeg(trailing: bytes, tmp_path: Path) -> None:
    data = encoded(".jpg", noise())
    np.testing.assert_array_equal(load_image(written(tmp_path, data + trailing)), decoded(data))


@pytest.mark.parametrize("stray", [b"\xff", b"\xff\xff", b"\0\0\0"])
def test_bytes_between_jpeg_segments(stray: bytes, tmp_path: Path) -> None:
    data = encoded(".jpg", noise())
    first_end = 4 + int.from_bytes(data[4:6], "big")
    padded = data[:first_end] + stray + data[first_end:]
    np.testing.assert_array_equal(decoded(padded), decoded(data))  # OpenCV reads it
    np.testing.assert_array_equal(load_image(written(tmp_path, padded)), decoded(data))


def test_progressive_jpeg(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    pil.fromarray(noise()).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert data.count(START_OF_SCAN) > 1
    np.testing.assert_array_equal(load_image(written(tmp_path, data)), decoded(data))
    last_scan = data.rfind(START_OF_SCAN)
    with pytest.raises(ImageError, match="truncated"):
        load_image(written(tmp_path, data[: last_scan + 20]))


REFUSED: dict[str, tuple[Any, str, str]] = {
    "None": (None, "as None", "cv2.imread returns None"),
    "unreadable for OpenCV": (cv2.imread("missing.png"), "as None", "cv2.imread returns None"),
    "number": (7, "as int", "list(images)"),
    "no object of use": (object(), "as object", ""),
    "nested lists": ([[[0, 0, 0]] * 4] * 4, "as list", "numpy.array(image, numpy.uint8)"),
    "generator": (iter(()), "as tuple_iterator", "list(images)"),
    "file object": (io.BytesIO(), "as BytesIO", "file.read()"),
    "dictionary": ({"image": 0}, "as dict", ""),
    "tensor": (torch.zeros(3, 40, 40), "as Tensor", "permute(1, 2, 0)"),
    "float": (np.zeros((40, 40, 3), np.float32), "is float32", "* 255"),
    "NaN": (np.full((40, 40, 3), np.nan), "with 4800 NaN", "NaN"),
    "uint16": (np.zeros((40, 40, 3), np.uint16), "is uint16", ">> 8"),
    "int64": (np.zeros((40, 40, 3), np.int64), "is int64", "astype"),
    "bool": (np.zeros((40, 40), np.bool_), "is bool", "* 255"),
    "complex": (np.zeros((40, 40), np.complex64), "is complex64", "astype"),
    "text": (np.array(["a.png"]), "is <U5", "astype"),
    "objects": (np.array([noise(8, 8), None], object), "is object", "list(images)"),
    "records": (np.zeros((40, 40), "u1,u1,u1"), "is [('f0'", "astype"),
    "no dimensions": (np.array(7, np.uint8), "shape ()", ""),
    "one dimension": (np.zeros(40, np.uint8), "shape (40,)", ""),
    "channels first": (np.zeros((3, 40, 40), np.uint8), "shape (3, 40, 40)", "transpose(1, 2, 0)"),
    "two channels": (np.zeros((40, 40, 2), np.uint8), "shape (40, 40, 2)", ""),
    "batch": (np.zeros((2, 40, 40, 3), np.uint8), "shape (2, 40, 40, 3)", "list of images"),
    "no pixels": (np.zeros((0, 0, 3), np.uint8), "is 0x0", ""),
    "one row": (np.zeros((1, 40, 3), np.uint8), "is 1x40", ""),
    "name longer than any file's": ("a" * 300, "File name too long", ""),
    "name with NUL": ("a\0b", "null byte", ""),
    "empty name": ("", "is a directory", ""),
    "address": ("https://host/a.png", "https://host/a.png is an address", "curl -O"),
    "no bytes": (b"", "of 0 bytes cannot be decoded", "write the bytes"),
    "bytes of a name": (b"/tmp/a.png", "its first bytes are b'/tmp/a.p'", "write the bytes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    source, problem, fix = REFUSED[kind]
    with pytest.raises(ImageError) as error:
        load_image(source)
    assert problem in error.value.problem
    assert fix in error.value.fix


def test_advice_about_kinds() -> None:
    tensor = torch.from_numpy(noise()).permute(2, 0, 1)
    np.testing.assert_array_equal(load_image(tensor.permute(1, 2, 0).cpu().numpy()), noise())
    nested = noise(4, 4).tolist()
    np.testing.assert_array_equal(load_image(np.array(nested, np.uint8)), noise(4, 4))
    file = io.BytesIO(encoded(".png", noise()))
    np.testing.assert_array_equal(load_image(file.read()), noise())
    ragged = np.array([noise(80, 80), noise(40, 40)], object)
    assert [result.size[0] for result in Predictor(FakeBackend())(list(ragged))] == [80, 40]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
def test_bytes_of_a_file(kind: Callable[[bytes], Any], ending: str, tmp_path: Path) -> None:
    data = encoded(ending, noise())
    expected = load_image(written(tmp_path, data))
    np.testing.assert_array_equal(load_image(kind(data)), expected)
    predictor = Predictor(FakeBackend())
    first, second = predictor([kind(data), noise()])
    assert (first.source, second.source) == (None, None)
    np.testing.assert_array_equal(first.image, expected)
    with pytest.raises(OptionError, match=f"images is one {kind.__name__}"):
        predictor.stream(kind(data))


def test_bytes_in_a_stream_may_be_used_again() -> None:
    buffer = bytearray(encoded(".bmp", noise()))

    def frames() -> Iterator[memoryview]:
        for value in range(3):
            buffer[-1000:] = bytes([value]) * 1000
            yield memoryview(buffer)

    with Predictor(FakeBackend()).stream(frames()) as results:
        assert [int(result.image[0, -1, 0]) for result in results] == [0, 1, 2]


def test_truncated_bytes() -> None:
    with pytest.raises(ImageError):
        load_image(encoded(".jpg", noise())[:-200])


def write_into(pipe: Path, data: bytes) -> threading.Thread:
    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.write_bytes(data)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_pipe(ending: str, tmp_path: Path) -> None:
    """Both are larger than what a pipe holds."""
    pixels = noise(300, 400)
    os.mkfifo(tmp_path / "pipe")
    thread = write_into(tmp_path / "pipe", encoded(ending, pixels))
    result = Predictor(FakeBackend())(tmp_path / "pipe")
    thread.join()
    np.testing.assert_array_equal(result.image, pixels)
    assert result.source == str(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "nothing came through"),
        (b"no image", "cannot be decoded"),
        (b"\xff\xd8\xff", "truncated"),
        (bytes(66 << 20), "has more than"),
    ],
    ids=["empty", "no image", "truncated", "endless"],
)
def test_pipe_without_an_image(data: bytes, message: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    thread = write_into(tmp_path / "pipe", data)
    with pytest.raises(ImageError, match=message):
        load_image(tmp_path / "pipe", 1000)
    thread.join()


def test_device() -> None:
    with pytest.raises(ImageError, match="terminal, another device or a socket"):
        load_image("/dev/zero")


@pytest.mark.parametrize("word", ["-", "/dev/stdin"])
def test_standard_input(word: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alignseg_infer", "predict", "demo", word, "-o", str(tmp_path)]
    data = encoded(".png", noise())
    subprocess.run(command, input=data, check=True, capture_output=True)
    expected = Predictor("demo")(noise()).labels
    found = cv2.imread(str(tmp_path / "stdin_labels.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, expected)


def test_an_animation_is_said_to_have_more_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pil = pytest.importorskip("PIL.Image")
    first, second = pil.fromarray(noise()), pil.fromarray(255 - noise())
    first.save(tmp_path / "film.gif", save_all=True, append_images=[second])
    for _ in range(3):
        load_image(tmp_path / "film.gif")
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path / 'film.gif'} has several pictures, of which the first")
    command = ["video", "demo", str(tmp_path / "film.gif"), "-o", str(tmp_path / "film.mp4")]
    assert main(command) == 0  # what the message advises


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8", b"\x89PNG\r\n\x1a\nIEND"])
def test_refused_file(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        load_image(written(tmp_path, data))
