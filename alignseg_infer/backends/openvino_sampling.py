"""Writes the sampling of a graph in OpenVINO as gathers of whole pixels, where that is faster.

GridSample reads each channel by itself, and takes features whose channels lie apart, while INT8
convolutions make and take features whose channels lie together. A gather of rows from a table of
pixels copies all channels at once, and changes no layout. The results are the same, apart from
rounding in float32. On a CPU with AVX2, the nine samplings of a ResNet-101 at 512x1024 and all
changes of layout take 150 instead of 690 ms.

OpenVINO fuses sums of products, and leaves out transpositions, only where shapes are known: this
is for graphs of fixed size.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import openvino
import openvino.opset13 as ops

# Rows are gathered in strips, which stay in the processor's cache until they are added up. Smaller
# ones are hardly faster, but there are more of them to compile (ResNet-101 at 512x1024: 8.9 s with
# 1 MB, 5.1 s with 4 MB). Beyond 1024x2048, strips become larger instead of more.
_STRIP_BYTES = 4 << 20
_MOST_STRIPS = 32
# Shorter rows are gathered by another kernel, for rows of one vector (8 channels with AVX2, 16 with
# AVX-512). That of OpenVINO 2026.4.1 crashed where a gather had `batch_dims`. It was not tried with
# AVX-512. Real networks have 48 channels and more.
_LEAST_CHANNELS = 32
_TO_CHANNELS_LAST, _TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
# What computes each number by itself, if all other inputs are single numbers.
_ELEMENTWISE = frozenset({"Add", "Convert", "FakeQuantize", "Multiply", "Subtract"})
_EXPECTED = {"align_corners": False, "mode": "bilinear", "padding_mode": "zeros"}


class _Corner(NamedTuple):
    """One of the four pixels around each position, in strips.

    Attributes:
        table: (N*h*w, C), the pixels of the features.
        indices: (n,) int32 for each strip of n positions.
        weights: (n, 1) float32 for each strip.
    """

    table: Any
    indices: list[Any]
    weights: list[Any]


def sample_whole_pixels(model: Any) -> int:
    """Write every GridSample of a graph in the form of this package as gathers; in place.

    Two that are only added up become one sum.

    Args:
        model: An `openvino.Model` of fixed shape.

    Returns:
        The number of such nodes.
    """
    found = [node for node in model.get_ordered_ops() if _is_ours(node)]
    waiting = {node.get_name(): node for node in found}
    for node in model.get_ordered_ops():
        names = [value.get_node().get_name() for value in node.input_values()]
        both = len(set(names)) == 2 and set(names) <= waiting.keys()
        if node.get_type_name() == "Add" and both:
            _replace(node.output(0), [waiting.pop(name) for name in names])
            model.validate_nodes_and_infer_types()  # the next may read what this one changed
    for node in waiting.values():
        _replace(node.output(0), [node])
        model.validate_nodes_and_infer_types()
    return len(found)


def _is_ours(node: Any) -> bool:
    if node.get_type_name() != "GridSample":
        return False
    feature, told = node.input(0), node.get_attributes()
    return (
        feature.get_element_type() == openvino.Type.f32
        and feature.get_shape()[1] >= _LEAST_CHANNELS
        and all(told[name] == value for name, value in _EXPECTED.items())
    )


def _replace(old: Any, samplings: list[Any]) -> None:
    """Let all who read `old`, the sum of `samplings`, read what gathers compute."""
    count, channels, rows, columns = old.get_shape()
    positions = count * rows * columns
    strips = round(4 * channels * positions / _STRIP_BYTES)
    strips = max(1, min(strips, _MOST_STRIPS, positions))
    cuts = [positions * strip // strips for strip in range(strips + 1)]
    corners = [corner for node in samplings for corner in _corners_of(node, np.diff(cuts))]
    sums = [_add_up(corners, strip) for strip in range(strips)]
    pixels = ops.concat(sums, 0) if len(sums) > 1 else sums[0]
    shape = _integers((count, rows, columns, channels))
    _hand_over(old, ops.reshape(pixels, shape, special_zero=False).output(0))


def _add_up(corners: list[_Corner], strip: int) -> Any:
    total = None
    for corner in corners:
        rows = ops.gather(corner.table, corner.indices[strip], _integers(0))
        part = ops.multiply(rows, corner.weights[strip])
        total = part if total is None else ops.add(total, part)
    return total


def _corners_of(sampling: Any, lengths: Any) -> Iterator[_Corner]:
    feature, grid = sampling.input_values()
    count, channels, height, width = feature.get_shape()
    channels_last = ops.transpose(feature, _integers(_TO_CHANNELS_LAST))
    table = ops.reshape(channels_last, _integers((-1, channels)), special_zero=False)
    # Pixels are counted in integers, since float32 cannot count more than 2**24.
    starts = np.arange(count, dtype=np.int32).reshape(-1, 1, 1) * (height * width)
    first, across = ops.constant(starts), ops.constant(np.int32(width))
    columns = _neighbours(ops.gather(grid, _integers(0), _integers(3)), width)
    for row, row_weight in _neighbours(ops.gather(grid, _integers(1), _integers(3)), height):
        for column, column_weight in columns:
            start = ops.multiply(ops.convert(row, "i32"), across)
            index = ops.add(ops.add(start, first), ops.convert(column, "i32"))
            weight = ops.multiply(row_weight, column_weight)
            yield _Corner(table, _split(index, (-1,), lengths), _split(weight, (-1, 1), lengths))


def _neighbours(normalised: Any, size: int) -> list[tuple[Any, Any]]:
    """Return the two pixels beside each position along one axis of `size`, with their weights.

    As in `ops.sampling`, pixels outside get the weight 0 and an index inside, and so does NaN.

    Args:
        normalised: (N, H, W), where -1 and 1 are the edges of the outermost pixels.
        size: Pixels along the axis.
    """
    source = ops.subtract(
        ops.multiply(ops.add(normalised, _number(1)), _number(size / 2)), _number(0.5)
    )
    source = ops.clamp(source, -1.0, float(size))
    below = ops.floor(source)
    above = ops.add(below, _number(1))
    weights = ops.subtract(above, source), ops.subtract(source, below)
    return [
        _only_inside(pixel, size, weight)
        for pixel, weight in zip((below, above), weights, strict=True)
    ]


def _only_inside(pixel: Any, size: int, weight: Any) -> tuple[Any, Any]:
    """Return pixels and their weights, with 0 for both where a pixel is not 0 to `size` - 1."""
    least, most = ops.greater_equal(pixel, _number(0)), ops.less_equal(pixel, _number(size - 1))
    inside = ops.logical_and(least, most)
    return tuple(ops.select(inside, value, _number(0)) for value in (pixel, weight))


def _split(value: Any, shape: tuple[int, ...], lengths: Any) -> list[Any]:
    """Return `value` in this shape, cut along its first axis into parts of these lengths."""
    value = ops.reshape(value, _integers(shape), special_zero=False)
    if len(lengths) == 1:
        return [value.output(0)]
    return list(ops.variadic_split(value, _integers(0), _integers(lengths)).outputs())


def _hand_over(old: Any, new: Any) -> None:
    """Let all who read `old` read `new`, which has the same numbers with channels last.

    What computes each number by itself goes on with channels last, so that quantising comes before
    the transposition, and OpenVINO can leave that out before a convolution.
    """
    channels_first = None
    for reader in list(old.get_target_inputs()):
        node = reader.get_node()
        if _is_elementwise(node, reader.get_index()):
            reader.replace_source_output(new)
            _hand_over(node.output(0), node.output(0))
            continue
        if channels_first is None:
            channels_first = ops.transpose(new, _integers(_TO_CHANNELS_FIRST)).output(0)
        reader.replace_source_output(channels_first)


def _is_elementwise(node: Any, index: int) -> bool:
    others = [value for place, value in enumerate(node.input_values()) if place != index]
    shapes = [value.get_partial_shape() for value in others]
    single = all(shape.is_static and np.prod(shape.to_shape()) == 1 for shape in shapes)
    return node.get_type_name() in _ELEMENTWISE and single


def _number(value: float) -> Any:
    return ops.constant(np.float32(value))


def _integers(values: Any) -> Any:
    return ops.constant(np.asarray(values, np.int64))
