"""Graphs for TensorRT plugins: their nodes, the standard nodes, and every later step."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from alignseg_infer import ExportError, ModelFileError, OptionError, Predictor
from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.cli import main
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.graph.plugin_nodes import (
    expand_plugin_nodes,
    find_plugin_nodes,
    runnable_onnx,
)
from alignseg_infer.export.half_precision import (
    find_coordinate_nodes,
    require_exact_coordinates,
    to_half_precision,
)
from alignseg_infer.export.int8.convolutions import Role, find_convolutions
from alignseg_infer.export.verification.half_rounding import round_like_hardware
from alignseg_infer.ops import plugin_ops
from alignseg_infer.spec.model import (
    AGREEMENT_KEY,
    OutputKind,
    Precision,
    Sampler,
    SamplingConvention,
    Upsampling,
)
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.spec.plugin_contract import (
    ALIGNED_ADD,
    DOMAIN,
    NAMESPACE,
    OFFSET_GRID_SAMPLE,
    PLUGIN_OPS,
    UPSAMPLE_ARGMAX,
    PluginOp,
)
from alignseg_infer.spec.verification import Verification
from tests.support.export_kinds import LABELS_AND_OFFSETS, Kind
from tests.support.slow import all_slow

Export = Callable[..., Path]
Array = np.ndarray[Any, Any]

FLOAT, HALF, INT32 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT32
FUSED: dict[str, Any] = {"sampler": Sampler.PLUGIN, "size": (64, 96), "batch": 1}
PLAIN: dict[str, Any] = {**FUSED, "fuse": False, "opset": 16}
LABELS: dict[str, Any] = {"sampler": Sampler.PLUGIN, "output": OutputKind.LABELS, "opset": 17}
NO_REWRITES: dict[str, Any] = {**FUSED, "rewrites": False, "size": (65, 98), "opset": 19}
OFFSETS: dict[str, Any] = {**PLAIN, "with_offsets": True, "opset": 19}
MATRICES: dict[str, Any] = {**FUSED, "upsampling": Upsampling.MATRICES}
KINDS = [FUSED, PLAIN, LABELS, NO_REWRITES, MATRICES, *all_slow(OFFSETS)]
SHAPES = {
    OFFSET_GRID_SAMPLE: [
        [(2, 3, 5, 7), (2, 2, 6, 9)],
        [(1, 4, 3, 3), (1, 2, 33, 65)],
        [(1, 1, 1, 1), (1, 2, 1, 1)],
        [(1, 2, 4, 6), (1, 2, 1, 8)],
    ],
    ALIGNED_ADD: [
        [(2, 3, 4, 5), (2, 3, 7, 9), (2, 2, 7, 9), (2, 2, 7, 9)],
        [(1, 2, 1, 1), (1, 2, 3, 1), (1, 2, 3, 1), (1, 2, 3, 1)],
        [(1, 2, 9, 9), (1, 2, 9, 9), (1, 2, 9, 9), (1, 2, 9, 9)],
    ],
    UPSAMPLE_ARGMAX: [[(2, 4, 5, 6), (2, 3, 20, 23)], [(1, 3, 1, 1), (1, 1, 7, 1)]],
}
CASES = [(op, shapes) for op, several in SHAPES.items() for shapes in several]


def one_node(op: PluginOp, dtype: ir.DataType, convention: SamplingConvention) -> ir.Model:
    """Return a graph of one plugin node, for any sizes; inputs have the plugin's names."""
    dimensions = [[f"{name}{axis}" for axis in range(4)] for name in op.inputs]
    inputs = [ir.val(name, dtype, d) for name, d in zip(op.inputs, dimensions, strict=True)]
    fields = {"plugin_version": "1", "plugin_namespace": NAMESPACE}
    if op.fields:
        fields["convention"] = convention.value
    node = ir.node(op.name, inputs, fields, domain=DOMAIN)
    node.outputs[0].name = "result"
    node.outputs[0].dtype = INT32 if op is UPSAMPLE_ARGMAX else dtype
    imports = {"": 18, DOMAIN: 1}
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports=imports, name="one")
    return ir.Model(graph, ir_version=8)


def arrays_for(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> list[Array]:
    draw = np.random.default_rng(seed)
    return [
        (draw.normal(size=shape) * (1 if index == 0 else 2)).astype(np.float32)
        for index, shape in enumerate(shapes)
    ]


def run(model: ir.Model, arrays: list[Array]) -> Array:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    names = [value.name for value in session.get_inputs()]
    result: Array = session.run(None, dict(zip(names, arrays, strict=True)))[0]
    return result


def defined(op: PluginOp, arrays: list[Array], convention: SamplingConvention) -> Array:
    operator = getattr(torch.ops.alignseg, op.operator)
    fields = [convention.value] if op.fields else []
    result: Array = operator(*map(torch.from_numpy, arrays), *fields).numpy()
    return result


@pytest.mark.parametrize("convention", SamplingConvention)
@pytest.mark.parametrize(("op", "shapes"), CASES, ids=str)
def test_what_is_written_computes_what_is_defined(
    op: PluginOp, shapes: list[tuple[int, ...]], convention: SamplingConvention
) -> None:
    arrays = arrays_for(shapes)
    seen = run(expand_plugin_nodes(one_node(op, FLOAT, convention)), arrays)
    expected = defined(op, arrays, convention)
    assert seen.dtype == expected.dtype
    np.testing.assert_allclose(seen, expected, atol=2e-5)


def test_coordinates_stay_exact_where_features_are_rounded() -> None:
    """A column of a wide feature, sampled at float16 offsets: a float16 coordinate would miss it.

    Offsets are multiples of 1/64 below 4, which float16 holds; the feature is its column number
    over 1024, which it holds too. So the one rounding left is that of the result.
    """
    width, draw = 1000, np.random.default_rng(0)
    ramp = np.broadcast_to(np.arange(width, dtype=np.float32) / 1024, (1, 1, 3, width)).copy()
    offset = np.zeros((1, 2, 3, width), np.float32)
    offset[:, 0] = draw.integers(-255, 256, (1, 3, width)) / 64
    convention = SamplingConvention.STANDARD
    model = expand_plugin_nodes(one_node(OFFSET_GRID_SAMPLE, HALF, convention))
    round_like_hardware(model)
    for value in model.graph.inputs:
        value.dtype = FLOAT
    seen = run(model, [ramp, offset])
    exact = defined(OFFSET_GRID_SAMPLE, [ramp, offset], convention)
    np.testing.assert_allclose(seen, exact.astype(np.float16), rtol=2**-10, atol=1e-6)
    assert (seen == seen.astype(np.float16)).all()
    assert np.abs(seen - exact).max() > 1e-5  # the result itself is rounded


def test_sums_are_rounded_once() -> None:
    """2048 + 1 in float16 is 2048; both summands of AlignedAdd meet in float32."""
    high, low = (np.full((1, 1, 2, 2), value, np.float32) for value in (2048.0, 1.0))
    zeros = np.zeros((1, 2, 2, 2), np.float32)
    operands = [high, low, zeros, zeros]
    half = plugin_ops.aligned_add(*(torch.from_numpy(a).half() for a in operands), "standard")
    assert half.dtype == torch.float16
    low[:] = 3.0  # 2051 is between 2050 and 2052, and goes to the even of both
    model = expand_plugin_nodes(one_node(ALIGNED_ADD, HALF, SamplingConvention.STANDARD))
    round_like_hardware(model)
    for value in model.graph.inputs:
        value.dtype = FLOAT
    assert (run(model, operands) == 2052).all()
    assert (half == 2048).all()


def test_an_unknown_node_is_refused() -> None:
    model = one_node(OFFSET_GRID_SAMPLE, FLOAT, SamplingConvention.STANDARD)
    find_plugin_nodes(model)[0].op_type = "OffsetGridSample2"
    with pytest.raises(ExportError, match=r"alignseg\.OffsetGridSample2"):
        expand_plugin_nodes(model)


def test_a_graph_without_plugins_is_left_alone(small_onnx: Path) -> None:
    model = ir.load(small_onnx)
    assert expand_plugin_nodes(model) is model
    with runnable_onnx(small_onnx) as path:
        assert path == small_onnx


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_nodes_are_what_plugins_take(export_small: Export, kind: dict[str, Any]) -> None:
    path = export_small(**kind)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    imports = {(entry.domain, entry.version) for entry in model.opset_import}
    assert imports == {("", ExportOptions(**kind).opset), ("alignseg", 1)}
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    for node in nodes:
        op = PLUGIN_OPS[node.op_type]
        assert len(node.input) == len(op.inputs)
        facts = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        fields = {"convention": b"release-2021-12"} if op.fields else {}
        assert facts == {"plugin_version": b"1", "plugin_namespace": b"alignseg", **fields}
    counts = Counter(node.op_type for node in nodes)
    samplers = {"AlignedAdd": 4, "OffsetGridSample": 1}
    if not kind.get("fuse", True):
        samplers = {"OffsetGridSample": 9}
    labels = {"UpsampleArgmax": 1} if kind.get("output") is OutputKind.LABELS else {}
    assert counts == {**samplers, **labels}
    assert not {"GridSample", "ArgMax"} & {node.op_type for node in model.graph.node}
    facts_read = read_onnx_facts(path)
    assert Counter(facts_read.plugins) == {f"{name}/1": n for name, n in counts.items()}
    assert facts_read.export.sampler is Sampler.PLUGIN


def test_fusing_leaves_neither_upsampled_nor_sampled_features(export_small: Export) -> None:
    fused, plain = (ir.load(export_small(**kind)) for kind in (FUSED, PLAIN))
    resizes = [sum(node.op_type == "Resize" for node in model.graph) for model in (fused, plain)]
    assert resizes == [5, 9]  # of the offset branches alone, and of the four features too


@pytest.mark.parametrize(
    ("kind", "native_kind", "shapes"),
    [
        (MATRICES, {"size": (64, 96), "batch": 1}, [(1, 3, 64, 96)]),
        (LABELS, LABELS_AND_OFFSETS, [(2, 3, 96, 160), (1, 3, 33, 250)]),
    ],
    ids=str,
)
def test_plugin_graphs_label_like_native_ones(
    export_small: Export, kind: Kind, native_kind: Kind, shapes: list[tuple[int, ...]]
) -> None:
    native = OnnxRuntimeBackend(export_small(**native_kind))
    with runnable_onnx(export_small(**kind)) as path:
        backend = OnnxRuntimeBackend(path)
    for shape in shapes:
        tensor = np.random.default_rng(0).uniform(-120, 120, shape).astype(np.float32)
        seen, expected = (np.asarray(one.infer(tensor)) for one in (backend, native))
        assert (seen.dtype, seen.shape) == (expected.dtype, expected.shape)
        if seen.ndim == 3:
            assert np.mean(seen != expected) <= 1e-3
            assert len(np.unique(seen)) > 3
        else:
            error = np.linalg.norm(seen - expected) / np.linalg.norm(expected)
            assert error <= 1e-5


def test_options_that_do_not_fit() -> None:
    with pytest.raises(OptionError, match="fuse=False with sampler='native'"):
        ExportOptions(fuse=False)


@pytest.mark.parametrize("kind", [FUSED, NO_REWRITES], ids=str)
def test_roles_are_those_of_the_native_graph(export_small: Export, kind: dict[str, Any]) -> None:
    native = {**kind, "sampler": Sampler.NATIVE, "fuse": True}
    seen, expected = (
        {conv.layer: conv.role for conv in find_convolutions(ir.load(export_small(**options)))}
        for options in (kind, native)
    )
    assert seen == expected
    assert set(seen.values()) == set(Role)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_half_features_and_offsets_go_straight_into_plugins(
    export_small: Export, kind: dict[str, Any]
) -> None:
    model = ir.load(export_small(**kind))
    to_half_precision(model)
    assert not find_coordinate_nodes(model)
    require_exact_coordinates(model)
    for node in find_plugin_nodes(model):
        op = PLUGIN_OPS[node.op_type]
        for index, value in enumerate(node.inputs):
            assert value is not None
            producer = value.producer()
            assert value.dtype is (FLOAT if index in op.shapes else HALF)
            assert producer is None or producer.op_type != "Cast"
        assert node.outputs[0].dtype is (INT32 if op is UPSAMPLE_ARGMAX else HALF)
    casts = [node for node in model.graph if node.op_type == "Cast"]
    half = [node for node in casts if node.attributes["to"].as_int() == HALF]
    wide = [
        node
        for node in casts
        if node.attributes["to"].as_int() == FLOAT
        and node.inputs[0] is not None
        and node.inputs[0].dtype is HALF
    ]
    assert half
    assert len(wide) == len([v for v in model.graph.outputs if v.dtype is FLOAT])


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of images of three streets."""
    folder = tmp_path_factory.mktemp("streets")
    list(write_streets(folder, FIRST_HELD_OUT, 3, size=(128, 256)))
    return folder / "images"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, exported for plugins and the size of the streets."""
    path = tmp_path_factory.mktemp("demo") / "demo.onnx"
    checkpoint = model_path("demo").with_suffix(".pth")
    assert command(f"export-onnx {checkpoint} -o {path} --sampler plugin --size 128x256") == 0
    return path


def command(line: str) -> int:
    return main(line.split())


@pytest.mark.parametrize(("precision", "alike"), [("fp16", 0.9995), *all_slow(("int8", 0.985))])
def test_plugin_models_in_lower_precision(
    demo: Path, streets: Path, precision: str, alike: float, tmp_path: Path
) -> None:
    path = tmp_path / "lower.onnx"
    calibration = f" --calibration {streets}" if precision == "int8" else ""
    images = f" --verification {streets}{calibration}"
    assert command(f"export-onnx {demo} -o {path} --precision {precision}{images}") == 0
    facts = read_onnx_facts(path)
    assert facts.export.precision == precision
    assert Counter(facts.plugins) == {"AlignedAdd/1": 4, "OffsetGridSample/1": 1}
    found = Verification.from_json(facts.metadata[AGREEMENT_KEY])
    assert "plugin nodes expanded, rounding to float16" in found.backend
    assert all(alike <= row.agreement <= 1 for row in found.rows)
    assert all(row.logits_error and row.logits_error > 1e-4 for row in found.rows)
    assert command(f"verify {path} --against {demo} --images {streets}") == 0
    assert command(f"verify {path} --against demo --images {streets}") == 0


def test_a_wrong_expansion_would_be_noticed(
    demo: Path, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verification looks at plugin nodes: with another convention, labels differ."""
    model = ir.load(demo)
    to_half_precision(model)
    for node in find_plugin_nodes(model):
        node.attributes["convention"] = ir.AttrString("convention", "release-2021-12")
    spec = read_onnx_facts(demo).spec
    assert spec.export is not None
    export = replace(spec.export, precision=Precision.FP16)
    model.metadata_props["alignseg.spec"] = replace(spec, export=export).to_json()
    ir.save(model, tmp_path / "other.onnx")
    assert command(f"verify {tmp_path}/other.onnx --against demo --images {streets}") == 1
    assert "labels too many pixels differently from" in capsys.readouterr().err


@pytest.mark.slow
def test_sensitivity_of_a_plugin_model(demo: Path, streets: Path, tmp_path: Path) -> None:
    line = f"sensitivity {demo} --calibration {streets} --max-calibration-images 2 -o {tmp_path}"
    assert command(line) == 0
    assert "CAB2 offsets (stays float)" in (tmp_path / "sensitivity.md").read_text()


def test_onnxruntime_is_not_asked_to_run_plugins(export_small: Export) -> None:
    path = export_small(**FUSED)
    assert needs_plugins(path)
    for load in (OnnxRuntimeBackend, Predictor):
        with pytest.raises(ModelFileError, match="--sampler native") as caught:
            load(path)
        assert "has no such plugins" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"alignseg", b"\xff" * 40, b"\x42\x0c\x0a\x08", b"PK\x03\x04" * 9],
    ids=repr,
)
def test_what_is_no_model_needs_no_plugins(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    assert not needs_plugins(path)


def test_only_declared_operators_count(small_onnx: Path, tmp_path: Path) -> None:
    """Only a declaration counts, wherever it stands: the word itself occurs in all our files."""
    assert b"alignseg" in small_onnx.read_bytes()
    assert not needs_plugins(small_onnx)
    assert not needs_plugins(tmp_path / "missing.onnx")
    model = onnx.load(small_onnx)
    model.opset_import.insert(0, onnx.helper.make_opsetid("com.microsoft", 1))
    model.opset_import.append(onnx.helper.make_opsetid("alignseg", 1))
    path = tmp_path / "declared.onnx"
    onnx.save(model, path)
    assert needs_plugins(path)


def test_inspect_shows_what_onnxruntime_cannot_load(
    export_small: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(f"inspect {export_small(**LABELS)}") == 0
    out = capsys.readouterr().out
    assert "sampler plugin" in out
    assert "needs TensorRT plugins: 4 AlignedAdd/1, 1 OffsetGridSample/1, 1 UpsampleArgmax/1" in out
    assert "2x3x97x161: " in out
    assert command(f"inspect {export_small(**OFFSETS)} --json") == 0
    assert '"sampler": "plugin"' in capsys.readouterr().out
