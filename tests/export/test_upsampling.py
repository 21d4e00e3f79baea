"""Resize in the place of interpolation matrices: the same features, at any size and a fixed one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from alignseg_infer.backends.onnxruntime_backend import CPU_PROVIDER
from alignseg_infer.demo import model_path
from alignseg_infer.export.graph.onnx_file import load_graph, save_onnx
from alignseg_infer.export.graph.upsampling import (
    _is_interpolation,
    _is_upsampling,
    resize_instead_of_matrices,
)
from alignseg_infer.ops.resampling import interpolation_matrix, upsample_by_matrices
from tests.support.export_kinds import FIXED, NATIVE

DEMO = model_path("demo")


def run(path: Path, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the logits, and the offsets if the graph has them."""
    session = onnxruntime.InferenceSession(path, providers=[CPU_PROVIDER])
    outputs = session.run(None, {session.get_inputs()[0].name: image})
    return [np.asarray(output) for output in outputs]


def kinds_of(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def require_same(path: Path, shapes: Sequence[tuple[int, ...]], folder: Path) -> ir.Model:
    """Replace matrices in the file, and compare what both compute; return the new graph."""
    model = load_graph(path)
    results = {node.outputs[0].name for node in model.graph if _is_upsampling(node)}
    assert resize_instead_of_matrices(model)
    save_onnx(model, folder / "resize.onnx")
    assert {node.outputs[0].name for node in model.graph if node.op_type == "Resize"} == results
    generator = np.random.default_rng(1)
    for shape in shapes:
        image = generator.standard_normal(shape).astype(np.float32)
        for seen, expected in zip(
            run(folder / "resize.onnx", image), run(path, image), strict=True
        ):
            np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-4)
    return model


@pytest.mark.parametrize("which", ["demo", "exported"])
def test_a_file_of_any_size(which: str, export_small: Callable[..., Path], tmp_path: Path) -> None:
    path = DEMO if which == "demo" else export_small(**NATIVE)
    shapes = [(1, 3, 128, 256), (2, 3, 97, 161), (1, 3, 64, 33)]
    kinds = kinds_of(require_same(path, shapes, tmp_path))
    assert kinds.count("Resize") == 9
    assert kinds.count("MatMul") == 2  # pooling
    assert kinds_of(load_graph(path)).count("MatMul") == 2 * 9 + 2


def test_a_file_of_one_size(export_small: Callable[..., Path], tmp_path: Path) -> None:
    """Its matrices are constants."""
    path = export_small(**FIXED)
    [image] = load_graph(path).graph.inputs
    assert image.shape is not None
    shape = tuple(int(side) for side in image.shape.numpy())
    kinds = kinds_of(require_same(path, [shape], tmp_path))
    assert kinds.count("Resize") == 9


class Upsampler(torch.nn.Module):
    """Upsamples as a decoder with inputs of 512x1024 does in its last step."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return upsample_by_matrices(feature, (129, 257))


def test_large_matrices_of_one_size(tmp_path: Path) -> None:
    """The export leaves operators between constants that are large."""
    program = torch.onnx.export(Upsampler().eval(), (torch.zeros(1, 2, 65, 129),), dynamo=True)
    assert program is not None
    assert "Abs" in kinds_of(program.model)
    program.save(tmp_path / "matrices.onnx")
    model = load_graph(tmp_path / "matrices.onnx")
    assert resize_instead_of_matrices(model)
    assert set(kinds_of(model)) <= {"Resize", "Shape", "Concat"}
    save_onnx(model, tmp_path / "resize.onnx")
    image = np.random.default_rng(2).standard_normal((1, 2, 65, 129)).astype(np.float32)
    [expected], [seen] = (run(tmp_path / f"{name}.onnx", image) for name in ("matrices", "resize"))
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("output", [*range(2, 40), 376, 272, 751, 1025])
def test_positions_are_rounded_as_in_float32(output: int) -> None:
    size = max(1, output // 2)
    weights = interpolation_matrix(size, output, torch.zeros(1)).numpy()
    assert _is_interpolation(weights)
    if size > 2:
        assert not _is_interpolation(np.roll(weights, 1, axis=0))


def test_what_upsamples_by_resize_stays(tmp_path: Path) -> None:
    model = load_graph(DEMO)
    resize_instead_of_matrices(model)
    before = kinds_of(model)
    assert before.count("Resize") == 9
    assert not resize_instead_of_matrices(model)
    assert kinds_of(model) == before


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([[1, 0], [0.5, 0.5], [0, 1]], True),
        ([[0, 1], [0.5, 0.5], [1, 0]], False),  # mirrored
        ([[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]], True),
        ([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]], False),  # corners not aligned
        ([[0.5, 0.5]], False),  # an average
    ],
)
def test_constants_that_interpolate_are_recognised(rows: list[list[float]], found: bool) -> None:
    """Of two sides, both must."""
    exact = np.array([[1, 0], [0.5, 0.5], [0, 1]], np.float32)
    weights = np.array(rows, np.float32)
    for left, right in ((weights, exact), (exact, weights)):
        feature = ir.val("x", ir.DataType.FLOAT, [1, 4, 2, 2])
        constants = [
            ir.val(name, const_value=ir.tensor(np.ascontiguousarray(value), name=name))
            for name, value in (("rows", left), ("columns", right.T))
        ]
        inner = ir.node("MatMul", [feature, constants[1]])
        outer = ir.node("MatMul", [constants[0], inner.outputs[0]])
        graph = ir.Graph(
            *([feature], outer.outputs),
            nodes=[inner, outer],
            initializers=constants,
            opset_imports={"": 17},
        )
        assert resize_instead_of_matrices(ir.Model(graph, ir_version=10)) is found
