"""What other tools make of our files: it runs and labels alike, or is refused rightly."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from alignseg_infer import AlignSegError, ExportError, ModelFileError, Predictor, adopt_onnx
from alignseg_infer.arrays import Floats, InputShape, Labels
from alignseg_infer.backends import open_backend
from alignseg_infer.cli import main
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export.graph.onnx_file import load_graph, save_onnx
from alignseg_infer.export.half_precision import to_half_precision
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.export.int8.options import QuantizationOptions
from alignseg_infer.export.int8.quantize import choose_convolutions, quantize_model
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import (
    AGREEMENT_KEY,
    INPUT_NAME,
    VERIFICATION_KEY,
    InputSpec,
    Precision,
)
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.spec.verification import Verification, VerifiedRow
from tests.support.changed_graphs import Change, changed, declares, returns, takes
from tests.support.export_kinds import FIXED_GATHER, FIXED_OFFSETS, PLAIN_OFFSETS
from tests.support.models import said_to_be
from tests.support.slow import all_slow

DEMO = model_path("demo")
Tool = Callable[[Path, Path], None]


def slim(source: Path, target: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim", reason="needs onnxslim, of the extra test")
    onnx.save(onnxslim.slim(str(source)), target)


def simplify(source: Path, target: Path) -> None:
    onnxsim = pytest.importorskip("onnxsim", reason="needs onnxsim, of the extra test")
    model, same = onnxsim.simplify(onnx.load(source))
    assert same
    onnx.save(model, target)


def optimise(level: str) -> Tool:
    def run(source: Path, target: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}"
        )
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return run


def convert_opset(opset: int) -> Tool:
    def run(source: Path, target: Path) -> None:
        onnx.save(onnx.version_converter.convert_version(onnx.load(source), opset), target)

    return run


def fix_batch(source: Path, target: Path) -> None:
    tools = pytest.importorskip("onnxruntime.tools.onnx_model_utils")
    model = onnx.load(source)
    if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param != "N":
        pytest.skip("this form has a fixed batch already")
    tools.make_dim_param_fixed(model.graph, "N", 1)
    tools.fix_output_shapes(model)
    onnx.save(model, target)


def to_float16(source: Path, target: Path) -> None:
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


class StreetReader:
    """What ONNX Runtime's quantizer takes images from."""

    def __init__(self) -> None:
        self._seeds = iter(range(2))

    def get_next(self) -> dict[str, Any] | None:
        seed = next(self._seeds, None)
        if seed is None:
            return None
        image = Street(seed).scene(size=(64, 96)).image
        return {INPUT_NAME: preprocess(image, (64, 96), InputSpec())}


def quantise(kind: str) -> Tool:
    """As ``quantize_static`` of ONNX Runtime does."""

    def run(source: Path, target: Path) -> None:
        tool = pytest.importorskip("onnxruntime.quantization")
        integers = getattr(tool.QuantType, kind)
        options = {"activation_type": integers, "weight_type": integers, "per_channel": True}
        tool.quantize_static(source, target, StreetReader(), **options)

    return run


def quantise_dynamic(source: Path, target: Path) -> None:
    tool = pytest.importorskip("onnxruntime.quantization")
    tool.quantize_dynamic(source, target, weight_type=tool.QuantType.QUInt8)


def forget_names(source: Path, target: Path) -> None:
    model = onnx.load(source)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, target)


def write_constants(source: Path, target: Path) -> None:
    """Write all weights as Constant nodes."""
    model = onnx.load(source)
    nodes = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes += model.graph.node
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target)


def drop_metadata(source: Path, target: Path) -> None:
    """As Polygraphy's sanitize does."""
    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.save(model, target)


QUANTISERS: dict[str, Tool] = {
    "quantised": quantise("QInt8"),
    "quantised-unsigned": quantise("QUInt8"),
    "quantised-dynamic": quantise_dynamic,
}
TOOLS: dict[str, Tool] = {
    "onnxslim": slim,
    "onnxsim": simplify,
    "onnxruntime-basic": optimise("BASIC"),
    "onnxruntime-extended": optimise("EXTENDED"),
    "onnxruntime-all": optimise("ALL"),
    "opset-20": convert_opset(20),
    "opset-23": convert_opset(23),
    "fixed-batch": fix_batch,
    "float16": to_float16,
    "nameless": forget_names,
    "constants": write_constants,
}
SIZE = (65, 98)  # of the kinds that have a fixed size


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    list(write_streets(folder, 0, 2, (96, 192)))
    return folder / "images"


@pytest.fixture(scope="session")
def forms(
    export_small: Callable[..., Path], streets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return a function that makes one of six forms of our exports, once."""
    folder = tmp_path_factory.mktemp("forms")

    def float16() -> Path:
        model = load_graph(DEMO)
        to_half_precision(model)
        return said_to_be(model, Precision.FP16, folder / "fp16.onnx")

    def int8() -> Path:
        model = quantize_model(load_graph(DEMO), calibrate_ranges(DEMO, choose_images(streets)))
        to_half_precision(model)
        return said_to_be(model, Precision.INT8, folder / "int8.onnx")

    make: dict[str, Callable[[], Path]] = {
        "native": lambda: DEMO,
        "gather": lambda: export_small(**FIXED_GATHER),
        "offsets": lambda: export_small(**FIXED_OFFSETS),
        "labels": lambda: export_small(**PLAIN_OFFSETS),
        "fp16": float16,
        "int8": int8,
    }
    made: dict[str, Path] = {}

    def form(name: str) -> Path:
        if name not in made:
            made[name] = make[name]()
        return made[name]

    return form


FORMS = ["native", "fp16", "int8", *all_slow("gather", "offsets", "labels")]


def label(model: Path) -> Labels:
    size = SIZE if Predictor(model).spec.export.size else (128, 256)  # type: ignore[union-attr]
    return Predictor(model, size=size)(Street(7).scene(size=size).image).labels


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("form", FORMS)
def test_what_a_tool_makes_labels_alike(
    form: str, tool: str, forms: Callable[[str], Path], tmp_path: Path
) -> None:
    changed = tmp_path / "changed.onnx"
    TOOLS[tool](forms(form), changed)
    assert changed.read_bytes() != forms(form).read_bytes()
    alike = (label(changed) == label(forms(form))).mean()
    # One rounding that a tool moves changes INT8 values, and float16 changes all.
    assert alike > (0.98 if tool == "float16" else 0.99 if form == "int8" else 0.999)


def in_openvino(model: Path, batch: Floats) -> NDArray[Any]:
    pytest.importorskip("openvino", reason="pip install openvino")
    return open_backend(model, runtime="openvino").infer(batch)


def in_opencv(model: Path, batch: Floats) -> NDArray[Any]:
    if not hasattr(cv2.dnn, "ENGINE_NEW"):
        pytest.skip("OpenCV before 5 cannot read dynamic shapes")
    network = cv2.dnn.readNetFromONNX(str(model), cv2.dnn.ENGINE_NEW)
    network.setInput(batch)
    logits: NDArray[Any] = network.forward()
    return logits


@pytest.mark.parametrize("runtime", [in_openvino, in_opencv])
@pytest.mark.parametrize("form", ["native", "fp16", "int8", *all_slow("gather")])
def test_other_runtimes_label_alike(
    form: str, runtime: Callable[[Path, Floats], NDArray[Any]], forms: Callable[[str], Path]
) -> None:
    backend = open_backend(forms(form))
    assert backend.spec.export is not None
    size = SIZE if backend.spec.export.size else (128, 256)
    image = preprocess(Street(7).scene(size=size).image, size, backend.spec.input)
    batch = np.repeat(image, backend.spec.export.batch or 1, axis=0)
    expected = backend.infer(batch).argmax(1)
    alike = (runtime(forms(form), batch).argmax(1) == expected).mean()
    assert alike > (0.98 if form == "int8" else 0.999)


CONVERSIONS = [
    *((tool, None) for tool in ("onnxslim", "onnxsim", "onnxruntime-basic")),
    *((tool, None) for tool in ("nameless", "constants")),
    ("onnxruntime-extended", "operators that are not ONNX's own: com.microsoft.Fused"),
    ("onnxruntime-all", "operators that are not ONNX's own: com.microsoft"),
    ("opset-20", "has ONNX opset 20"),
    ("opset-23", "has ONNX opset 23"),
    ("float16", "is fp16, and"),
    ("quantised", "is int8, and"),
    ("quantised-dynamic", "is int8, and"),
]


@pytest.mark.parametrize("precision", ["fp16", *all_slow("int8")])
@pytest.mark.parametrize(("tool", "problem"), CONVERSIONS)
def test_what_a_tool_makes_is_converted_or_refused(
    tool: str, problem: str | None, precision: str, streets: Path, tmp_path: Path
) -> None:
    changed, target = tmp_path / "changed.onnx", tmp_path / "converted.onnx"
    (TOOLS | QUANTISERS)[tool](DEMO, changed)
    words = ["--precision", precision, "--verification", str(streets)]
    words += ["--calibration", str(streets)] if precision == "int8" else []
    command = ["export-onnx", str(changed), "-o", str(target), *words]
    if problem is None:
        assert main(command) == 0
        assert (label(target) == label(DEMO)).mean() > 0.98
        return
    with pytest.raises((ExportError, ModelFileError), match=problem) as caught:
        main([*command, "--debug"])
    assert "alignseg export-onnx" in caught.value.fix or "from before" in caught.value.fix
    assert not target.exists()


def test_an_optimised_int8_file_is_verified(
    forms: Callable[[str], Path], streets: Path, tmp_path: Path
) -> None:
    """ONNX Runtime leaves some values without a type."""
    TOOLS["onnxruntime-basic"](forms("int8"), tmp_path / "int8.onnx")
    command = f"verify {tmp_path}/int8.onnx --against demo --images {streets}"
    assert main(command.split()) == 0


LESS_PRECISE = {name: (tool, Precision.INT8) for name, tool in QUANTISERS.items()}
LESS_PRECISE["float16"] = (to_float16, Precision.FP16)


@pytest.mark.parametrize("tool", LESS_PRECISE)
def test_the_facts_tell_the_precision_that_a_tool_left(
    tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a file is no float32 reference, and nothing in it was compared with one."""
    run, precision = LESS_PRECISE[tool]
    path = tmp_path / "a.onnx"
    run(DEMO, path)
    spec = Predictor(path).spec
    assert spec == read_onnx_facts(path).spec
    assert spec.export is not None
    assert spec.export.precision is precision
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"export: {precision}, logits" in shown
    assert "it was exported as fp32, any size, any batch" in shown
    assert f"not compared since it is {precision}: alignseg verify {path} --against" in shown
    assert main(["verify", "demo", "--against", str(path)]) == 1
    assert f"the reference is {precision}" in capsys.readouterr().err


@pytest.mark.parametrize("tool", TOOLS)
def test_the_facts_of_other_files_stay(
    tool: str, forms: Callable[[str], Path], tmp_path: Path
) -> None:
    for form in ("native", "fp16", "int8"):
        if (tool, form) != ("float16", "native"):
            TOOLS[tool](forms(form), tmp_path / f"{form}.onnx")
            seen, expected = (
                read_onnx_facts(path).export.precision
                for path in (tmp_path / f"{form}.onnx", forms(form))
            )
            assert seen is expected, form


def test_a_quantised_graph_is_not_quantised_again(tmp_path: Path) -> None:
    for tool in QUANTISERS.values():
        tool(DEMO, tmp_path / "a.onnx")
        with pytest.raises(ExportError, match="is already quantised"):
            choose_convolutions(load_graph(tmp_path / "a.onnx"), QuantizationOptions())


def test_lost_metadata_is_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that the error advises."""
    lost, original = tmp_path / "lost.onnx", tmp_path / "MODEL.onnx"
    drop_metadata(DEMO, lost)
    shutil.copy(DEMO, original)
    with pytest.raises(ModelFileError, match="without the metadata") as caught:
        Predictor(lost)
    with pytest.raises(ModelFileError, match="does not describe its model") as in_facts:
        main(["export-onnx", str(lost), "-o", "x.onnx", "--precision", "fp16", "--debug"])
    advice = caught.value.fix.partition("alignseg adopt ")[2]
    assert in_facts.value.fix.endswith(advice)
    assert main(["adopt", *advice.replace("MODEL.onnx", str(original)).split()]) == 0
    assert "has the metadata of" in capsys.readouterr().out
    np.testing.assert_array_equal(label(lost), label(DEMO))
    with pytest.raises(ModelFileError, match="already has its facts"):
        adopt_onnx(lost, original)


def test_weights_beside_a_file_stay_there(tmp_path: Path) -> None:
    model = onnx.load(DEMO)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="a.data")
    adopt_onnx(tmp_path / "a.onnx", "demo")
    assert (tmp_path / "a.onnx").stat().st_size < DEMO.stat().st_size / 5
    np.testing.assert_array_equal(label(tmp_path / "a.onnx"), label(DEMO))


def _other_weights(path: Path) -> None:
    model = load_graph(DEMO)
    value = next(v for v in model.graph.initializers.values() if len(v.shape or ()) == 4)
    assert value.const_value is not None
    value.const_value = onnx_ir.tensor(np.zeros_like(value.const_value.numpy()), name=value.name)
    model.metadata_props.clear()
    save_onnx(model, path)


def _float16(path: Path) -> None:
    model = load_graph(DEMO)
    to_half_precision(model)
    model.metadata_props.clear()
    save_onnx(model, path)


def _other_outputs(path: Path) -> None:
    model = onnx.load(DEMO)
    del model.metadata_props[:]
    del model.graph.output[1:]
    model.graph.output[0].name = "softmax"
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["softmax"]))
    onnx.save(model, path)


def test_comparisons_of_another_file_are_not_adopted(
    forms: Callable[[str], Path], tmp_path: Path
) -> None:
    ours, other = tmp_path / "ours.onnx", tmp_path / "other.onnx"
    words = ["--precision", "fp16"]
    assert main(["export-onnx", str(DEMO), "-o", str(ours), *words]) == 0
    assert {VERIFICATION_KEY, AGREEMENT_KEY} <= read_onnx_facts(ours).metadata.keys()
    drop_metadata(ours, other)
    adopt_onnx(other, ours)
    seen, expected = read_onnx_facts(other), read_onnx_facts(ours)
    assert seen.spec == expected.spec
    assert expected.metadata.keys() - seen.metadata.keys() == {VERIFICATION_KEY, AGREEMENT_KEY}


def test_a_rejection_is_adopted(tmp_path: Path) -> None:
    model = load_graph(DEMO)
    model.metadata_props[AGREEMENT_KEY] = Verification(
        reference="a.onnx",
        reference_sha256="0",
        backend="x",
        images="1 image",
        required_agreement=0.99,
        rows=(VerifiedRow(InputShape(1, 64, 96), 1, 0.5, 0.5, None),),
    ).to_json()
    save_onnx(model, tmp_path / "rejected.onnx")
    drop_metadata(tmp_path / "rejected.onnx", tmp_path / "a.onnx")
    adopt_onnx(tmp_path / "a.onnx", tmp_path / "rejected.onnx")
    assert AGREEMENT_KEY in read_onnx_facts(tmp_path / "a.onnx").metadata


@pytest.mark.parametrize("like", ["fp16", "int8"])
def test_the_advice_to_adopt_a_float32_file(
    like: str, forms: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_metadata(DEMO, tmp_path / "a.onnx")
    shutil.copy(DEMO, tmp_path / "FLOAT32.onnx")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match=f"a.onnx is fp32, but .* is {like}") as caught:
        adopt_onnx("a.onnx", forms(like))
    assert main(caught.value.fix.split()[1:]) == 0


@pytest.mark.parametrize("made", ["fp16", "int8"])
def test_the_advice_to_convert_the_float32_file(
    made: str,
    forms: Callable[[str], Path],
    streets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drop_metadata(forms(made), tmp_path / "a.onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IMAGES").symlink_to(streets)
    with pytest.raises(ModelFileError, match=f"a.onnx is {made}, but .* is fp32") as caught:
        adopt_onnx("a.onnx", DEMO)
    command, _, why = caught.value.fix.partition(", ")
    assert why == "which knows what has to stay float32"
    assert main(command.split()[1:]) == 0
    assert read_onnx_facts(tmp_path / "MODEL.onnx").export.precision == made


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_other_weights, r"labels only [\d.]+% of the pixels like"),
        (_float16, "is fp16, but .* is fp32"),
        (_other_outputs, "its outputs are softmax"),
        (lambda path: path.write_bytes(b"text"), "cannot be loaded"),
    ],
)
def test_other_models_do_not_get_the_facts(
    make: Callable[[Path], Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    make(path)
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match=problem) as caught:
        adopt_onnx(path, "demo")
    assert str(path) in caught.value.problem
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    ["adopt {}/a.onnx", "adopt {}/a.onnx --model demo", "adopt {}/a.engine --like demo"],
)
def test_the_option_that_belongs_to_the_file(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(DEMO, tmp_path / "a.onnx")
    with pytest.raises(AlignSegError, match=r"is (not )?an \.onnx file"):
        main([*command.format(tmp_path).split(), "--debug"])


DOORS: dict[str, tuple[Change, ...]] = {
    "float16 input": (takes(onnx.TensorProto.FLOAT16),),
    "sides and batch of -1": (
        declares("image", -1, 3, -1, -1),
        declares("logits", -1, 19, -1, -1),
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("precision", ["fp16", *all_slow("int8")])
def test_a_graph_with_another_door_is_converted(
    door: str, precision: str, streets: Path, tmp_path: Path
) -> None:
    path, target = changed(DEMO, tmp_path / "a.onnx", *DOORS[door]), tmp_path / "b.onnx"
    words = ["--precision", precision, "--verification", str(streets)]
    words += ["--calibration", str(streets)] if precision == "int8" else []
    assert main(["export-onnx", str(path), "-o", str(target), *words]) == 0
    assert (label(target) == label(DEMO)).mean() > 0.98


@pytest.mark.slow
def test_sensitivity_of_a_graph_with_a_float16_input(streets: Path, tmp_path: Path) -> None:
    path = changed(DEMO, tmp_path / "a.onnx", *DOORS["float16 input"])
    words = ["--calibration", str(streets), "--max-calibration-images", "1"]
    assert main(["sensitivity", str(path), *words, "-o", str(tmp_path / "seen")]) == 0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ((returns(onnx.TensorProto.FLOAT16),), "the graph returns logits as float16"),
        ((returns(onnx.TensorProto.FLOAT16, name="offset.cam"),), "returns offset.cam as float16"),
    ],
)
def test_float16_outputs_are_not_converted(
    changes: tuple[Change, ...], problem: str, tmp_path: Path
) -> None:
    path = changed(DEMO, tmp_path / "a.onnx", *changes)
    command = f"export-onnx {path} -o {tmp_path}/b.onnx --precision fp16 --debug"
    with pytest.raises(ExportError, match=problem) as caught:
        main(command.split())
    assert "from before another tool changed it" in caught.value.fix
