"""Lets ONNX Resize upsample in a graph that upsamples by matrices; see `ops.resampling`."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from alignseg_infer.export.graph.plugin_nodes import CORNERS_ALIGNED, NodeWriter

_LARGEST_ERROR = 1e-5  # of a weight in a constant matrix, which float32 positions bring
# From the matrix up to the end of the range of positions: each operator, and which of its inputs.
_PATH = (
    *(("Max", 0), ("Sub", 1), ("Abs", 0), ("Sub", 0)),
    *(("Unsqueeze", 0), ("Mul", 0), ("Cast", 0), ("Range", 1)),
)

_Side = int | ir.Value  # a number of pixels, or an int64 scalar that is computed


def resize_instead_of_matrices(model: ir.Model) -> bool:
    """Replace products with two interpolation matrices by Resize, in place.

    Resize computes the same. The results keep their names, by which their ranges are known.

    Args:
        model: A graph that this package exported in float32, of any size or a fixed one.

    Returns:
        Whether there were such products.
    """
    products = [node for node in model.graph if node.op_type == "MatMul"]
    found = [parts for node in products if (parts := _find_parts(node))]
    for outer, feature, sizes in found:
        _replace(model.graph, outer, feature, sizes)
    if found:
        RemoveUnusedNodesPass()(model)
        LiftConstantsToInitializersPass(size_limit=0)(model)
    return bool(found)


def _find_parts(outer: ir.Node) -> tuple[ir.Node, ir.Value, list[_Side]] | None:
    """Return a product, what it upsamples, and to which height and width; None for other products.

    It is ``rows @ (feature @ columns.transpose())``.
    """
    rows, product = outer.inputs
    inner = product.producer() if product else None
    if rows is None or inner is None or inner.op_type != "MatMul":
        return None
    feature, columns = inner.inputs
    if feature is None or columns is None:
        return None
    height, width = _side_of(rows), _side_of(columns, transposed=True)
    return None if height is None or width is None else (outer, feature, [height, width])


def _side_of(matrix: ir.Value, *, transposed: bool = False) -> _Side | None:
    """Return the number of rows of an interpolation matrix; None if it is another value."""
    if matrix.const_value is not None:
        weights = matrix.const_value.numpy()
        weights = weights.T if transposed else weights
        return len(weights) if _is_interpolation(weights) else None
    if transposed:
        transpose = matrix.producer()
        if transpose is None or transpose.op_type != "Transpose" or transpose.inputs[0] is None:
            return None
        matrix = transpose.inputs[0]
    return _computed_side(matrix)


def _is_interpolation(weights: np.ndarray) -> bool:
    if weights.ndim != 2:
        return False
    output, size = weights.shape
    position = np.arange(output) * ((size - 1) / max(output - 1, 1))
    exact = np.maximum(1 - np.abs(position[:, None] - np.arange(size)), 0)
    return bool(np.abs(weights - exact).max() <= _LARGEST_ERROR)


def _computed_side(matrix: ir.Value) -> ir.Value | None:
    """Return how many positions ``interpolation_matrix`` computes weights for."""
    value: ir.Value | None = matrix
    for kind, index in _PATH:
        node = value.producer() if value else None
        if node is None or node.op_type != kind:
            return None
        value = node.inputs[index]
    return value


def _replace(graph: ir.Graph, outer: ir.Node, feature: ir.Value, sizes: list[_Side]) -> None:
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
