"""Float16 and int8 files: what the commands write, what they refuse, and what they leave alone."""

import json
import logging
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from alignseg_infer import (
    AlignSegError,
    DatasetError,
    ExportError,
    MissingDependencyError,
    ModelError,
    ModelFileError,
    OptionError,
    Predictor,
    SizeError,
    VerificationError,
)
from alignseg_infer.arrays import InputShape
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.cli import main
from alignseg_infer.cuda.base import Gpu
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export import half_precision as halves
from alignseg_infer.export.half_precision import to_half_precision
from alignseg_infer.export.verification import record
from alignseg_infer.export.verification import verify as verification
from alignseg_infer.export.verification.verify import verify_where_possible
from alignseg_infer.spec.model import AGREEMENT_KEY, SPEC_KEY, ModelSpec, OutputKind, Precision
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT, Verification
from alignseg_infer.trt.engine_file import Profile, sidecar_path
from alignseg_infer.trt.flavours import Flavour
from tests.support.export_kinds import LABELS_AND_OFFSETS
from tests.support.fake_tensorrt import write_engine

DEMO = model_path("demo")
SIZE = (128, 256)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with images/ and labels/ of four streets."""
    folder = tmp_path_factory.mktemp("streets")
    list(write_streets(folder, FIRST_HELD_OUT, 4, size=SIZE))
    return folder


@pytest.fixture(scope="module")
def folder(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make ``fp16.onnx`` and ``int8.onnx`` from the demo model."""
    folder = tmp_path_factory.mktemp("models")
    for precision in ("fp16", "int8"):
        command = f"export-onnx {DEMO} -o {folder}/{precision}.onnx --precision {precision}"
        if precision == "int8":
            command += f" --calibration {streets}/images --max-calibration-images 4"
        assert main(command.split()) == 0
    return folder


@pytest.mark.parametrize(
    ("precision", "share", "alike"), [("fp16", 0.55, 0.999), ("int8", 0.35, 0.98)]
)
def test_what_is_written(
    precision: str, share: float, alike: float, folder: Path, streets: Path
) -> None:
    path = folder / f"{precision}.onnx"
    backend = OnnxRuntimeBackend(path)
    assert backend.spec.export is not None
    assert backend.spec.export.precision == precision
    assert backend.spec.export.opset == (19 if precision == "int8" else 18)
    assert backend.spec.classes == OnnxRuntimeBackend(DEMO).spec.classes
    assert path.stat().st_size < share * DEMO.stat().st_size
    found = Verification.from_json(backend.metadata[AGREEMENT_KEY])
    assert found.reference == DEMO.name
    assert all(row.agreement >= alike for row in found.rows)
    image = streets / "images" / f"street-{FIRST_HELD_OUT}.png"
    assert np.mean(Predictor(path)(image).labels == Predictor("demo")(image).labels) >= alike


def test_int8_is_in_the_graph(folder: Path) -> None:
    """55 convolutions read int8; scales are float16, weights are stored as int8."""
    model = ir.load(folder / "int8.onnx")
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    quantized = [node for node in convolutions if _is_dequantized(node, 0)]
    assert len(quantized) == 55
    assert all(_is_dequantized(node, 1) for node in quantized)
    assert {node.outputs[0].dtype for node in convolutions} == {ir.DataType.FLOAT16}
    for node in model.graph:
        if node.op_type in halves.QUANTIZERS:
            assert node.inputs[1] is not None
            assert node.inputs[1].dtype == ir.DataType.FLOAT16
    stored = {v.dtype for v in model.graph.initializers.values() if len(v.shape or ()) == 4}
    assert stored == {ir.DataType.INT8, ir.DataType.FLOAT16}


def _is_dequantized(node: ir.Node, index: int) -> bool:
    value = node.inputs[index]
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def test_scales_are_rounded_up_and_weights_follow() -> None:
    scales = np.array([1e-9, 3e-8, 7e-6, 6.1e-5, 0.0123, 1.0], np.float32)
    rounded = halves._round_up_to_half(scales)
    assert (rounded >= scales).all()
    assert (rounded == rounded.astype(np.float16)).all()
    assert (rounded[1:] <= scales[1:] * np.array([2, 1.01, 1.001, 1.001, 1.001])).all()


def test_small_weights_keep_their_values_through_float16_scales() -> None:
    """A scale of 7e-6 has a tenth of float16's precision: only refitted weights survive that."""
    scale = np.array([7.03e-6, 0.01], np.float32)
    weights = np.tile(np.arange(-127, 128, dtype=np.int8), (2, 1)).reshape(2, 255, 1, 1)
    model = _with_quantized_weights(weights, scale)
    exact = weights * scale.reshape(2, 1, 1, 1)
    to_half_precision(model)
    node = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    found = [value.const_value.numpy() for value in node.inputs[:2] if value and value.const_value]
    seen = found[0] * found[1].astype(np.float32).reshape(2, 1, 1, 1)
    step = np.abs(exact).max(axis=1, keepdims=True) / 127
    assert (np.abs(seen - exact) <= 0.51 * step).all()
    assert found[0].dtype == np.int8


def _with_quantized_weights(weights: Any, scale: Any) -> ir.Model:
    image = ir.val("image", ir.DataType.FLOAT, [1, weights.shape[1], 4, 4])
    initializers = [
        ir.val(name, const_value=ir.tensor(array))
        for name, array in (("w", weights), ("s", scale), ("z", np.zeros(2, np.int8)))
    ]
    dequantized = ir.node("DequantizeLinear", initializers, {"axis": 0})
    conv = ir.node("Conv", [image, dequantized.outputs[0]])
    conv.outputs[0].name, conv.outputs[0].dtype = "logits", ir.DataType.FLOAT
    graph = ir.Graph(
        [image],
        conv.outputs,
        nodes=[dequantized, conv],
        initializers=initializers,
        opset_imports={"": 19},
    )
    return ir.Model(graph, ir_version=10)


BAD = [
    (f"{DEMO} -o a.onnx", OptionError, "--precision fp16"),
    (f"{DEMO} -o a.onnx --precision fp32", OptionError, "is already an exported model"),
    (f"{DEMO} -o a.onnx --precision int8", OptionError, "--calibration FOLDER"),
    (f"{DEMO} -o a.onnx --precision fp16 --opset 17", OptionError, "--opset cannot change"),
    (f"{DEMO} -o a.onnx --opset 18", OptionError, "--opset cannot change"),
    (f"{DEMO} -o a.onnx --norm batch-norm", OptionError, "--norm cannot change"),
    (f"{DEMO} -o a.onnx --sampler auto", OptionError, "--sampler cannot change"),
    (f"{DEMO} -o a.onnx --output labels --opset 18", OptionError, "--opset cannot change"),
    (f"{DEMO} -o a.onnx --size 64x96 --sampler native", OptionError, "--sampler cannot change"),
    (f"{DEMO} -o a.onnx --precision fp16 --no-rewrites", OptionError, "--no-rewrites cannot"),
    (f"{DEMO} -o a.engine --precision fp16", OptionError, "-o a.onnx"),
    ("nowhere.onnx -o a.onnx --precision fp16", ModelFileError, "nowhere.onnx does not exist"),
    (
        "{folder}/fp16.onnx -o a.onnx --precision int8 --calibration {streets}",
        ExportError,
        "is fp16",
    ),
    (f"{DEMO} -o a.onnx --precision fp16 --verification nowhere", AlignSegError, "nowhere"),
    (f"{DEMO} -o a.onnx --precision int8 --calibration {{empty}}", AlignSegError, "image"),
    ("demo -o a.onnx --precision int8", OptionError, "--calibration FOLDER"),
    ("demo -o a.onnx --precision int8 --calibration nowhere", DatasetError, "does not exist"),
    (f"{DEMO} -o a.onnx --precision fp16 --calibration .", OptionError, "without --precision int8"),
    ("demo -o a.onnx --int8-budget 0.5", OptionError, "without --precision int8"),
]


@pytest.mark.parametrize(("command", "error", "words"), BAD, ids=[line[0][-60:] for line in BAD])
def test_what_is_refused(
    command: str,
    error: type[AlignSegError],
    words: str,
    folder: Path,
    streets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    typed = command.format(folder=folder, streets=streets / "images", empty=tmp_path / "empty")
    with pytest.raises(error) as caught:
        main(["export-onnx", *typed.split(), "--debug"])
    assert words in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_a_model_that_fails_the_comparison_is_kept_under_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, rejected = tmp_path / "half.onnx", tmp_path / "half.rejected.onnx"
    target.write_bytes(b"an older file")
    command = ["export-onnx", str(DEMO), "-o", str(target), "--precision", "fp16"]
    with pytest.raises(VerificationError, match=r"half\.onnx labels too many pixels") as caught:
        main([*command, "--min-agreement", "1", "--debug"])
    assert target.read_bytes() == b"an older file"
    assert sorted(tmp_path.iterdir()) == [target, rejected]
    capsys.readouterr()

    advised = re.search("alignseg (inspect .*)", caught.value.problem)
    assert advised is not None
    assert main(shlex.split(advised[1])) == 0
    shown = capsys.readouterr().out
    assert "required agreement 100.00%" in shown
    assert "this is too few: the model was rejected" in shown

    lower = re.search("--min-agreement [0-9.]+", caught.value.fix)
    assert lower is not None
    assert main([*command, *lower[0].split()]) == 0
    capsys.readouterr()
    assert main(["inspect", str(target)]) == 0
    shown = capsys.readouterr().out
    assert f"required agreement {float(lower[0].split()[1]):.2%}" in shown
    assert "rejected" not in shown


def test_a_source_with_the_name_of_a_rejected_file_is_not_lost(tmp_path: Path) -> None:
    source = tmp_path / "h.rejected.onnx"
    shutil.copy(DEMO, source)
    before = source.read_bytes()
    command = ["export-onnx", str(source), "-o", str(tmp_path / "h.onnx"), "--precision", "fp16"]
    assert main([*command, "--min-agreement", "1"]) == 1
    assert source.read_bytes() == before
    assert (tmp_path / "h.rejected-2.onnx").is_file()


def test_a_rejected_model_is_not_taken_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["export-onnx", str(DEMO), "-o", str(tmp_path / "h.onnx"), "--precision", "fp16"]
    assert main([*command, "--min-agreement", "1"]) == 1
    caplog.clear()
    rejected = tmp_path / "h.rejected.onnx"
    OnnxRuntimeBackend(rejected)
    assert "was rejected when it was made" in caplog.text
    caplog.clear()
    build = ["export-trt", str(rejected), "-o", str(tmp_path / "h.engine"), "--size", "64x96"]
    assert main([*build, "--flavour", "tensorrt-rtx"]) == 0
    assert "was rejected when it was made" in caplog.text
    caplog.clear()
    assert main(command) == 0
    OnnxRuntimeBackend(tmp_path / "h.onnx")
    OnnxRuntimeBackend(DEMO)
    assert "rejected" not in caplog.text


def test_float32_has_no_gate_of_labels(tmp_path: Path) -> None:
    command = ["export-onnx", "demo", "-o", str(tmp_path / "a.onnx"), "--min-agreement", "1"]
    with pytest.raises(OptionError, match="--min-agreement 1 was given for a float32 graph"):
        main([*command, "--debug"])


def test_a_checkpoint_that_fails_as_an_engine_is_kept_beside_it(
    small_onnx: Path, tmp_path: Path
) -> None:
    command = ["export-trt", str(small_onnx), "-o", str(tmp_path / "a.engine")]
    command += ["--flavour", "tensorrt-rtx", "--opt-shape", "1x64x96", "--precision", "fp16"]
    with pytest.raises(VerificationError, match=r"inspect \S*a\.rejected\.onnx"):
        main([*command, "--min-agreement", "1", "--debug"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.rejected.onnx"]


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan"])
def test_a_share_is_from_0_to_1(share: str, tmp_path: Path) -> None:
    command = ["export-onnx", str(DEMO), "-o", str(tmp_path / "a.onnx"), "--precision", "fp16"]
    with pytest.raises(OptionError, match="--min-agreement"):
        main([*command, f"--min-agreement={share}", "--debug"])


def test_labels_model_in_half(
    export_small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with the upsampling and argmax in the graph; random weights, so half may disagree."""
    monkeypatch.setitem(REQUIRED_AGREEMENT, Precision.FP16, 0.9)
    source = export_small(**LABELS_AND_OFFSETS)
    command = f"export-onnx {source} -o {tmp_path}/labels.onnx --precision fp16"
    assert main(command.split()) == 0
    spec = ModelSpec.from_json(ir.load(tmp_path / "labels.onnx").metadata_props[SPEC_KEY])
    assert spec.export is not None
    assert (spec.export.output, spec.export.precision) == (OutputKind.LABELS, Precision.FP16)


def test_verify_command(folder: Path, streets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"verify {folder}/int8.onnx --against demo --images {streets}/images"
    assert main([*command.split(), "--dataset", "folder", "--root", str(streets)]) == 0
    out = capsys.readouterr().out
    assert "rounding to float16, compared with demo.onnx on 4 images" in out
    assert "mean IoU changes by" in out
    assert "passed: in each row, at least 98.0% of the pixels" in out


def test_the_float32_model_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "demo.onnx"
    path.write_bytes(DEMO.read_bytes())
    with pytest.raises(OptionError, match="is the float32 model itself"):
        main(["export-onnx", str(path), "-o", str(path), "--precision", "fp16", "--debug"])
    assert path.read_bytes() == DEMO.read_bytes()


VERIFY = [
    ("{folder}/int8.onnx --against {folder}/fp16.onnx", ModelError, "reference is fp16"),
    ("{folder}/fp16.onnx --against {folder}/fp16.onnx", ModelError, "reference is fp16"),
    ("{folder}/fp16.onnx --against demo --size 16x64", SizeError, "16x64"),
    ("{folder}/fp16.onnx --against demo --max-images 0 --images {streets}", OptionError, "0 im"),
    ("{folder}/fp16.onnx --against demo --split val", OptionError, "--dataset folder"),
    ("{folder}/fp16.onnx --against demo --dataset folder", OptionError, "--root FOLDER"),
]


@pytest.mark.parametrize(("command", "error", "words"), VERIFY, ids=[line[0] for line in VERIFY])
def test_what_verify_refuses(
    command: str, error: type[AlignSegError], words: str, folder: Path, streets: Path
) -> None:
    typed = command.format(folder=folder, streets=streets / "images").split()
    with pytest.raises(error) as caught:
        main(["verify", *typed, "--debug"])
    assert words in str(caught.value)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """Write a plan file that says it is for compute capability 8.9."""
    path = tmp_path / "a.engine"
    write_engine(path, flavour=Flavour.TENSORRT_RTX, compute_capabilities=("8.9",), gpu=None)
    return path


FOUND = Verification(
    reference="demo.onnx",
    reference_sha256="0",
    backend="fake",
    images="2 images",
    required_agreement=0.995,
    rows=(),
)


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (None, "this machine has no GPU"),
        (Gpu("Old", "8.0"), "this machine's Old has compute capability 8.0"),
        (MissingDependencyError("no CUDA package", "", ""), "no CUDA package"),
        (Gpu("Right", "8.9"), None),
    ],
)
def test_engines_are_verified_where_they_can_run(
    gpu: Gpu | MissingDependencyError | None,
    said: str | None,
    engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def current_gpu() -> Gpu | None:
        if isinstance(gpu, MissingDependencyError):
            raise gpu
        return gpu

    monkeypatch.setattr(verification, "current_gpu", current_gpu)
    monkeypatch.setattr(verification, "verify", lambda *_, **__: FOUND)
    with caplog.at_level(logging.WARNING):
        found = verify_where_possible(engine, DEMO, command="alignseg verify a.engine")
    assert found == (FOUND if said is None else None)
    if said is not None:
        assert f"built, not verified ({said})" in caplog.text
        assert caplog.messages[-1].endswith("type: alignseg verify a.engine")


def test_an_engine_that_fails_is_verified_no_more(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Verification:
        raise VerificationError("it differs", "", "")

    for function, code, noted in ((lambda *_, **__: FOUND, 0, True), (fail, 1, False)):
        monkeypatch.setattr(record, "verify", function)
        assert main(["verify", str(engine), "--against", "demo"]) == code
        facts = json.loads(sidecar_path(engine).read_text())
        assert (facts["verification"] is not None) is noted


def test_a_verified_engine_says_so(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = engine.read_bytes()
    monkeypatch.setattr(record, "verify", lambda *_, **__: FOUND)
    assert main(["verify", str(engine), "--against", "demo"]) == 0
    facts = json.loads(sidecar_path(engine).read_text())
    assert facts["verification"]["backend"] == "fake"
    assert engine.read_bytes() == plan


def test_a_model_is_verified_in_the_runtime_after_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--size", "64x96", "--max-images", "1"]
    assert main(["verify", "demo@openvino:fp32", *words]) == 0
    said = capsys.readouterr().out
    assert "demo on openvino (CPU), compiled for one size for single images, compared" in said
    assert main(["verify", "demo@tuned", *words]) == 1
    said = capsys.readouterr().err
    assert "'tuned' is not a runtime" in said
    assert main(["verify", said.split("try: ")[1].strip(), *words]) == 0


def test_corners_of_an_engine_are_run(engine: Path) -> None:
    shapes = verification.profile_shapes(
        Profile(InputShape(1, 32, 32), InputShape(1, 32, 64), InputShape(2, 64, 64))
    )
    assert [str(shape) for shape in shapes] == [
        *("1x32x32", "2x32x32", "1x32x64", "2x32x64", "1x64x64", "2x64x64"),
    ]


def test_streets_are_drawn_at_the_largest_size() -> None:
    images = verification.draw_streets([InputShape(1, 64, 128), InputShape(1, 96, 128)])
    assert {image.shape for image in images} == {(96, 128, 3)}
    first = Street(FIRST_HELD_OUT).scene(size=(96, 128)).image
    np.testing.assert_array_equal(images[0], first)
