"""Graphs whose weights are in a second file: read, or refused for the true reason."""

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.errors import ModelFileError
from alignseg_infer.export.graph.onnx_file import load_graph
from tests.support.split_models import write_with_data


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


def test_no_graph(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"text")
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        load_graph(tmp_path / "a.onnx")
