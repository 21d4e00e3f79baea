"""INT8 as pairs of QuantizeLinear and DequantizeLinear before the convolutions of an ONNX graph.

Quantisation is symmetric: real = scale * integer, with integers -127..127. Weights have one scale
for each output channel and are stored as INT8. The tensor that a convolution reads has a single
scale, from `int8.calibration`. Biases stay float: TensorRT's parser refuses INT32 in a
DequantizeLinear.

Only convolutions are quantised, except those of the offset branches (an offset must be right to a
fraction of a pixel) and the classifier (its output decides the label).
"""

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod as OrtMethod
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from alignseg_infer.errors import ExportError, OptionError
from alignseg_infer.export.int8.convolutions import (
    Convolution,
    Role,
    find_convolutions,
    list_blocks,
)
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.options import QuantizationOptions
from alignseg_infer.text import near_words

_SEPARATED = ".int8"  # ending of the temporary copies that quantised convolutions read


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
    proto = onnx_ir.to_proto(model)
    sources = _separate(proto, {conv.name for conv in chosen})
    limits = {f"{source}{_SEPARATED}": ranges.limits[source] for source in sources}
    result = onnx_ir.from_proto(_quantize_with_onnxruntime(proto, limits, chosen))
    _remove_separation(result)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.metadata_props.clear()
    result.metadata_props.update(model.metadata_props)
    _require_quantized(result, chosen)
    return result


def _require_float32(model: onnx_ir.Model) -> None:
    kinds = {value.dtype for value in model.graph.initializers.values()}
    if kinds & {onnx_ir.DataType.FLOAT16, onnx_ir.DataType.INT8}:
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


def _separate(proto: onnx.ModelProto, chosen: Collection[str]) -> list[str]:
    """Give the inputs that read INT8 a copy of their tensor; return the names of those tensors.

    ONNX Runtime's tool puts a Q/DQ pair between a tensor and all its readers, including the float
    ones. Without copies, the samplers, offset branches and float blocks would read rounded values.
    """
    nodes = proto.graph.node
    results = {node.output[0] for node in nodes if node.name in chosen}
    sources = dict.fromkeys(node.input[0] for node in nodes if node.name in chosen)
    for node in nodes:
        for index in _find_quantized_inputs(node, node.name in chosen, sources, results):
            node.input[index] += _SEPARATED
    for source in sources:
        copied = f"{source}{_SEPARATED}"
        place = next(index for index, node in enumerate(nodes) if copied in node.input)
        nodes.insert(place, onnx.helper.make_node("Identity", [source], [copied], copied))
        info = onnx.helper.make_tensor_value_info(copied, onnx.TensorProto.FLOAT, None)
        proto.graph.value_info.append(info)
    return list(sources)


def _find_quantized_inputs(
    node: onnx.NodeProto, chosen: bool, sources: Collection[str], results: Collection[str]
) -> list[int]:
    """Return which inputs of `node` should be INT8.

    These are the input of a chosen convolution, and a skip connection that is added to the result
    of one and that another convolution reads in INT8 anyway. TensorRT then adds inside the
    convolution and does not keep the tensor twice (its guide: "quantize the residual input in skip
    connections"). This costs little: on 30 streets, the demo labels 0.303 instead of 0.292 % of the
    pixels differently from FP32.
    """
    if chosen:
        return [0]
    if node.op_type != "Add":
        return []
    first, second = node.input
    return [
        index
        for index, (skip, result) in enumerate(((first, second), (second, first)))
        if skip in sources and result in results
    ]


def _quantize_with_onnxruntime(
    proto: onnx.ModelProto, limits: dict[str, float], chosen: Collection[Convolution]
) -> onnx.ModelProto:
    data = {
        name: TensorData(lowest=np.float32(-limit), highest=np.float32(limit))
        for name, limit in limits.items()
    }
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(OrtMethod.MinMax, data),
        nodes_to_quantize=[conv.name for conv in chosen],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv"],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            # TensorRT places the rounding of an output where its reader needs it.
            "OpTypesToExcludeOutputQuantization": ["Conv"],
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    return result


def _remove_separation(model: onnx_ir.Model) -> None:
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Identity" else None
        if source is not None and node.name == f"{source.name}{_SEPARATED}":
            node.outputs[0].replace_all_uses_with(source)
            model.graph.remove(node, safe=True)


def _require_quantized(model: onnx_ir.Model, chosen: Collection[Convolution]) -> None:
    """Raise ExportError if a convolution was skipped; ONNX Runtime's tool only warns of that."""
    done = {
        node.name
        for node in model.graph
        if node.op_type == "Conv"
        and all(_comes_from(value, "DequantizeLinear") for value in node.inputs[:2])
    }
    missing = [conv.layer for conv in chosen if conv.name not in done]
    if missing:
        raise ExportError(
            f"{len(missing)} convolutions could not be quantised, the first {missing[0]}",
            "a type for each tensor of the graph",
            f"keep_float={[missing[0]]}, and report this with what you typed",
        )


def _comes_from(value: onnx_ir.Value | None, op_type: str) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == op_type
