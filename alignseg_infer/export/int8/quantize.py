"""INT8 as pairs of QuantizeLinear and DequantizeLinear before the convolutions of an ONNX graph.

This is the form for TensorRT; `int8.for_cpus` has that for CPUs. Quantisation is symmetric: real =
scale * integer, with integers -127..127. Weights have one scale for each output channel and are
stored as INT8. The tensor that a convolution reads has a single scale, from `int8.calibration`.
Biases stay float: TensorRT's parser refuses INT32 in a DequantizeLinear.

Only convolutions are quantised, except those of the offset branches (an offset must be right to a
fraction of a pixel) and the classifier (its output decides the label).
"""

from collections.abc import Collection

import onnx_ir

from alignseg_infer.errors import ExportError, OptionError
from alignseg_infer.export.int8.convolutions import (
    Convolution,
    Role,
    find_convolutions,
    list_blocks,
)
from alignseg_infer.export.int8.for_cpus import quantize_for_cpus
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.options import QuantizationOptions
from alignseg_infer.export.int8.rounding import Reader, Rounding
from alignseg_infer.spec.model import Target
from alignseg_infer.spec.onnx_precision import is_quantizer
from alignseg_infer.text import near_words

_QUANTIZED = {
    Target.TENSORRT: frozenset({Role.FEATURES}),
    Target.CPU: frozenset({Role.FEATURES, Role.OFFSET_FEATURES}),
}


def choose_convolutions(
    model: onnx_ir.Model, options: QuantizationOptions
) -> tuple[Convolution, ...]:
    """Return the convolutions to quantise under `options`.

    Raises:
        OptionError: A block to keep does not exist, or nothing is left to quantise.
        ExportError: The graph is not in float32, or is already quantised.
    """
    _require_float32(model)
    candidates = list_candidates(model, options.target)
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


def list_candidates(model: onnx_ir.Model, target: Target) -> list[Convolution]:
    """Return the convolutions that can become INT8 for `target`."""
    roles = _QUANTIZED[target]
    return [conv for conv in find_convolutions(model) if conv.role in roles]


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
    chosen = choose_convolutions(model, options)
    return quantize_convolutions(model, ranges, chosen, options.target)


def quantize_convolutions(
    model: onnx_ir.Model,
    ranges: Ranges,
    chosen: Collection[Convolution],
    target: Target = Target.TENSORRT,
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
    if target is Target.CPU:
        quantize_for_cpus(result.graph, nodes, ranges)
        return result
    rounding = Rounding(result.graph)
    for source, readers in _find_readers(result.graph, nodes).items():
        rounding.round_signed(source, ranges.limits[str(source.name)], readers)
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


def _find_readers(
    graph: onnx_ir.Graph, chosen: Collection[onnx_ir.Node]
) -> dict[onnx_ir.Value, list[Reader]]:
    """Return the tensors that are read in INT8, and who reads them so, in the graph's order.

    These are the chosen convolutions, and additions of a skip connection to the result of one, if
    another convolution reads the skip connection in INT8 anyway. TensorRT then adds inside the
    convolution and does not keep the tensor twice (its guide: "quantize the residual input in skip
    connections"). This costs little: on 30 streets, the demo labels 0.303 instead of 0.292 % of the
    pixels differently from FP32. All others, such as samplers, offset branches and float blocks,
    read the exact values.
    """
    sources: dict[onnx_ir.Value, list[Reader]] = {}
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
