"""INT8 for CPUs: its form, that runtimes run it in integers, how it labels, and what is refused."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from alignseg_infer import BuildError, ExportError, OptionError, Predictor, export_engine
from alignseg_infer.backends import open_backend
from alignseg_infer.backends.onnxruntime_backend import CPU_PROVIDER, session_options
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.cli import main
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.export.adapting import adapt_to_target
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.int8.convolutions import Role, find_convolutions
from alignseg_infer.export.int8.for_cpus import (
    LARGEST_WEIGHT,
    find_readers,
    join_groups,
    quantize_for_cpus,
)
from alignseg_infer.export.int8.from_onnx import int8_from_onnx
from alignseg_infer.export.int8.histograms import CalibrationMethod, Ranges
from alignseg_infer.export.int8.options import Int8Options, QuantizationOptions
from alignseg_infer.export.int8.quantize import quantize_model
from alignseg_infer.export.recipe import Recipe, recipe_for
from alignseg_infer.export.verification.opening import open_for_verification
from alignseg_infer.spec.model import SPEC_KEY, ModelSpec, Precision, Target, Upsampling
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.spec.onnx_precision import read_target
from alignseg_infer.trt.builder.engine import engine_from_onnx
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.flavours import Flavour
from tests.support.cpu_int8 import DEMO, draw_calibration, export_int8

SIZE = (128, 256)
CONVS = 70  # of 76: without five that predict offsets, and the classifier


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_calibration(tmp_path_factory, SIZE)


@pytest.fixture(scope="module")
def cpu_int8(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the demo model INT8 for CPUs."""
    return export_int8(tmp_path_factory.mktemp("models") / "cpu.onnx", streets)


def optimise(path: Path, folder: Path, *, fuse: bool) -> list[str]:
    """Return the operators that ONNX Runtime makes of a file."""
    options = session_options(1, fuse=fuse)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def label(path: Path, runtime: str, images: list[NDArray[np.uint8]]) -> NDArray[np.integer]:
    """Return the labels of a batch."""
    return np.stack([one.labels for one in Predictor(path, runtime=runtime)(images)])


def draw(count: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    return [Street(FIRST_HELD_OUT + seed).scene(size=size).image for seed in range(count)]


def test_form(cpu_int8: Path) -> None:
    """Values are UINT8, weights INT8 of 7 bits, biases INT32, and nothing is float16."""
    graph = onnx.load(cpu_int8).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert not any(array.dtype == np.float16 for array in weights.values())
    zeros = {
        weights[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"
    }
    assert zeros == {np.dtype(np.uint8)}
    makers = {node.output[0]: node for node in graph.node}
    quantized = 0
    for node in (node for node in graph.node if node.op_type == "Conv"):
        stored = [weights.get(makers[name].input[0]) for name in node.input[1:] if name in makers]
        quantized += bool(stored)
        assert all(attribute.i == 1 for attribute in node.attribute if attribute.name == "group")
        kinds = [array.dtype.name for array in stored if array is not None]
        assert kinds in ([], ["int8"], ["int8", "int32"])
        if kinds:
            assert stored[0] is not None
            assert np.abs(stored[0]).max() <= LARGEST_WEIGHT
            assert makers[node.input[0]].op_type == "DequantizeLinear"
    assert quantized == CONVS
    assert 2 * 255 * LARGEST_WEIGHT < 2**15  # what processors without VNNI add in 16 bits


def test_joined_groups_compute_the_same() -> None:
    random = np.random.default_rng(0)
    image = random.normal(size=(2, 12, 5, 6)).astype(np.float32)
    weight = onnx_ir.val(
        "weight", const_value=onnx_ir.tensor(random.normal(size=(6, 4, 3, 3)).astype(np.float32))
    )
    source = onnx_ir.val("image", onnx_ir.DataType.FLOAT, onnx_ir.Shape(image.shape))
    conv = onnx_ir.node("Conv", [source, weight], {"group": 3})
    conv.outputs[0].name = "result"
    graph = onnx_ir.Graph(
        [source], conv.outputs, nodes=[conv], initializers=[weight], opset_imports={"": 18}
    )
    results = []
    for _ in range(2):
        model = onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=10))
        [result] = np.asarray(ReferenceEvaluator(model).run(None, {"image": image}))
        results.append(result)
        join_groups(graph, conv)
    assert conv.attributes["group"].value == 1
    assert list(graph.initializers) == ["result_weight"]
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)


def test_facts(cpu_int8: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = read_onnx_facts(cpu_int8).export
    assert (export.precision, export.target, export.opset) == (Precision.INT8, Target.CPU, 18)
    assert export.has_cpu_integers
    assert read_target(cpu_int8) is Target.CPU
    assert read_target(DEMO) is None
    assert main(["inspect", str(cpu_int8)]) == 0
    shown = capsys.readouterr().out
    assert "int8 for cpu" in shown
    assert "disable_quant_qdq" not in shown  # which would turn the integer kernels off


@pytest.mark.parametrize("content", [b"", b"no onnx", b"\x72\x05\x0a\x03abc"])
def test_no_target_in_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    assert read_target(path) is None
    assert read_target(tmp_path) is None


def test_onnxruntime_computes_in_integers(cpu_int8: Path, tmp_path: Path) -> None:
    fused = optimise(cpu_int8, tmp_path, fuse=True)
    assert fused.count("QLinearConv") == CONVS
    assert fused.count("QLinearAdd") == 16
    assert integers_pool(tmp_path / "optimised.onnx")
    assert "QLinearConv" not in optimise(cpu_int8, tmp_path, fuse=False)


def integers_pool(optimised: Path) -> bool:
    """Return whether MaxPool reads what a convolution in integers made."""
    nodes = onnx.load(optimised).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    (pool,) = [node for node in nodes if node.op_type == "MaxPool"]
    return bool(makers[pool.input[0]] == "QLinearConv")


@pytest.mark.parametrize(("target", "written"), [(Target.CPU, False), (None, True)])
def test_onnxruntime_is_told_to_fuse(
    target: Target | None, written: bool, cpu_int8: Path, tmp_path: Path
) -> None:
    """The facts decide, not the graph."""
    model = onnx_ir.load(cpu_int8)
    spec = ModelSpec.from_json(model.metadata_props[SPEC_KEY])
    assert spec.export is not None
    spec = replace(spec, export=replace(spec.export, target=target))
    model.metadata_props[SPEC_KEY] = spec.to_json()
    onnx_ir.save(model, tmp_path / "a.onnx")
    backend: Any = open_backend(tmp_path / "a.onnx")
    options = backend._session.get_session_options()
    try:
        entry = options.get_session_config_entry("session.disable_quant_qdq")
    except RuntimeError:  # there is none
        entry = "0"
    assert (entry == "1") is written


def test_openvino_computes_in_integers(cpu_int8: Path) -> None:
    backend: Any = open_backend(cpu_int8, runtime="openvino")
    backend.infer(np.zeros((1, 3, 64, 96), np.float32))
    infos = [node.get_rt_info() for node in backend._model.get_runtime_model().get_ops()]
    kinds = [
        str(i["primitiveType"].value) for i in infos if "Convolution" in str(i["layerType"].value)
    ]
    assert sum("I8" in kind for kind in kinds) == CONVS


@pytest.mark.parametrize("vnni", [False, True])
def test_openvino_fuses_without_vnni_too(
    vnni: bool, cpu_int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of 7 bits cannot saturate, so the setting for GPU files is not needed."""
    openvino_backend = pytest.importorskip("alignseg_infer.backends.openvino_backend")
    monkeypatch.setattr(openvino_backend.cv2, "checkHardwareSupport", lambda _: vnni)
    spec = read_onnx_facts(cpu_int8).spec
    settings = openvino_backend._choose_settings(spec, None, RunPrecision.FP32)
    assert "LP_TRANSFORMS_MODE" not in settings


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("count", "size"), [(1, SIZE), (3, (96, 160)), (2, (97, 161))])
def test_labels(runtime: str, count: int, size: tuple[int, int], cpu_int8: Path) -> None:
    images = draw(count, size)
    expected = label(DEMO, "onnxruntime", images)
    assert np.mean(label(cpu_int8, runtime, images) == expected) >= 0.98


def test_an_onnx_file_upsamples_by_resize_unless_matrices_are_wanted(
    cpu_int8: Path, streets: Path
) -> None:
    """The form for TensorRT goes on as it is."""
    assert read_onnx_facts(DEMO).export.upsampling is Upsampling.MATRICES
    assert read_onnx_facts(cpu_int8).export.upsampling is Upsampling.RESIZE
    for keep, target, found in (
        (False, Target.CPU, Upsampling.RESIZE),
        (True, Target.CPU, Upsampling.MATRICES),
        (False, Target.TENSORRT, Upsampling.MATRICES),
    ):
        options = Int8Options(
            source=streets,
            max_images=1,
            quantization=QuantizationOptions(target=target),
            keep_matrices=keep,
        )
        quantized = int8_from_onnx(DEMO, options)
        kinds = {node.op_type for node in quantized.model.graph}
        assert quantized.export.upsampling is found
        assert ("Resize" in kinds) is (found is Upsampling.RESIZE)


def test_matrices_that_a_tool_has_rewritten_stay_and_are_named(
    streets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = onnx_ir.load(DEMO)
    clamp = next(node for node in model.graph if node.outputs[0].name == "clamp_8")
    assert clamp.op_type == "Max"  # of a weight and 0
    clamp.op_type = "Relu"
    clamp.resize_inputs(1)
    onnx_ir.save(model, tmp_path / "rewritten.onnx")
    quantized = int8_from_onnx(
        tmp_path / "rewritten.onnx",
        Int8Options(
            source=streets, max_images=1, quantization=QuantizationOptions(target=Target.CPU)
        ),
    )
    assert "rewritten.onnx goes on upsampling by matrices, which is slower" in caplog.text
    assert quantized.export.upsampling is Upsampling.MATRICES
    onnx_ir.save(quantized.model, tmp_path / "int8.onnx")
    images = draw(1, SIZE)
    expected = label(DEMO, "onnxruntime", images)
    assert np.mean(label(tmp_path / "int8.onnx", "onnxruntime", images) == expected) >= 0.98


def test_it_is_verified_as_it_runs(cpu_int8: Path) -> None:
    backend = open_for_verification(cpu_int8)
    assert backend.name == f"onnxruntime ({CPU_PROVIDER})"
    found = json.loads(onnx_ir.load(cpu_int8).metadata_props["alignseg.agreement"])
    assert min(row["agreement"] for row in found["rows"]) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "upsampling"),
    [("", Upsampling.RESIZE), ("--upsampling matrices", Upsampling.MATRICES)],
)
def test_checkpoints_of_one_size(
    words: str, upsampling: Upsampling, streets: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fixed.onnx"
    command = f"export-onnx demo -o {path} --precision int8 --target cpu --calibration {streets} "
    assert main([*command.split(), "--size", "128x256", "--batch", "2", *words.split()]) == 0
    assert read_onnx_facts(path).export.upsampling is upsampling
    images = draw(2, SIZE)
    expected = label(DEMO, "onnxruntime", images)
    for runtime in ("onnxruntime", "openvino"):
        assert np.mean(label(path, runtime, images) == expected) >= 0.98


def test_a_budget_keeps_blocks_in_float(streets: Path, tmp_path: Path) -> None:
    path = tmp_path / "budget.onnx"
    command = f"export-onnx {DEMO} -o {path} --precision int8 --target cpu --calibration {streets} "
    assert main([*command.split(), "--keep-float", "stem", "--int8-budget", "2"]) == 0
    assert 0 < optimise(path, tmp_path, fuse=True).count("QLinearConv") <= CONVS - 3


def test_only_what_lies_between_convolutions_is_rounded() -> None:
    graph = onnx_ir.load(DEMO).graph
    names = {c.result for c in find_convolutions(onnx_ir.load(DEMO)) if c.role is Role.FEATURES}
    convs = [node for node in graph if node.outputs[0].name in names]
    for value, readers in find_readers(graph, convs).items():
        maker = value.producer()
        kinds = {node.op_type for node, _ in readers}
        assert kinds <= {"Conv", "LeakyRelu", "Relu", "Add", "MaxPool"} or maker in convs
        assert [node for node, _ in readers if node.op_type == "Relu"] == []  # merged


def test_tensors_without_a_range() -> None:
    model = onnx_ir.load(DEMO)
    ranges = Ranges(CalibrationMethod.MINMAX, 1, {c.source: 1.0 for c in find_convolutions(model)})
    with pytest.raises(ExportError, match="target='cpu'"):
        quantize_model(model, ranges, QuantizationOptions(target=Target.CPU))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "fp16", "target": "cpu"}, "gains nothing"),
        ({"sampler": "plugin", "target": "cpu"}, "only TensorRT has plugins"),
        ({"target": "gpu"}, "target='cpu'"),
    ],
)
def test_what_a_cpu_does_not_take(given: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        recipe_for(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"target": "cpu"}, None),
        ({"target": "tensorrt"}, Upsampling.RESIZE),
        ({"target": "cpu", "precision": "int8"}, Upsampling.RESIZE),
        ({"target": "tensorrt", "upsampling": "matrices"}, Upsampling.MATRICES),
    ],
)
def test_upsampling_suits_the_target(
    given: dict[str, str], expected: Upsampling | None, streets: Path
) -> None:
    images = {"calibration": streets} if given.get("precision") == "int8" else {}
    recipe: Recipe = adapt_to_target(recipe_for(given | images))
    assert (recipe.graph or ExportOptions()).upsampling is expected


def test_no_engine_is_built_of_it(cpu_int8: Path, streets: Path, tmp_path: Path) -> None:
    """The advice makes a file that has the form for TensorRT."""
    with pytest.raises(BuildError, match="target='tensorrt'"):
        engine_from_onnx(cpu_int8, BuildOptions(flavour=Flavour.TENSORRT_RTX))
    with pytest.raises(BuildError, match="int8 for CPUs"):  # and not a question about its shapes
        export_engine(cpu_int8, tmp_path / "a.engine", flavour="tensorrt-rtx")
    path = tmp_path / "gpu.onnx"
    command = f"export-onnx {DEMO} -o {shlex.quote(str(path))} --precision int8 --target tensorrt"
    assert main([*shlex.split(command), "--calibration", str(streets)]) == 0
    export = read_onnx_facts(path).export
    assert export.target is Target.TENSORRT
    assert not export.has_cpu_integers


@pytest.mark.parametrize("factor", [1.0, 1e-6, 1e-8, 1e-30, 0.0])
@pytest.mark.parametrize("bias", [0.0, 0.5, -4.0])
def test_channels_with_tiny_weights_keep_their_bias(
    factor: float, bias: float, tmp_path: Path
) -> None:
    """Weights of channels that training switched off are tiny, and their biases are not."""
    chance = np.random.default_rng(0)
    weights = chance.normal(0, 0.1, (4, 3, 3, 3)).astype(np.float32)
    weights[1] *= factor
    biases = np.array([0.1, bias, -0.2, 0.0], np.float32)
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "w", "b"], ["sum"], pads=[1] * 4)],
        "one",
        [make("image", onnx.TensorProto.FLOAT, [1, 3, 16, 16])],
        [make("sum", onnx.TensorProto.FLOAT, [1, 4, 16, 16])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(biases, "b")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model = onnx_ir.from_proto(proto)
    convs = [node for node in model.graph if node.op_type == "Conv"]
    bounds = {"image": (-130.0, 140.0)}  # a step of the input is about 1, as of published models
    quantize_for_cpus(model.graph, convs, Ranges(CalibrationMethod.MINMAX, 1, {}, bounds))
    onnx_ir.save(model, tmp_path / "a.onnx")
    image = chance.uniform(-130, 140, (1, 3, 16, 16)).astype(np.float32)
    found, expected = (
        onnxruntime.InferenceSession(source, providers=[CPU_PROVIDER]).run(None, {"image": image})
        for source in (str(tmp_path / "a.onnx"), proto.SerializeToString())
    )
    for channel in range(4):
        reach = np.abs(expected[0][:, channel]).max()
        difference = np.abs(found[0][:, channel] - expected[0][:, channel]).max()
        assert difference <= 0.03 * reach + 1e-6, channel


def test_adopting_keeps_targets_apart(
    cpu_int8: Path, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "tensorrt.onnx"
    command = f"export-onnx {DEMO} -o {other} --precision int8 --calibration {streets}"
    assert main(command.split()) == 0
    for kind, source, like in (("unsigned", cpu_int8, other), ("signed", other, cpu_int8)):
        bare = tmp_path / f"{kind}.onnx"
        model = onnx_ir.load(source)
        model.metadata_props.clear()
        onnx_ir.save(model, bare)
        assert main(["adopt", str(bare), "--like", str(like)]) == 1
        assert f"{bare} has {kind} integers" in capsys.readouterr().err
        assert main(["adopt", str(bare), "--like", str(source)]) == 0
        assert read_onnx_facts(bare).export == read_onnx_facts(source).export
