"""Files and folders that nobody may read or write are errors of this package, everywhere."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from alignseg_infer import (
    AlignSegError,
    EngineError,
    ModelError,
    Predictor,
    export_onnx,
    segment_video,
    verify,
)
from alignseg_infer.cli import main
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.demo import model_path
from alignseg_infer.trt.engine_file import read_facts
from alignseg_infer.trt.plugin_library import find_plugin_library
from alignseg_infer.video.sources import open_source
from tests.support.image_files import FILES
from tests.support.models import FakeBackend
from tests.support.permissions import permissions_for_all

NAMES = ("m.pth", "m.engine", "m.engine.json", "m.xyz", "c.json", "v.mp4", "cache", "list.txt")


@pytest.fixture(params=["folder", "files"])
def locked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be entered, or one with files that cannot be opened."""
    folder = tmp_path / "locked"
    for name in ("sub", "images", "labels"):
        (folder / name).mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text("x")
    for name in ("a.png", "images/a.png"):
        (folder / name).write_bytes(FILES["OpenCV .png"])
    shutil.copy(model_path("demo"), folder / "m.onnx")
    inside = [*folder.iterdir()] if request.param == "files" else [folder]
    for path in inside:
        path.chmod(0)
    with permissions_for_all():
        yield folder
    for path in inside:
        path.chmod(0o700)


READERS: dict[str, Callable[[Path], object]] = {
    "onnx": lambda folder: Predictor(folder / "m.onnx"),
    "checkpoint": lambda folder: Predictor(folder / "m.pth"),
    "engine": lambda folder: Predictor(folder / "m.engine"),
    "facts": lambda folder: read_facts(folder / "m.engine"),
    "unknown": lambda folder: Predictor(folder / "m.xyz"),
    "image": lambda folder: Predictor(FakeBackend())(folder / "a.png"),
    "below": lambda folder: Predictor(FakeBackend())(folder / "sub" / "a.png"),
    "image set": choose_images,
    "set of one": lambda folder: choose_images(folder / "a.png"),
    "list": lambda folder: choose_images(folder / "list.txt"),
    "video to calibrate with": lambda folder: choose_images(folder / "v.mp4"),
    "folder in it": lambda folder: choose_images(folder / "sub"),
    "dataset": lambda folder: find_labelled_images(Dataset.FOLDER, folder),
    "video": lambda folder: open_source(folder / "v.mp4"),
    "frames": open_source,
    "frames in it": lambda folder: open_source(folder / "sub"),
    "classes": lambda folder: export_onnx("demo", "x.onnx", classes=folder / "c.json"),
    "verification": lambda folder: export_onnx(
        model_path("demo"), "x.onnx", precision="fp16", verification=folder / "a.png"
    ),
    "source of fp16": lambda folder: export_onnx(folder / "m.onnx", "x.onnx", precision="fp16"),
    "model to verify": lambda folder: verify(folder / "m.onnx", "demo"),
    "model to compare with": lambda folder: verify("demo", folder / "m.onnx"),
    "dataset to verify with": lambda folder: verify("demo", "demo", dataset="folder", root=folder),
}


@pytest.mark.parametrize("reader", READERS)
def test_reading(
    reader: str, locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AlignSegError):
        READERS[reader](locked)
    assert not Path("x.onnx").exists()


def test_a_cache_that_cannot_be_read(locked: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(FILES["OpenCV .png"])
    with pytest.raises(AlignSegError):
        export_onnx(
            model_path("demo"),
            tmp_path / "x.onnx",
            precision="int8",
            calibration=image,
            calibration_cache=locked / "cache",
            calibration_size=64,
        )


def test_facts_beside_an_engine(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_text("x")
    (tmp_path / "m.engine.json").write_text("{}")
    (tmp_path / "m.engine.json").chmod(0)
    with permissions_for_all(), pytest.raises(EngineError, match="cannot be opened: Permission"):
        read_facts(tmp_path / "m.engine")


def test_a_library_that_cannot_be_reached(locked: Path) -> None:
    with pytest.raises(ModelError, match="which is not at"):
        find_plugin_library(locked / "sub" / "p.so", "a graph", ModelError)


@pytest.mark.parametrize("below", ["sub", "sub/deeper"])
def test_writing(below: str, locked: Path) -> None:
    predictor = Predictor(FakeBackend())
    result = predictor(np.zeros((64, 64, 3), np.uint8))
    for write in (
        lambda: result.save(locked / below / "x"),
        lambda: export_onnx(model_path("demo"), locked / below / "x.onnx", precision="fp16"),
        lambda: segment_video(predictor, "streets", locked / below / "x.mp4", max_frames=1),
    ):
        with pytest.raises(AlignSegError):
            write()


@pytest.mark.parametrize(
    "words",
    [
        "inspect {}/m.onnx",
        "inspect {}/m.engine",
        "inspect {}/m.pth",
        "inspect {}/m.xyz",
        "predict demo {}/a.png -o out",
        "predict demo a.png -o {}/sub",
        "predict demo a.png -o {}/sub/x.png",
        "predict demo a.png -o {}/sub/deeper",
        "offsets demo {}/a.png -o out.png",
        "offsets demo a.png -o {}/sub/x.png --size 64x64",
        "eval demo --dataset folder --root {}",
        "video demo {}/v.mp4 -o out.mp4",
        "bench demo --images {}/a.png",
        "bench {}/m.onnx@openvino",
        "demo -o {}/sub/x",
    ],
)
def test_commands(
    words: str,
    locked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(FILES["OpenCV .png"])
    assert main(words.format("locked").split()) == 1
    assert "try: " in capsys.readouterr().err
