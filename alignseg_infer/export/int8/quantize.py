"""INT8 as pairs of QuantizeLinear and DequantizeLinear before the convolutions of an ONNX graph.

Quantisation is symmetric: real = scale * integer, with integers -127..127. Weights have one scale
for each output channel and are stored as INT8. The tensor that a convolution reads has a single
scale, from `int8.calibration`. Biases stay float: TensorRT's parser refuses INT32 in a
DequantizeLinear.

Only convolutions are quantised, except those of the offset branches (an offset must be right to a
fraction of a pixel) and the classifier (its output decides the label).
"""

from collections.abc import Collection, Iterable
from typing import TypeAlias

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from alignseg_infer.errors import ExportError, OptionError
from alignseg_infer.export.int8.convolutions import (
    Convolution,
    Role,
    find_convolutions,
    list_blocks,
)
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.options import QuantizationOptions
from alignseg_infer.spec.onnx_precision import is_quantizer
from alignseg_infer.text import near_words

_LARGEST = 127  # integers are symmetric, so -128 is not used
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def choose_convolutions(
    model: onnx_ir.Model, options: QuantizationOptions
) -> tuple[Convolution, ...]:
    """Return the convolutions to quantise under `options`.

    Raises:
        OptionError: A block to keep does not exist, or nothing is left to quantise.
        ExportError: The graph is not in float32, or is already quantised.
    """
    _require_float32(model)
    candidates = [conv for conv in find_convolutions(model) if conv.role is Role.FEATURES]
    for block in options.keep_float:
        if not any(conv.belongs_to(block) for conv in candidates):
            blocks = list_blocks(model)
            raise OptionError(
                f"there is no block {block!r} to keep in float",
                f"one of {', '.join(blocks)}, or a part such as layer3.0",
                f"keep_float={near_words(block, blocks) or [*blocks[:1]]}; offsets and classifier "
                "are float anyway",
            )
    chosen = tuple(
        conv
        for conv in candidates
        if not any(conv.belongs_to(block) for block in options.keep_float)
    )
    if not chosen:
        raise OptionError(
            "every convolution would stay in float",
            "at least one convolution to quantise",
            "fewer blocks in keep_float=, or precision='fp16'",
        )
    return chosen


def quantize_model(
    model: onnx_ir.Model, ranges: Ranges, options: QuantizationOptions | None = None
) -> onnx_ir.Model:
    """Return a float32 copy of `model` whose chosen convolutions read INT8 and hold INT8 weights.

    Inputs, outputs, metadata and opset stay as they are.

    Args:
        model: An exported graph in float32.
        ranges: From `int8.calibration`, for this graph.
        options: What else stays float besides offset branches and classifier.

    Raises:
        OptionError: The options cannot be used with this model.
        ExportError: The graph is not in float32, is already quantised, or has tensors that were not
            calibrated.
    """
    options = options or QuantizationOptions()
    return quantize_convolutions(model, ranges, choose_convolutions(model, options))


def quantize_convolutions(
    model: onnx_ir.Model, ranges: Ranges, chosen: Collection[Convolution]
) -> onnx_ir.Model:
    """Return a copy of `model` in which exactly the `chosen` convolutions are quantised.

    Raises:
        ExportError: As `quantize_model` does.
    """
    _require_float32(model)
    _require_ranges(ranges, chosen)
    result = model.clone()
    results = {conv.result for conv in chosen}
    nodes = [node for node in result.graph if node.outputs[0].name in results]
    rounding = _Rounding(result.graph)
    for source, readers in _find_readers(result.graph, nodes).items():
        rounding.round_values(source, ranges.limits[str(source.name)], readers)
    for weight in dict.fromkeys(node.inputs[1] for node in nodes):
        assert weight is not None  # `find_convolutions` lists those with constant weights only
        readers = [(node, 1) for node in nodes if node.inputs[1] is weight]
        rounding.round_weights(weight, readers)
    return result


def _require_float32(model: onnx_ir.Model) -> None:
    kinds = {value.dtype for value in model.graph.initializers.values()}
    quantizers = [node.op_type for node in model.graph if is_quantizer(node.op_type)]
    if quantizers:
        raise ExportError(
            f"the graph is already quantised: it has {len(quantizers)} {quantizers[0]} and such",
            "the FP32 export, from before a tool quantised it",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx, whose precision is fp32",
        )
    if onnx_ir.DataType.FLOAT16 in kinds:
        raise ExportError(
            "the graph to quantise is not entirely float32",
            "the FP32 export, because float16 comes after quantisation",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx, whose precision is fp32",
        )


def _require_ranges(ranges: Ranges, chosen: Collection[Convolution]) -> None:
    missing = [conv.source for conv in chosen if conv.source not in ranges.limits]
    if missing:
        raise ExportError(
            f"no range was calibrated for {len(missing)} tensors, the first {missing[0]!r}",
            "ranges calibrated with the same export",
            "calibrate with the model that you quantise",
        )


_Reader: TypeAlias = tuple[onnx_ir.Node, int]  # a node, and which of its inputs


def _find_readers(
    graph: onnx_ir.Graph, chosen: Collection[onnx_ir.Node]
) -> dict[onnx_ir.Value, list[_Reader]]:
    """Return the tensors that are read in INT8, and who reads them so, in the graph's order.

    These are the chosen convolutions, and additions of a skip connection to the result of one, if
    another convolution reads the skip connection in INT8 anyway. TensorRT then adds inside the
    convolution and does not keep the tensor twice (its guide: "quantize the residual input in skip
    connections"). This costs little: on 30 streets, the demo labels 0.303 instead of 0.292 % of the
    pixels differently from FP32. All others, such as samplers, offset branches and float blocks,
    read the exact values.
    """
    sources: dict[onnx_ir.Value, list[_Reader]] = {}
    for node in chosen:
        assert node.inputs[0] is not None
        sources[node.inputs[0]] = []
    results = {node.outputs[0] for node in chosen}
    for node in graph:
        indices = [0] if node in chosen else []
        if node.op_type == "Add":
            indices = [index for index in (0, 1) if node.inputs[1 - index] in results]
        for index in indices:
            value = node.inputs[index]
            if value is not None and value in sources:
                sources[value].append((node, index))
    return sources


class _Rounding:
    """Puts pairs of QuantizeLinear and DequantizeLinear between tensors and their readers.

    Args:
        graph: The graph to change.
    """

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self._graph = graph

    def round_values(self, value: onnx_ir.Value, limit: float, readers: list[_Reader]) -> None:
        """Let `readers` read `value` rounded to integers, with one scale for the tensor."""
        scale = _scales_for(np.array(limit))
        inputs = self._add_constants(value, scale)
        quantize = onnx_ir.node("QuantizeLinear", [value, *inputs], name=f"{value.name}_quantize")
        integers = quantize.outputs[0]
        integers.name, integers.shape = f"{value.name}_quantized", value.shape
        integers.dtype = onnx_ir.DataType.INT8
        dequantize = self._dequantize(value, [integers, *inputs])
        self._graph.insert_before(readers[0][0], [quantize, dequantize])
        _replace_inputs(readers, dequantize.outputs[0])

    def round_weights(self, weight: onnx_ir.Value, readers: list[_Reader]) -> None:
        """Store `weight` as integers, with one scale for each output channel."""
        assert weight.const_value is not None
        exact = weight.const_value.numpy()
        scale = _scales_for(np.abs(exact).max(axis=tuple(range(1, exact.ndim))))
        steps = scale.reshape(-1, *[1] * (exact.ndim - 1))
        integers = np.clip(np.rint(exact / steps), -_LARGEST, _LARGEST).astype(np.int8)
        stored = self._add_constant(f"{weight.name}_quantized", integers)
        inputs = [stored, *self._add_constants(weight, scale)]
        dequantize = self._dequantize(weight, inputs, {"axis": 0})
        self._graph.insert_before(readers[0][0], dequantize)
        _replace_inputs(readers, dequantize.outputs[0])
        if not weight.uses():
            del self._graph.initializers[str(weight.name)]

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
        self, value: onnx_ir.Value, scale: NDArray[np.float32]
    ) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """Add the scale of `value` and its zero point, which is 0."""
        return (
            self._add_constant(f"{value.name}_scale", scale),
            self._add_constant(f"{value.name}_zero_point", np.zeros(scale.shape, np.int8)),
        )

    def _add_constant(self, name: str, content: NDArray[np.generic]) -> onnx_ir.Value:
        value = onnx_ir.val(name, const_value=onnx_ir.tensor(content, name=name))
        self._graph.register_initializer(value)
        return value


def _scales_for(largest: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the scales for magnitudes up to `largest`; 1 where all values are 0."""
    scales = largest.astype(np.float64) / _LARGEST
    return np.where(scales < _SMALLEST_SCALE, 1, scales).astype(np.float32)


def _replace_inputs(readers: Iterable[_Reader], value: onnx_ir.Value) -> None:
    for node, index in readers:
        node.replace_input_with(index, value)
