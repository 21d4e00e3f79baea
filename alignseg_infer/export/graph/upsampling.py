"""Lets ONNX Resize upsample in a graph that upsamples by matrices; see `ops.resampling`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from alignseg_infer.export.graph.plugin_nodes import CORNERS_ALIGNED, NodeWriter

_Side = int | ir.Value  # a number of pixels, or an int64 scalar that is computed
_ROUNDING = 2.0**-22  # of a position in float32, as a share of the number of positions
# From a matrix up to the end of its range of positions: each operator, and which of its inputs.
_PATH = (
    *(("Max", 0), ("Sub", 1), ("Abs", 0), ("Sub", 0)),
    *(("Unsqueeze", 0), ("Mul", 0), ("Cast", 0), ("Range", 1)),
)
# What the export of a fixed size leaves of this, since it folds only constants that are small.
_FOLDED: dict[str, Callable[..., NDArray[Any]]] = {
    "Max": np.maximum,
    "Sub": np.subtract,
    "Abs": np.abs,
    "Mul": np.multiply,
    "Unsqueeze": lambda value, axes: np.expand_dims(value, tuple(axes)),
    "Transpose": np.transpose,
}


def resize_instead_of_matrices(model: ir.Model) -> bool:
    """Replace products with two interpolation matrices by Resize, in place.

    Resize computes the same. The results keep their names, by which their ranges are known.

    Args:
        model: A float32 graph that this package exported with upsampling by matrices, of any size
            or a fixed one.

    Returns:
        Whether all such products were replaced. If another tool has rewritten the graph, some may
        not be recognised.
    """
    upsamplings = [node for node in model.graph if _is_upsampling(node)]
    sides = {node: _sides_of(node) for node in upsamplings}
    for node, found in sides.items():
        if found is not None:
            _replace(model.graph, node, found)
    RemoveUnusedNodesPass()(model)
    LiftConstantsToInitializersPass(size_limit=0)(model)
    return bool(sides) and None not in sides.values()


def _is_upsampling(node: ir.Node) -> bool:
    """Return whether a node is ``rows @ (feature @ columns)``. Pooling multiplies rows first."""
    inner = node.inputs[1].producer() if node.op_type == "MatMul" and node.inputs[1] else None
    return inner is not None and inner.op_type == "MatMul"


def _sides_of(outer: ir.Node) -> tuple[_Side, _Side] | None:
    """Return the height and width to which a product upsamples; None if it does something else."""
    rows, product = outer.inputs
    inner = product.producer() if product else None
    columns = inner.inputs[1] if inner else None
    if rows is None or columns is None:
        return None
    height, width = _side_of(rows), _side_of(columns, transposed=True)
    return None if height is None or width is None else (height, width)


def _side_of(matrix: ir.Value, *, transposed: bool = False) -> _Side | None:
    """Return the number of rows of an interpolation matrix; None if it is another value."""
    weights = _constant(matrix)
    if weights is not None:
        weights = weights.T if transposed else weights
        return len(weights) if _is_interpolation(weights) else None
    path = (("Transpose", 0), *_PATH) if transposed else _PATH
    value: ir.Value | None = matrix
    for kind, index in path:
        node = value.producer() if value else None
        if node is None or node.op_type != kind:
            return None
        value = node.inputs[index]
    return value


def _constant(value: ir.Value) -> NDArray[Any] | None:
    """Return what a value always is; None if it depends on the image or its size."""
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type not in _FOLDED:
        return None
    inputs = [_constant(given) for given in node.inputs if given is not None]
    return None if any(one is None for one in inputs) else _FOLDED[node.op_type](*inputs)


def _is_interpolation(weights: NDArray[Any]) -> bool:
    """Return whether a matrix is one of `ops.resampling.interpolation_matrix`."""
    if weights.ndim != 2:
        return False
    output, size = weights.shape
    position = np.arange(output) * ((size - 1) / max(output - 1, 1))
    exact = np.maximum(1 - np.abs(position[:, None] - np.arange(size)), 0)
    return bool(np.abs(weights - exact).max() <= _ROUNDING * size)


def _replace(graph: ir.Graph, outer: ir.Node, sizes: tuple[_Side, _Side]) -> None:
    product = outer.inputs[1]
    inner = product.producer() if product else None
    assert inner is not None  # as `_is_upsampling` demands
    feature = inner.inputs[0]
    writer = NodeWriter(outer)
    sides = [
        writer.constant([side])
        if isinstance(side, int)
        else writer.op("Unsqueeze", side, writer.constant([0]))
        for side in sizes
    ]
    shape = writer.op("Concat", writer.op("Shape", feature, start=0, end=2), *sides, axis=0)
    writer.op("Resize", feature, None, None, shape, **CORNERS_ALIGNED)
    writer.replace(graph, outer)
