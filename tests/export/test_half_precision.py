"""Float16 graphs: what stays float32, that results hold, and that they are really rounded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from alignseg_infer import ExportError
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.export import half_precision
from alignseg_infer.export.half_precision import (
    find_coordinate_nodes,
    require_exact_coordinates,
    to_half_precision,
)
from alignseg_infer.export.verification.half_rounding import round_like_hardware
from alignseg_infer.pixels.postprocess import scores_from_logits
from alignseg_infer.pixels.preprocess import preprocess
from tests.support.export_kinds import (
    FIXED,
    FIXED_GATHER,
    GATHER,
    LABELS,
    LABELS_AND_OFFSETS,
    NATIVE,
    OFFSETS,
    PLAIN,
    RESIZE,
    RESIZE_GATHER,
    Kind,
)
from tests.support.slow import all_slow

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
LOWERINGS = {
    "native": NATIVE,
    "labels and offsets": LABELS_AND_OFFSETS,
    "fixed": FIXED,
    "fixed, gather": FIXED_GATHER,
    "fixed, no rewrites": PLAIN,
}
SLOW_LOWERINGS = {
    "no rewrites": {"rewrites": False},
    "gather": GATHER,
    "labels": LABELS,
    "offsets": OFFSETS,
    "resize": RESIZE,
    "resize, gather": RESIZE_GATHER,
}
each_lowering = pytest.mark.parametrize(
    "lowering",
    [*LOWERINGS.values(), *all_slow(*SLOW_LOWERINGS.values())],
    ids=[*LOWERINGS, *SLOW_LOWERINGS],
)


def rank_of(value: ir.Value) -> int:
    return len(value.shape or ())


def half(path: Path) -> ir.Model:
    model = ir.load(path)
    to_half_precision(model)
    return model


def outputs_of(model: ir.Model, folder: Path, tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    path = folder / "model.onnx"
    ir.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    return OnnxRuntimeBackend(path).infer(tensor)


@each_lowering
def test_half_graphs_compute_the_same(
    lowering: Kind, export_small: Callable[..., Path], tmp_path: Path
) -> None:
    path = export_small(**lowering)
    shape = (lowering.get("batch", 1), 3, *lowering.get("size", (96, 160)))
    tensor = np.random.default_rng(0).uniform(-120, 120, shape).astype(np.float32)
    expected = OnnxRuntimeBackend(path).infer(tensor)
    model = half(path)
    rounded = half(path)
    round_like_hardware(rounded)
    for candidate in (model, rounded):
        seen = outputs_of(candidate, tmp_path, tensor)
        assert seen.dtype == expected.dtype
        assert seen.shape == expected.shape
        if seen.ndim == 3:
            assert np.mean(seen == expected) > 0.99
        else:
            error = np.linalg.norm(seen - expected) / np.linalg.norm(expected)
            assert 1e-6 < error < 1e-2


@each_lowering
def test_what_is_half_and_what_is_not(lowering: Kind, export_small: Callable[..., Path]) -> None:
    model = half(export_small(**lowering))
    types: dict[str, set[ir.DataType | None]] = {}
    for node in model.graph:
        types.setdefault(node.op_type, set()).add(node.outputs[0].dtype)
    assert types["Conv"] == types["LeakyRelu"] == {HALF}
    assert types.get("GridSample", {FLOAT}) == {FLOAT}
    assert FLOAT not in types["MatMul"]
    assert types.get("Resize", {HALF}) == {HALF}
    sizes = [node.inputs[3] for node in model.graph if node.op_type == "Resize"]
    assert {value.dtype for value in sizes if value is not None} <= {ir.DataType.INT64}
    assert all(value.dtype == FLOAT for value in model.graph.inputs)
    assert {value.dtype for value in model.graph.outputs} <= {FLOAT, ir.DataType.UINT8}
    for node in model.graph:
        if node.op_type in ("GridSample", "Floor"):  # coordinates of either lowering
            assert {value.dtype for value in node.inputs if value is not None} == {FLOAT}
    readers = [node.inputs[0] for node in model.graph if node.op_type == "Shape"]
    makers = [value.producer() for value in readers if value is not None]
    assert "Cast" not in {node.op_type for node in makers if node is not None}
    weights = [value.dtype for value in model.graph.initializers.values() if rank_of(value) == 4]
    assert set(weights) == {HALF}


@each_lowering
def test_coordinates_are_exact(lowering: Kind, export_small: Callable[..., Path]) -> None:
    require_exact_coordinates(half(export_small(**lowering)))


@pytest.mark.parametrize("lowering", [FIXED, FIXED_GATHER], ids=["native", "gather"])
@pytest.mark.parametrize("kept", [0, 9])
def test_half_coordinates_are_refused(
    lowering: Kind, kept: int, export_small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that come first, such as the Slice of the offsets, may be right, and others not."""
    path = export_small(**lowering)
    right = find_coordinate_nodes

    def forget(model: ir.Model) -> set[ir.Node]:
        found = right(model)
        return set([node for node in model.graph if node in found][:kept])

    with monkeypatch.context() as patch:
        patch.setattr(half_precision, "find_coordinate_nodes", forget)
        wrong = half(path)
    with pytest.raises(ExportError, match="sampling coordinates are float16"):
        require_exact_coordinates(wrong)


def test_gathered_features_are_half(export_small: Callable[..., Path]) -> None:
    """The purpose of that lowering: half the memory traffic with exact coordinates."""
    model = half(export_small(**FIXED_GATHER))
    kinds = [
        (node.outputs[0].dtype, rank_of(node.outputs[0]))
        for node in model.graph
        if node.op_type == "Gather"
    ]
    assert kinds.count((HALF, 4)) == 4 * 9  # four corners of nine sampled features
    assert (FLOAT, 4) not in kinds


@pytest.mark.parametrize("lowering", [NATIVE, FIXED_GATHER, *all_slow(GATHER)], ids=str)
def test_coordinates_end_at_the_offsets(lowering: Kind, export_small: Callable[..., Path]) -> None:
    found = find_coordinate_nodes(ir.load(export_small(**lowering)))
    kinds = {node.op_type for node in found}
    assert "Add" in kinds
    assert kinds.isdisjoint({"Conv", "MatMul", "LeakyRelu", "Relu", "GridSample", "Shape"})
    sliced = [node.inputs[0] for node in found if node.op_type == "Slice"]
    producers = [value.producer() for value in sliced if value is not None]
    assert {node.op_type for node in producers if node is not None} == {"Conv"}


def test_half_demo_labels_streets_alike(tmp_path: Path) -> None:
    demo = OnnxRuntimeBackend(model_path("demo"))
    size = (256, 512)
    image = Street(FIRST_HELD_OUT).scene(size=size).image
    tensor = preprocess(image, size, demo.spec.input)
    model = half(model_path("demo"))
    round_like_hardware(model)
    seen = outputs_of(model, tmp_path, tensor)
    labels, expected = (
        scores_from_logits(logits[0].astype(np.float32), size).labels
        for logits in (seen, demo.infer(tensor))
    )
    assert np.mean(labels == expected) > 0.9995


def test_rounding_is_that_of_float16(tmp_path: Path) -> None:
    """2048 + 1 is 2048 in float16, while ONNX Runtime's CPU keeps 2049 in a float16 graph."""
    one = numpy_helper.from_array(np.array([1], np.float16), "one")
    nodes = [
        helper.make_node("Add", ["x", "one"], ["a"]),
        helper.make_node("Sub", ["a", "x"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [one])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    round_like_hardware(model)
    model.graph.inputs[0].dtype = FLOAT
    import onnxruntime

    ir.save(model, tmp_path / "rounded.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "rounded.onnx")
    assert session.run(None, {"x": np.array([2048], np.float32)})[0] == 0
    assert session.run(None, {"x": np.array([1024], np.float32)})[0] == 1


def with_weight_of(path: Path, value: float) -> ir.Model:
    model = ir.load(path)
    weight = next(v for v in model.graph.initializers.values() if rank_of(v) == 4)
    assert weight.const_value is not None
    values = weight.const_value.numpy().copy()
    values.flat[0] = value
    weight.const_value = ir.tensor(values, name=weight.name)
    return model


def test_a_weight_beyond_float16_is_refused(small_onnx: Path) -> None:
    with pytest.raises(ExportError, match=r"values up to 1e\+05"):
        to_half_precision(with_weight_of(small_onnx, 1e5))


def test_half_twice_is_refused(small_onnx: Path) -> None:
    model = half(small_onnx)
    with pytest.raises(ExportError, match="already has float16 values"):
        to_half_precision(model)
