"""Choosing images to calibrate with; `tests/export/test_calibration.py` tests what they are for."""

import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer.datasets.image_sets import ImageFiles, choose_images
from alignseg_infer.demo.streets.folder import write_streets
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
    return [Path(path).relative_to(folder).as_posix() for path in images.paths]


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


FLAT = by_opencv(".png", np.zeros((64, 96, 3), np.uint8))
PHOTO = by_opencv(".png", np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))


@pytest.mark.parametrize(("flat", "photos"), [(0, 1), (1, 2), (1, 5), (2, 3)])
def test_a_few_dark_frames_are_images(
    flat: int, photos: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(flat + photos):
        write(tmp_path / f"{index}.png", FLAT if index < flat else PHOTO)
    assert len(chosen(tmp_path)) == flat + photos
    said = [record.message for record in caplog.records]
    assert len(said) == bool(flat)
    assert not flat or said[0].startswith(f"images of {tmp_path} with few colours are kept")
    assert not flat or said[0].count(".png") == flat


def frame(kind: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw an image with few colours, (96, 128, 3): labels of classes, or a dark frame."""
    draw = np.random.default_rng(0)
    image = np.zeros((96, 128, 3), np.uint8)
    if kind == "noise":
        return np.clip(draw.normal(2, 3, (96, 128, 1)), 0, 255).astype(np.uint8).repeat(3, 2)
    if kind == "JPEG":
        noise = np.clip(draw.normal(2, 3, image.shape), 0, 255).astype(np.uint8)
        return np.asarray(cv2.imdecode(cv2.imencode(".jpg", noise)[1], cv2.IMREAD_COLOR), np.uint8)
    if kind == "gradient":
        image[:] = np.linspace(0, 12, 128)[None, :, None].astype(np.uint8)
    elif kind == "hot pixels":
        image[draw.integers(0, 96, 20), draw.integers(0, 128, 20)] = 200
    elif kind != "black":
        values = {"mask": (255,), "labels": (7, 1, 13, 2), "palette": (70, 160, 35)}[kind]
        for index, value in enumerate(values):
            color = (value, 255 - value, 90) if kind == "palette" else (value,) * 3
            cv2.circle(image, (20 + 25 * index, 48), 20, color, -1)
    return image


@pytest.mark.parametrize("kind", ["mask", "labels", "palette"])
def test_label_files_between_images_are_left_out(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "z.png"):
        write(tmp_path / name, PHOTO)
    write(tmp_path / "lab.png", by_opencv(".png", frame(kind)))
    images = choose_images(tmp_path)
    assert chosen(tmp_path) == ["a.png", "z.png"]
    assert (images.name, len(images.digests)) == (f"2 of 3 images of {tmp_path}", 2)
    assert caplog.records[0].message == (
        f"images of {tmp_path} that look like label files are left out:\n    {tmp_path}/lab.png"
    )


@pytest.mark.parametrize("kind", ["black", "noise", "JPEG", "gradient", "hot pixels"])
def test_dark_frames_are_kept(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "z.png"):
        write(tmp_path / name, PHOTO)
    write(tmp_path / "dark.png", by_opencv(".png", frame(kind)))
    assert chosen(tmp_path) == ["a.png", "dark.png", "z.png"]
    assert "with few colours are kept, as dark or empty frames:\n" in caplog.records[0].message


def test_label_files_of_the_demo_are_left_out(tmp_path: Path) -> None:
    for index, street in enumerate(write_streets(tmp_path / "drawn", 0, 6, size=(96, 192))):
        write(tmp_path / f"{index}/a.png", street.image.read_bytes())
        write(tmp_path / f"{index}/b.png", PHOTO)
        write(tmp_path / f"{index}/label.png", street.labels.read_bytes())
        assert chosen(tmp_path / f"{index}") == ["a.png", "b.png"]


@pytest.mark.parametrize(("flat", "photos"), [(1, 0), (1, 1), (5, 5), (3, 1)])
def test_sets_of_which_half_is_flat_are_labels(flat: int, photos: int, tmp_path: Path) -> None:
    for index in range(flat + photos):
        write(tmp_path / f"{index}.png", FLAT if index < flat else PHOTO)
    with pytest.raises(DatasetError, match=f"{flat} of {flat + photos} .* cannot be used") as error:
        choose_images(tmp_path)
    assert error.value.problem.count("looks like a label file, a mask or a dark frame") == flat


def test_small_images_are_not_judged_and_too_small_ones_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png", by_opencv(".png", np.zeros((8, 8, 3), np.uint8)))
    assert chosen(tmp_path) == ["a.png"]
    write(tmp_path / "b.png", by_opencv(".png", np.zeros((1, 1, 3), np.uint8)))
    with pytest.raises(DatasetError, match=r"b\.png: the image is 1x1"):
        choose_images(tmp_path)


@pytest.mark.parametrize("name", ["list.txt", "LIST.TXT"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_as_other_tools_write_them(
    name: str, end: str, encoding: str, tmp_path: Path
) -> None:
    names = ["a.png", "straße/東京.png", "with space\u2028.png"]
    for each in names:
        write(tmp_path / each)
    lines = ["# images", *names[:1], "", *names[1:], ""]
    (tmp_path / name).write_bytes(end.join(lines).encode(encoding))
    images = choose_images(tmp_path / name)
    assert isinstance(images, ImageFiles)
    assert [Path(path).relative_to(tmp_path).as_posix() for path in images.paths] == names


def test_names_that_are_no_text_are_read_from_lists(tmp_path: Path) -> None:
    name = os.fsdecode(b"stra\xdfe.png")
    try:
        write(tmp_path / name)
    except OSError:
        pytest.skip("this system has no such names")
    (tmp_path / "list.txt").write_bytes(os.fsencode(name) + b"\n")
    for source in (tmp_path / "list.txt", tmp_path):
        images = choose_images(source)
        assert isinstance(images, ImageFiles)
        assert [Path(path).name for path in images.paths] == [name]


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le", "utf-32-be", "utf-16-le"])
def test_lists_in_other_encodings_are_no_text(encoding: str, tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "list.txt").write_bytes("a.png\n".encode(encoding))
    with pytest.raises(DatasetError, match=r"list\.txt is not a text file: .* is 0"):
        choose_images(tmp_path / "list.txt")


@pytest.mark.skipif(os.sep != "/", reason="paths of Windows are right on Windows")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        ("a\\ü.png", "backslashes"),
        ('"a/ü.png"', "quotes"),
        ("'a/ü.png'", "quotes"),
        ('"a\\ü.png"', "quotes and backslashes"),
    ],
)
def test_paths_that_another_system_wrote(
    line: str, kinds: str, encoding: str, tmp_path: Path
) -> None:
    folder = tmp_path / "it's"
    write(folder / "a/ü.png")
    path = folder / "my list.txt"
    path.write_bytes(f"# images\r\n{line}\r\n".encode(encoding))
    with pytest.raises(DatasetError) as error:
        choose_images(path)
    assert error.value.problem == f"{path} holds paths with {kinds}, such as {line}"
    subprocess.run(error.value.fix, shell=True, check=True)
    images = choose_images(folder / "my list-plain.txt")
    assert isinstance(images, ImageFiles)
    assert images.paths == (folder / "a/ü.png",)


@pytest.mark.skipif(os.sep != "/", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["a\\b.png", '"a.png"', "'", "it's.png"])
def test_names_with_backslashes_and_quotes_are_read_from_lists(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png").rename(tmp_path / name)
    (tmp_path / "list.txt").write_text(f"{name}\n")
    images = choose_images(tmp_path / "list.txt")
    assert isinstance(images, ImageFiles)
    assert images.paths == (path,)
