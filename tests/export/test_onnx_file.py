"""Graphs whose weights are in a second file: read, or refused for the true reason."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.errors import ModelFileError
from alignseg_infer.export.graph.onnx_file import load_graph
from tests.support.split_models import write_with_data

Spoil: TypeAlias = Callable[[onnx.ModelProto], None]
Capture: TypeAlias = pytest.CaptureFixture[str]
ADOPT = "adopt a.onnx --like demo"


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    name = write_with_data(tmp_path / "a.onnx", model_path("demo"), "a.onnx.data")
    seen, expected = load_graph(tmp_path / "a.onnx"), ir.load(model_path("demo"))
    first, second = (model.graph.initializers[name].const_value for model in (seen, expected))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.numpy(), second.numpy())


def remove(data: Path) -> None:
    data.unlink()


def cut(data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-1])


def make_pipe(data: Path) -> None:
    data.unlink()
    os.mkfifo(data)


BAD = [(remove, "does not exist"), (cut, "bytes, but"), (make_pipe, "is a pipe")]


@pytest.mark.parametrize(("spoil", "words"), BAD)
def test_weights_that_are_not_there(
    spoil: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_with_data(tmp_path / "a.onnx", model_path("demo"), "a.onnx.data")
    assert callable(spoil)
    spoil(tmp_path / "a.onnx.data")
    with pytest.raises(ModelFileError, match=words):
        load_graph(tmp_path / "a.onnx")
    command = ["export-onnx", str(tmp_path / "a.onnx"), "-o", str(tmp_path / "b.onnx")]
    assert main([*command, "--precision", "fp16"]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "b.onnx").exists()


def test_weights_outside_the_folder_of_the_model(tmp_path: Path) -> None:
    write_with_data(tmp_path / "deep" / "a.onnx", model_path("demo"), "../a.onnx.data")
    with pytest.raises(ModelFileError, match="outside its folder"):
        load_graph(tmp_path / "deep" / "a.onnx")


def told_of_data(key: str, value: str) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.value = value

    return spoil


def of_type(kind: int) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].data_type = kind

    return spoil


def of_side(side: int) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[0] = side

    return spoil


def cut_content(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-1]


SPOILS: dict[str, tuple[Spoil, str]] = {
    "offset of no number": (told_of_data("offset", "abc"), "'abc'"),
    "offset below 0": (told_of_data("offset", "-4096"), "-4096"),
    "length below 0": (told_of_data("length", "-5"), "-5"),
    "length of another shape": (told_of_data("length", "8"), "it has 8 bytes and needs"),
    "offset behind the end": (told_of_data("offset", "9" * 30), "bytes, but"),
    "directory": (told_of_data("location", "."), "names '.' as a file .* which is a directory"),
    "no name": (told_of_data("location", ""), "names '' as a file .* which is a directory"),
    "no such file": (told_of_data("location", "lost"), "weights in another file: .*lost does not"),
    "unknown type": (of_type(99), "99 is not a valid"),
    "no type": (of_type(0), "UNDEFINED"),
    "side below 0": (of_side(-1), r"its shape is \(-1, 3, 3, 3\)"),
    "another side": (of_side(5), "cannot reshape"),
    "content of half a value": (cut_content, "multiple of element size"),
}


@pytest.mark.parametrize("name", SPOILS)
@pytest.mark.parametrize("command", ["export-onnx a.onnx -o b.onnx --precision fp16", ADOPT])
def test_weights_that_do_not_fit(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_with_data(tmp_path / "a.onnx", model_path("demo"), "a.onnx.data")
    model = onnx.load("a.onnx", load_external_data=False)
    spoil, words = SPOILS[name]
    spoil(model)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert main(command.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: a.onnx ") or "but a.onnx needs" in error
    assert re.search(words, error)
    assert not (tmp_path / "b.onnx").exists()


def test_no_graph(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"text")
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        load_graph(tmp_path / "a.onnx")
