"""Puts pairs of QuantizeLinear and DequantizeLinear between tensors and their readers."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import onnx_ir
from numpy.typing import NDArray

LARGEST = 127  # integers of weights and of signed values are symmetric, so -128 is not used
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_UNSIGNED_STEPS = 255

Reader: TypeAlias = tuple[onnx_ir.Node, int]  # a node, and which of its inputs
Scales: TypeAlias = NDArray[np.float32]


class Rounding:
    """Rounds tensors of a graph to integers, and weights and biases too.

    Args:
        graph: The graph to change.
    """

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self._graph = graph

    def round_signed(self, value: onnx_ir.Value, limit: float, readers: list[Reader]) -> None:
        """Let `readers` read `value` as INT8 from -`limit` to `limit`, with 0 as its zero point."""
        scale = _scales_for(np.array(limit), LARGEST)
        self._round_values(value, scale, np.zeros((), np.int8), readers)

    def round_unsigned(
        self, value: onnx_ir.Value, bounds: tuple[float, float], readers: list[Reader]
    ) -> Scales:
        """Let `readers` read `value` as UINT8, and return its scale.

        Args:
            value: The tensor.
            bounds: Its lowest value, at most 0, and its highest, at least 0.
            readers: Who reads it rounded, in the graph's order.
        """
        low, high = bounds
        scale = _scales_for(np.array(high - low), _UNSIGNED_STEPS)
        zero = np.clip(np.rint(-low / scale), 0, _UNSIGNED_STEPS).astype(np.uint8)
        self._round_values(value, scale, zero, readers)
        return scale

    def round_weights(
        self,
        weight: onnx_ir.Value,
        readers: list[Reader],
        largest: int = LARGEST,
        least: Scales | None = None,
    ) -> Scales:
        """Store `weight` as integers up to `largest`; return the scale of each output channel.

        Args:
            weight: The constant tensor, outputs first.
            readers: Who reads it rounded, in the graph's order.
            largest: The largest integer.
            least: The smallest scale of each output channel; 0 for any.
        """
        assert weight.const_value is not None
        exact = weight.const_value.numpy()
        highest = np.abs(exact).max(axis=tuple(range(1, exact.ndim))).astype(np.float64)
        if least is not None:
            highest = np.maximum(highest, least.astype(np.float64) * largest)
        scale = _scales_for(highest, largest)
        steps = scale.reshape(-1, *[1] * (exact.ndim - 1))
        integers = np.clip(np.rint(exact / steps), -largest, largest).astype(np.int8)
        self._store(weight, integers, scale, readers)
        return scale

    def round_bias(self, bias: onnx_ir.Value, scale: Scales, reader: Reader) -> None:
        """Store `bias` as INT32, in the scale of the sums that it is added to."""
        assert bias.const_value is not None
        limits = np.iinfo(np.int32)
        exact = bias.const_value.numpy().astype(np.float64)
        integers = np.clip(np.rint(exact / scale), limits.min, limits.max).astype(np.int32)
        self._store(bias, integers, scale, [reader])

    def _round_values(
        self,
        value: onnx_ir.Value,
        scale: Scales,
        zero: NDArray[np.integer],
        readers: list[Reader],
    ) -> None:
        inputs = self._add_constants(str(value.name), scale, zero)
        quantize = onnx_ir.node("QuantizeLinear", [value, *inputs], name=f"{value.name}_quantize")
        integers = quantize.outputs[0]
        integers.name, integers.shape = f"{value.name}_quantized", value.shape
        integers.dtype = onnx_ir.DataType.from_numpy(zero.dtype)
        dequantize = self._dequantize(value, [integers, *inputs])
        self._graph.insert_before(readers[0][0], [quantize, dequantize])
        _replace_inputs(readers, dequantize.outputs[0])

    def _store(
        self,
        constant: onnx_ir.Value,
        integers: NDArray[np.integer],
        scale: Scales,
        readers: list[Reader],
    ) -> None:
        """Replace a constant by integers, with one scale for each slice along its first axis."""
        stored = self._add_constant(f"{constant.name}_quantized", integers)
        zeros = np.zeros(scale.shape, integers.dtype)
        inputs = [stored, *self._add_constants(str(constant.name), scale, zeros)]
        dequantize = self._dequantize(constant, inputs, {"axis": 0})
        self._graph.insert_before(readers[0][0], dequantize)
        _replace_inputs(readers, dequantize.outputs[0])
        if not constant.uses():
            del self._graph.initializers[str(constant.name)]

    def _dequantize(
        self,
        value: onnx_ir.Value,
        inputs: list[onnx_ir.Value],
        attributes: dict[str, int] | None = None,
    ) -> onnx_ir.Node:
        name = f"{value.name}_dequantize"
        node = onnx_ir.node("DequantizeLinear", inputs, attributes or {}, name=name)
        output = node.outputs[0]
        output.name, output.shape = f"{value.name}_rounded", value.shape
        output.dtype = onnx_ir.DataType.FLOAT
        return node

    def _add_constants(
        self, name: str, scale: Scales, zero: NDArray[np.integer]
    ) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """Add the scale and the zero point of the tensor `name`."""
        return (
            self._add_constant(f"{name}_scale", scale),
            self._add_constant(f"{name}_zero_point", zero),
        )

    def _add_constant(self, name: str, content: NDArray[np.generic]) -> onnx_ir.Value:
        value = onnx_ir.val(name, const_value=onnx_ir.tensor(content, name=name))
        self._graph.register_initializer(value)
        return value


def _scales_for(largest: NDArray[np.floating], steps: int) -> Scales:
    """Return the scales that reach `largest` in so many `steps`; 1 where all values are 0."""
    scales = largest.astype(np.float64) / steps
    return np.where(scales < _SMALLEST_SCALE, 1, scales).astype(np.float32)


def _replace_inputs(readers: Iterable[Reader], value: onnx_ir.Value) -> None:
    for node, index in readers:
        node.replace_input_with(index, value)
