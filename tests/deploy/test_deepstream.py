"""What nvinfer makes of a folder for DeepStream is what `Predictor` makes of the model."""

import ctypes
import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from alignseg_infer import Predictor, export_onnx
from alignseg_infer.arrays import Image
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.deploy.deepstream import write_deepstream
from alignseg_infer.errors import AlignSegError, ExportError, OptionError, OutputError
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import (
    ChannelOrder,
    InputSpec,
    LabelType,
    Layout,
    OutputKind,
)
from tests.support import nvinfer
from tests.support.formed_models import SIZE, form_demo
from tests.support.host_kernels import host_compile

STUB = Path(__file__).parent / "stub"
CALLER = Path(__file__).with_name("parser_caller.cpp")
TYPES = {"float32": 0, "int8": 2, "int32": 3, "int64": 4, "uint8": 5}  # NvDsInferDataType
PARSED = [
    (OutputKind.LOGITS, None, None),
    (OutputKind.LABELS, None, LabelType.UINT8),
    (OutputKind.LABELS, Layout.NCHW, LabelType.INT32),
    (OutputKind.LABELS, Layout.NHWC, LabelType.INT64),
]


@pytest.fixture(scope="module")
def street() -> Image:
    return Street(1_000_007).scene(size=SIZE).image


@pytest.fixture(scope="module")
def expected(street: Image) -> NDArray[np.generic]:
    return Predictor("demo", size=SIZE)(street).labels


def run(model: Path, batch: NDArray[np.float32]) -> NDArray[np.generic]:
    """Return the first output for one image, without its batch axis, as nvinfer hands it on."""
    session = onnxruntime.InferenceSession(model)
    output: NDArray[np.generic] = session.run(None, {"image": batch})[0][0]
    return output


@pytest.mark.parametrize("layout", Layout)
def test_its_own_parser_makes_the_labels(
    layout: Layout, street: Image, expected: NDArray[np.generic], tmp_path: Path
) -> None:
    form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES, layout=layout)
    folder = write_deepstream(tmp_path / "a.onnx", tmp_path / "deepstream")
    config = nvinfer.read_config(folder)
    output = run(folder / config["onnx-file"], nvinfer.preprocess(config, street))
    assert np.array_equal(nvinfer.class_map(config, output.astype(np.float32)), expected)
    assert len(np.unique(expected)) > 5


def test_a_higher_threshold_would_leave_pixels_out(street: Image, tmp_path: Path) -> None:
    form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES)
    config = nvinfer.read_config(write_deepstream(tmp_path / "a.onnx", tmp_path / "out"))
    output = run(tmp_path / "a.onnx", nvinfer.preprocess(config, street)).astype(np.float32)
    assert (nvinfer.class_map(config, output) >= 0).all()
    assert (nvinfer.class_map({**config, "segmentation-threshold": "0.9"}, output) < 0).any()


def test_classes_are_remapped_by_the_graph_or_not_at_all(
    parser: ctypes.CDLL, street: Image, tmp_path: Path
) -> None:
    remap = Remapping(dataset="few", names={"road": "free", "sky": None, "*": "blocked"})
    wide, path = tmp_path / "wide.onnx", tmp_path / "few.onnx"
    form_demo(tmp_path / "plain.onnx")
    export_onnx(tmp_path / "plain.onnx", wide, output="probabilities", remap=remap)
    with pytest.raises(ExportError, match="19 classes, which only this package can turn") as caught:
        write_deepstream(wide, tmp_path / "out")
    assert "--output labels --label-type int32" in caught.value.fix
    assert caught.value.fix.endswith("--remap FILE.json")
    export_onnx(tmp_path / "plain.onnx", path, output="labels", remap=remap)
    folder = write_deepstream(path, tmp_path / "out")
    config = nvinfer.read_config(folder)
    assert config["num-detected-classes"] == "2"
    assert (folder / "labels.txt").read_text(encoding="utf-8") == "free\nblocked\n"
    result = run(folder / "model.onnx", nvinfer.preprocess(config, street))
    labels = call_parser(parser, "labels", result, classes=2)
    assert labels is not None
    assert {*np.unique(labels).tolist()} == {-1, 0, 1}
    assert np.array_equal(labels == -1, result.reshape(SIZE) == 255)


@pytest.mark.parametrize("order", ChannelOrder)
@pytest.mark.parametrize("std", [1.0, 57.375])
def test_its_preprocessing_is_ours(
    order: ChannelOrder, std: float, street: Image, tmp_path: Path
) -> None:
    spec = InputSpec(channel_order=order, mean=(104.00698793, 116.66876762, 0.0), std=(std,) * 3)
    form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES, prepared=spec)
    config = nvinfer.read_config(write_deepstream(tmp_path / "a.onnx", tmp_path / "out"))
    ours = preprocess(street, SIZE, spec)
    np.testing.assert_allclose(nvinfer.preprocess(config, street), ours, rtol=1e-6, atol=1e-6)


def test_its_label_file_holds_the_names(tmp_path: Path) -> None:
    spec = form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES)
    folder = write_deepstream(tmp_path / "a.onnx", tmp_path / "out", batch=4)
    config = nvinfer.read_config(folder)
    assert nvinfer.read_labels(folder, config) == [[name] for name in spec.classes.names]
    assert config["batch-size"] == "4"
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "labels.txt", "model.onnx", "nvinfer.txt")
    }


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The parser of a folder, compiled against the stub, or against DeepStream's own header."""
    folder = tmp_path_factory.mktemp("parser")
    form_demo(folder / "a.onnx")
    source = write_deepstream(folder / "a.onnx", folder / "out") / "parser.cpp"
    headers = os.environ.get("ALIGNSEG_DEEPSTREAM_HEADERS", str(STUB))
    library = folder / "libparser.so"
    flags = ("-shared", "-Wall", "-Wextra", "-Werror", "-isystem", headers)
    host_compile([source, CALLER], library, flags=flags)
    return ctypes.CDLL(str(library))


def test_the_command_of_its_readme_compiles_the_parser(tmp_path: Path) -> None:
    """With the folder of headers that this machine has."""
    form_demo(tmp_path / "a.onnx")
    folder = write_deepstream(tmp_path / "a.onnx", tmp_path / "out")
    [_, block, *_] = (folder / "README.md").read_text(encoding="utf-8").split("```")
    compiler, *words = shlex.split(block.removeprefix("bash").replace("\\\n", " "))
    program = shutil.which(compiler)
    if program is None:
        pytest.skip("needs g++")
    installed = "-I/opt/nvidia/deepstream/deepstream/sources/includes"
    assert words.pop() == installed
    subprocess.run([program, *words, f"-I{STUB}"], cwd=folder, check=True)
    assert (folder / nvinfer.read_config(folder)["custom-lib-path"]).exists()


def call_parser(
    parser: ctypes.CDLL, name: str, output: NDArray[np.generic], classes: int = 19
) -> NDArray[np.int32] | None:
    """Return the class map; None if the parser refuses the output."""
    output = np.ascontiguousarray(output)
    labels = np.full(SIZE, -7, np.int32)
    sides = (ctypes.c_uint * output.ndim)(*output.shape)
    buffers = (array.ctypes.data_as(ctypes.c_void_p) for array in (output, labels))
    given, made = buffers
    kind = TYPES[output.dtype.name]
    done = parser.callParser(name.encode(), kind, sides, output.ndim, given, *SIZE, classes, made)
    return labels if done else None


@pytest.mark.parametrize(("output", "layout", "label_type"), PARSED)
def test_our_parser_makes_the_labels(
    parser: ctypes.CDLL,
    output: OutputKind,
    layout: Layout | None,
    label_type: LabelType | None,
    street: Image,
    expected: NDArray[np.generic],
    tmp_path: Path,
) -> None:
    form_demo(tmp_path / "a.onnx", output, layout=layout, label_type=label_type)
    folder = write_deepstream(tmp_path / "a.onnx", tmp_path / "out")
    config = nvinfer.read_config(folder)
    assert config["parse-segmentation-func-name"] == "NvDsInferParseAlignSeg"
    assert config["custom-lib-path"] in (folder / "README.md").read_text(encoding="utf-8")
    result = run(folder / "model.onnx", nvinfer.preprocess(config, street))
    labels = call_parser(parser, config["output-blob-names"], result)
    assert labels is not None
    assert np.array_equal(labels, expected)


def test_our_parser_refuses_what_it_cannot_read(parser: ctypes.CDLL) -> None:
    labels = np.zeros(SIZE, np.int32)
    assert call_parser(parser, "labels", labels) is not None
    assert call_parser(parser, "probabilities", labels) is None
    assert call_parser(parser, "labels", labels.astype(np.int8)) is None
    assert call_parser(parser, "labels", labels[1:]) is None
    assert call_parser(parser, "logits", np.zeros((3, 4, 5), np.float32)) is None


def refusal(tmp_path: Path, *arguments: Any, **changes: Any) -> AlignSegError:
    form_demo(tmp_path / "a.onnx", *arguments, **changes)
    with pytest.raises(AlignSegError) as caught:
        write_deepstream(tmp_path / "a.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return caught.value


def test_other_forms_are_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        write_deepstream(model_path("demo"), tmp_path / "out")
    assert caught.value.fix == (
        "alignseg export-onnx demo -o demo-deepstream.onnx --output probabilities --layout nchw "
        "--size 512x1024"
    )


@pytest.mark.parametrize("order", ChannelOrder)
def test_different_factors_go_into_the_graph(
    order: ChannelOrder, street: Image, tmp_path: Path
) -> None:
    spec = InputSpec(channel_order=order, mean=(104.0, 116.7, 122.7), std=(58.4, 30.1, 77.4))
    form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES, prepared=spec)
    folder = write_deepstream(tmp_path / "a.onnx", tmp_path / "out")
    config = nvinfer.read_config(folder)
    taken = nvinfer.preprocess(config, street)
    was = run(tmp_path / "a.onnx", preprocess(street, SIZE, spec))
    assert np.array_equal(run(folder / "model.onnx", taken), was)
    same = Predictor(folder / "model.onnx")(street).labels
    assert np.array_equal(same, Predictor(tmp_path / "a.onnx")(street).labels)
    assert np.array_equal(nvinfer.class_map(config, was.astype(np.float32)), same)


def test_a_name_that_a_label_file_cannot_hold(tmp_path: Path) -> None:
    spec = form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES)
    names = ("road;street", *spec.classes.names[1:])
    error = refusal(tmp_path, OutputKind.PROBABILITIES, classes=replace(spec.classes, names=names))
    assert "road;street" in error.problem


def test_a_batch_that_does_not_fit(tmp_path: Path) -> None:
    form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES)
    for batch in (0, 1025):
        with pytest.raises(OptionError):
            write_deepstream(tmp_path / "a.onnx", tmp_path / "out", batch=batch)


def test_a_folder_with_files_stays(tmp_path: Path) -> None:
    form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES)
    with pytest.raises(OutputError):
        write_deepstream(tmp_path / "a.onnx", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_library_for_a_model_without_plugins(tmp_path: Path) -> None:
    form_demo(tmp_path / "a.onnx", OutputKind.PROBABILITIES)
    with pytest.raises(OptionError):
        write_deepstream(tmp_path / "a.onnx", tmp_path / "out", plugin=tmp_path / "b.so")
