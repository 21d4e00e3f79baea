"""What a graph takes and returns is compared with its facts: what fits runs, the rest is refused.

The same cases go through ONNX Runtime, OpenVINO and the reader of ONNX files; engines are further
down, on a fake TensorRT.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from alignseg_infer import ModelFileError, Predictor
from alignseg_infer.arrays import Image
from alignseg_infer.backend import OffsetBackend
from alignseg_infer.backends import ENGINE_RUNNERS, OnnxRunner, open_backend
from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.spec.model import SPEC_KEY, ExportSpec, ModelSpec
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from tests.support.changed_graphs import (
    Change,
    changed,
    declares,
    ends_with,
    fixed,
    fixed_batch,
    outputs_reversed,
    renamed,
    returns,
    returns_more,
    takes,
    takes_more,
    told,
    without_shape,
)
from tests.support.export_kinds import (
    DYNAMIC_KINDS,
    FIXED,
    FIXED_GATHER,
    FIXED_OFFSETS,
    FIXED_RESIZE,
    PLAIN,
    PLAIN_OFFSETS,
    Kind,
)
from tests.support.models import half_onnx
from tests.support.slow import all_slow

RUNTIMES = [runtime for runtime in OnnxRunner if runtime not in ENGINE_RUNNERS]
FLOAT16, FLOAT, DOUBLE = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE

Export = Callable[..., Path]
both = pytest.mark.parametrize("runtime", RUNTIMES)


@pytest.fixture(scope="module")
def image() -> Image:
    return Street(7).scene(size=(96, 192)).image


def export_of(path: Path) -> ExportSpec:
    export = read_onnx_facts(path).export
    assert isinstance(export, ExportSpec)
    return export


def told_in(path: Path) -> ModelSpec:
    entries = onnx.load(path, load_external_data=False).metadata_props
    return ModelSpec.from_json(next(entry.value for entry in entries if entry.key == SPEC_KEY))


# What runs

SAME: dict[str, tuple[Change, ...]] = {
    "output of unknown shape": (without_shape("logits"),),
    "sides and batch of -1": (
        declares("image", -1, 3, -1, -1),
        declares("logits", -1, 19, -1, -1),
    ),
    "channels of any number": (declares("image", "N", "C", "H", "W"),),
    "float16 input": (takes(FLOAT16),),
    "float16 output": (returns(FLOAT16),),
    "float16 both": (takes(FLOAT16), returns(FLOAT16)),
}


@both
@pytest.mark.parametrize("name", SAME)
def test_a_harmless_change_labels_as_before(
    name: str, runtime: OnnxRunner, image: Image, tmp_path: Path
) -> None:
    path = changed(model_path("demo"), tmp_path / "a.onnx", *SAME[name])
    backend = open_backend(path, runtime=runtime)
    assert backend.spec == read_onnx_facts(path).spec == told_in(path)
    expected = Predictor("demo", batch=2)([image] * 2)
    for seen, one in zip(Predictor(backend, batch=2)([image] * 2), expected, strict=True):
        assert np.mean(seen.labels == one.labels) > (0.99 if "float16" in name else 0.9999)
    assert backend.infer(np.zeros((1, 3, 64, 96), np.float32)).dtype == np.float32


def test_an_input_of_unknown_shape(image: Image, tmp_path: Path) -> None:
    path = changed(model_path("demo"), tmp_path / "a.onnx", without_shape("image"))
    seen, expected = (Predictor(model)(image).labels for model in (path, "demo"))
    np.testing.assert_array_equal(seen, expected)
    with pytest.raises(ModelFileError, match="rank"):
        open_backend(path, runtime="openvino")


@both
def test_float16_is_converted_exactly(runtime: OnnxRunner, tmp_path: Path) -> None:
    """Both graphs round the image to float16; only the second one takes it so."""
    path = changed(model_path("demo"), tmp_path / "a.onnx", takes(FLOAT16), returns(FLOAT16))
    batch = np.random.default_rng(0).normal(0, 60, (2, 3, 64, 96)).astype(np.float32)
    rounded = batch.astype(np.float16).astype(np.float32)
    expected = open_backend("demo", runtime=runtime).infer(rounded).astype(np.float16)
    seen = open_backend(path, runtime=runtime).infer(batch)
    np.testing.assert_array_equal(seen, expected.astype(np.float32))


FIXES: dict[str, tuple[Change, tuple[int, int] | None, int | None]] = {
    "size": (fixed(1, 3, 64, 96), (64, 96), 1),
    "batch": (fixed_batch(1), None, 1),
    "larger batch": (fixed_batch(2), None, 2),
    "size alone": (declares("image", "N", 3, 64, 96), (64, 96), None),
}


@both
@pytest.mark.parametrize("name", FIXES)
def test_what_a_tool_fixed_is_a_fact(
    name: str,
    runtime: OnnxRunner,
    image: Image,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, size, batch = FIXES[name]
    path = changed(model_path("demo"), tmp_path / "a.onnx", change)
    assert (export_of(path).size, export_of(path).batch) == (size, batch)
    predictor = Predictor(path, runtime=runtime, batch=3)
    assert predictor.spec == read_onnx_facts(path).spec
    expected = Predictor("demo", size=size)(image)
    for seen in predictor([image] * 3):
        assert seen.input_size == expected.input_size
        assert np.mean(seen.labels == expected.labels) > 0.9999
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    shape = f"{'any size' if size is None else '64x96'}, {f'batch {batch}' if batch else 'any ba'}"
    assert f"export: fp32, logits, {shape}" in shown
    assert "changed since the export: it was exported as fp32, any size, any batch" in shown


@pytest.mark.parametrize(
    "kind",
    [
        *(FIXED, FIXED_GATHER, PLAIN_OFFSETS, *DYNAMIC_KINDS),
        *all_slow(PLAIN, FIXED_RESIZE, FIXED_OFFSETS),
    ],
    ids=str,
)
def test_exports_are_as_they_say(export_small: Export, kind: Kind) -> None:
    path = export_small(**kind)
    assert read_onnx_facts(path).spec == told_in(path)
    for runtime in RUNTIMES:
        backend = open_backend(path, runtime=runtime)
        assert backend.spec == told_in(path)
        assert isinstance(backend, OffsetBackend)
        assert backend.has_offsets is bool(kind.get("with_offsets"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [FIXED, PLAIN_OFFSETS], ids=str)
def test_float16_exports_are_as_they_say(export_small: Export, kind: Kind, tmp_path: Path) -> None:
    path = half_onnx(export_small(**kind), tmp_path)
    assert read_onnx_facts(path).spec == told_in(path)
    for runtime in RUNTIMES:
        assert open_backend(path, runtime=runtime).spec == told_in(path)


@both
def test_labels_and_offsets_of_other_types_in_another_order(
    runtime: OnnxRunner, export_small: Export, tmp_path: Path
) -> None:
    source = export_small(**PLAIN_OFFSETS)
    path = changed(
        source,
        tmp_path / "a.onnx",
        returns(TensorProto.INT64, name="labels"),
        returns(FLOAT16, name="offset.cab2.low"),
        outputs_reversed,
    )
    batch = np.random.default_rng(0).normal(0, 60, (2, 3, 65, 98)).astype(np.float32)
    seen, expected = (open_backend(one, runtime=runtime) for one in (path, source))
    assert isinstance(seen, OffsetBackend)
    assert isinstance(expected, OffsetBackend)
    labels = seen.infer(batch)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected.infer(batch))
    for field, offset in expected.offsets(batch).items():
        found = seen.offsets(batch)[field]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, offset, rtol=1e-3, atol=1e-3)


# Contradictions


@both
def test_a_size_that_contradicts_the_facts_is_followed_if_the_network_runs_there(
    runtime: OnnxRunner, image: Image, tmp_path: Path
) -> None:
    path = changed(
        model_path("demo"), tmp_path / "a.onnx", fixed(1, 3, 64, 96), told(size=(96, 192), batch=4)
    )
    predictor = Predictor(path, runtime=runtime)
    assert (export_of(path).size, export_of(path).batch) == ((64, 96), 1)
    expected = Predictor("demo", size=(64, 96))(image)
    assert np.mean(predictor(image).labels == expected.labels) > 0.9999


@both
@pytest.mark.parametrize("kind", [FIXED, PLAIN], ids=str)
@pytest.mark.parametrize("shape", [(1, 3, 130, 196), (3, 3, 33, 40)])
def test_a_size_at_which_the_network_does_not_run_is_refused_at_load(
    runtime: OnnxRunner, kind: Kind, shape: tuple[int, ...], export_small: Export, tmp_path: Path
) -> None:
    path = changed(export_small(**kind), tmp_path / "a.onnx", declares("image", *shape))
    with pytest.raises(ModelFileError):
        open_backend(path, runtime=runtime)


@both
def test_a_fixed_export_whose_input_was_declared_free_stays_fixed(
    runtime: OnnxRunner, export_small: Export, tmp_path: Path
) -> None:
    path = changed(
        export_small(**FIXED_OFFSETS), tmp_path / "a.onnx", declares("image", "N", 3, "H", "W")
    )
    assert open_backend(path, runtime=runtime).spec == told_in(path)


# What is refused

ANY = ("N", 19, "h", "w")
REFUSED: dict[str, tuple[tuple[Change, ...], str, str]] = {
    "uint8 input": ((takes(TensorProto.UINT8),), "image uint8", "image float32 or float16"),
    "double input": ((takes(DOUBLE),), "image float64", "image float32 or float16"),
    "4 channels": ((takes(shape=["N", 4, "H", "W"]),), "(any, 4, any, any)", "(any, 3, any, any)"),
    "1 channel": ((takes(shape=["N", 1, "H", "W"]),), "(any, 1, any, any)", "(any, 3, any, any)"),
    "channels last": (
        (takes(shape=["N", 64, 96, 3]),),
        "(any, 64, 96, 3)",
        "(any, 3, any, any)",
    ),
    "rank 3": ((takes(shape=[3, "H", "W"]),), "image float32 (3, any, any)", "(any, 3, any, any)"),
    "second input": (
        (takes_more,),
        "image float32 (any, 3, any, any), scale float32",
        "image alone",
    ),
    "21 channels": (
        (ends_with("Pad", "c_pads", "c_nowhere"), declares("logits", "N", 21, "h", "w")),
        "logits float32 (any, 21, any, any)",
        "logits float32 or float16 (any, 19, any, any)",
    ),
    "double output": ((returns(DOUBLE),), "logits float64", "logits float32 or float16"),
    "integer output": ((returns(TensorProto.INT32),), "logits int32", "logits float32"),
    "another output": ((renamed("logits", "scores"),), "scores float32", "logits alone"),
    "second output": ((returns_more,), "copy float32", "logits alone"),
    "labels that are logits": ((told(output="labels"),), "logits float32", "labels alone"),
    "one side fixed": ((declares("image", "N", 3, 64, "W"),), "(any, 3, 64, any)", "both fixed"),
    "too small": ((declares("image", 1, 3, 8, 8),), "(1, 3, 8, 8)", "32 to 16384 pixels"),
    "too large": ((declares("image", 1, 3, 64, 20000),), "20000)", "32 to 16384 pixels"),
}


def open_with(reader: str, path: Path) -> object:
    return read_onnx_facts(path) if reader == "facts" else open_backend(path, runtime=reader)


@pytest.mark.parametrize("reader", [*RUNTIMES, "facts"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_that_does_not_fit_is_refused_at_load(
    name: str, reader: str, tmp_path: Path
) -> None:
    changes, seen, expected = REFUSED[name]
    path = changed(model_path("demo"), tmp_path / "a.onnx", *changes)
    with pytest.raises(ModelFileError) as caught:
        open_with(reader, path)
    assert str(path) in caught.value.problem
    assert seen in caught.value.problem
    assert expected in caught.value.expected
    assert "alignseg export-onnx CHECKPOINT -o MODEL.onnx" in caught.value.fix


OTHER_OUTPUTS: dict[str, tuple[Change, str, str]] = {
    "labels in float": (returns(FLOAT, name="labels"), "labels float32", "labels uint8 or"),
    "labels in int8": (returns(TensorProto.INT8, name="labels"), "labels int8", "labels uint8 or"),
    "offsets in int32": (
        returns(TensorProto.INT32, name="offset.cam"),
        "offset.cam int32 (2, 2, ",
        "offset.cam float32 or float16 (2, 2, any, any)",
    ),
}


@pytest.mark.parametrize("reader", [*RUNTIMES, "facts"])
@pytest.mark.parametrize("name", OTHER_OUTPUTS)
def test_labels_and_offsets_that_do_not_fit(
    name: str, reader: str, export_small: Export, tmp_path: Path
) -> None:
    change, seen, expected = OTHER_OUTPUTS[name]
    path = changed(export_small(**PLAIN_OFFSETS), tmp_path / "a.onnx", change)
    with pytest.raises(ModelFileError) as caught:
        open_with(reader, path)
    assert seen in caught.value.problem
    assert expected in caught.value.expected


# What only the values show

PROBABILITIES = ends_with("Softmax", axis=1)


@both
@pytest.mark.parametrize("halved", [False, True])
def test_probabilities_are_refused_at_the_first_call(
    runtime: OnnxRunner, halved: bool, image: Image, tmp_path: Path
) -> None:
    changes = [PROBABILITIES, *([returns(FLOAT16, list(ANY))] if halved else [])]
    path = changed(model_path("demo"), tmp_path / "a.onnx", *changes)
    predictor = Predictor(path, runtime=runtime)
    with pytest.raises(ModelFileError, match="returned probabilities: all values are from 0 to 1"):
        predictor(image)
    with pytest.raises(ModelFileError, match="probabilities"):
        list(predictor.stream([image, image]))


WRONG_SHAPES = {
    "one of two images": (("c_zero", "c_one", "c_zero"), "(1, 19, 17, 25)"),
    "empty": (("c_zero", "c_zero", "c_zero"), "(0, 19, 17, 25)"),
    "fewer classes": (("c_zero", "c_three", "c_one"), "logits float32 (any, 3, any, any)"),
    "no rows": (("c_zero", "c_zero", "c_two"), ", 19, 0, "),
}


@both
@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_outputs_of_wrong_shapes_are_refused_at_load_or_at_the_first_call(
    name: str, runtime: OnnxRunner, image: Image, tmp_path: Path
) -> None:
    cut, seen = WRONG_SHAPES[name]
    path = changed(model_path("demo"), tmp_path / "a.onnx", ends_with("Slice", *cut))
    with pytest.raises(ModelFileError) as caught:
        Predictor(path, runtime=runtime, batch=2, size=(64, 96))([image, image])
    assert seen in caught.value.problem


COMMANDS = {
    "predict": "predict {model} {image} -o {folder}",
    "eval": "eval {model} --dataset folder --root {folder}",
    "bench": "bench {model} --images {image} --rounds 1",
    "video": "video {model} streets -o {folder}/a.mp4 --max-frames 2 --size 64x96",
    "verify": "verify {model} --against demo --images {image}",
    "slide": "predict {model} {image} -o {folder} --mode slide --tile 64",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_wrong_outputs(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list(write_streets(tmp_path, 0, 1, (64, 96)))
    image = next((tmp_path / "images").iterdir())
    model = changed(model_path("demo"), tmp_path / "a.onnx", PROBABILITIES)
    words = COMMANDS[command].format(model=model, image=image, folder=tmp_path).split()
    assert main(words) == 1
    assert "the network returned probabilities" in capsys.readouterr().err
