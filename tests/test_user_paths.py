"""Paths as people give them: ``~`` for the home folder, and anything that is ``os.PathLike``."""

import argparse
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer import ImageError, OutputError, Predictor, segment_video
from alignseg_infer.cli import COMMANDS, main
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.demo import model_path
from alignseg_infer.export.recipe import recipe_for
from alignseg_infer.files.reading import user_path
from tests.support.models import FakeBackend
from tests.support.video_clips import Clip, write_clip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with an image, a model and a video; the working folder is another one."""
    folder = tmp_path / "home"
    folder.mkdir()
    done, data = cv2.imencode(
        ".png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    )
    assert done
    (folder / "a.png").write_bytes(data.tobytes())
    (folder / "model.onnx").write_bytes(model_path("demo").read_bytes())
    write_clip(folder / "clip.mp4", Clip(frames=2))
    monkeypatch.setenv("HOME", str(folder))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_user_path(home: Path) -> None:
    assert user_path("~/a.png") == home / "a.png"
    assert user_path(Path("~")) == home
    assert user_path("a~b") == Path("a~b")
    assert user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_python_takes_the_home_folder(home: Path) -> None:
    result = Predictor("~/model.onnx")("~/a.png")
    result.save("~/out/a")
    assert (home / "out" / "a_labels.png").exists()
    assert len(list(choose_images("~/a.png").read())) == 1
    summary = segment_video(Predictor(FakeBackend()), "~/clip.mp4", "~/clip_out.mp4")
    assert summary.output == home / "clip_out.mp4"
    assert not Path("~").exists()


def test_calibration_takes_the_home_folder(home: Path) -> None:
    given = {"calibration": "~/a.png", "calibration_cache": "~/cache", "verification": "~/a.png"}
    recipe = recipe_for({"precision": "int8", **given})
    assert recipe.int8
    assert (recipe.int8.source, recipe.verification) == (str(home / "a.png"), str(home / "a.png"))
    assert recipe.int8.calibration.cache == home / "cache"


def test_commands_take_the_home_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shell does not expand ``--destination=~/out``."""
    command = ["predict", "~/model.onnx", "~/a.png", "--destination=~/out2"]
    assert main(command) == 0
    assert (home / "out2" / "a_labels.png").exists()
    assert main(["inspect", "~/model.onnx"]) == 0
    assert not Path("~").exists()
    capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_path_of_a_command_is_one_of_a_user(command: str) -> None:
    parser = argparse.ArgumentParser()
    COMMANDS[command].add_arguments(parser)
    assert [action.dest for action in parser._actions if action.type is Path] == []


def test_anything_like_a_path_is_a_path(home: Path) -> None:
    (entry,) = (entry for entry in os.scandir(home) if entry.name == "a.png")
    (model,) = (entry for entry in os.scandir(home) if entry.name == "model.onnx")
    predictor: Any = Predictor(model)  # type: ignore[arg-type]
    image = predictor(home / "a.png").image
    np.testing.assert_array_equal(predictor(entry).image, image)
    (streamed,) = predictor.stream([entry])
    np.testing.assert_array_equal(streamed.image, image)


def test_a_working_folder_that_was_deleted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole paths work; others are errors of this package that say why."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    predictor = Predictor(home / "model.onnx")
    result = predictor(home / "a.png")
    assert result.save(home / "whole" / "a")
    with pytest.raises(ImageError, match=r"a\.png does not exist"):
        predictor("a.png")
    for write in (
        lambda: result.save("a"),
        lambda: result.save("deep/a"),
        lambda: segment_video(predictor, home / "clip.mp4", "a.mp4"),
    ):
        with pytest.raises(OutputError, match="the working folder no longer exists"):
            write()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("predict demo {}/a.png -o {}/out", 0),
        ("predict demo {}/a.png -o out", 1),
        ("predict demo a.png -o {}/out", 1),
        ("offsets demo {}/a.png -o {}/out.png --size 64x64", 0),
        ("offsets demo {}/a.png -o out.png --size 64x64", 1),
        ("inspect model.onnx", 1),
        ("inspect {}/model.onnx", 0),
    ],
)
def test_commands_in_a_working_folder_that_was_deleted(
    words: str, code: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(words.format(home, home).split()) == code
