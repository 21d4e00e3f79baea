"""``alignseg predict`` takes folders, globs and lists, and batches images of equal size."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer import Predictor
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.cli import main
from tests.support.batches import files_in, results_of, write_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos")
    return tmp_path / "photos"


NAMES = ["a/000.png", "a/003.png", "b/001.png", "b/004.png", "c/002.png", "c/005.png"]
SOURCES = [
    ("photos", NAMES),
    ("photos/*/00[01].png", ["a/000.png", "b/001.png"]),
    ("photos/a/000.png", ["000.png"]),
    ("photos/list.txt", ["003.png", "004.png"]),
]


@pytest.mark.parametrize(("source", "expected"), SOURCES, ids=[case[0] for case in SOURCES])
def test_sources(source: str, expected: list[str], photos: Path, tmp_path: Path) -> None:
    (photos / "list.txt").write_text("a/003.png\nb/004.png\n")
    out = tmp_path / "out"
    command = ["predict", "demo", str(tmp_path / source), "-o", str(out), "--formats", "labels"]
    assert main(command) == 0
    assert files_in(out) == results_of(expected, "_labels.png")


def test_results_are_no_images_of_the_next_run(photos: Path) -> None:
    command = ["predict", "demo", str(photos), "-o", str(photos / "out")]
    assert main(command) == 0
    first = files_in(photos / "out")
    assert main(command) == 0
    assert files_in(photos / "out") == first


def test_images_of_equal_size_share_a_network_call(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(photos / "b" / "009.png"), np.full((64, 96, 3), 99, np.uint8))
    calls: list[int] = []
    infer = OnnxRuntimeBackend.infer

    def count(self: Any, images: Any) -> Any:
        calls.append(len(images))
        return infer(self, images)

    monkeypatch.setattr(OnnxRuntimeBackend, "infer", count)
    out = tmp_path / "out"
    options = ["--formats", "labels", "--batch", "3"]
    assert main(["predict", "demo", str(photos), "-o", str(out), *options]) == 0
    assert calls == [3, 1, 1, 2]  # a, a, b; b; the other size; c, c
    predictor = Predictor("demo")
    for name in NAMES:
        labels = cv2.imread(str(out / name.replace(".png", "_labels.png")), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, predictor(photos / name).labels)


def test_a_bad_image_in_a_batch_is_reported(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b" / "bad.png").write_bytes(b"no image")
    out = tmp_path / "out"
    options = ["--formats", "labels", "--batch", "4"]
    assert main(["predict", "demo", str(photos), "-o", str(out), *options]) == 1
    assert files_in(out) == results_of(NAMES, "_labels.png")
    said = capsys.readouterr().err
    assert said.count("error:") == 1
    assert "1 of 7 images failed" in said


def test_nothing_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "*.png"):
        assert main(["predict", "demo", str(source), "-o", str(tmp_path / "out")]) == 1
        assert "contains no images" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["images", "-o"])
def test_an_empty_path_is_not_the_working_folder(
    place: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a variable of the shell that was not set."""
    places = {"images": str(photos), "-o": str(tmp_path / "out")} | {place: ""}
    with pytest.raises(SystemExit) as caught:
        main(["predict", "demo", places["images"], "-o", places["-o"]])
    assert caught.value.code == 2
    assert f"argument {place}" in (said := capsys.readouterr().err)
    assert "the path is empty" in said
    monkeypatch.chdir(photos if place == "images" else tmp_path)
    places |= {place: "."}  # as is advised
    assert main(["predict", "demo", places["images"], "-o", places["-o"], "--formats=labels"]) == 0
