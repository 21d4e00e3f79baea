"""INT8 as pairs of QuantizeLinear and DequantizeLinear before the convolutions of an ONNX graph.

Quantisation is symmetric: real = scale * integer, with integers -127..127. Weights have a scale for
each output channel and are stored as INT8; what a convolution reads has one scale, from
`export.calibration`. Biases stay float: TensorRT's parser refuses INT32 in a DequantizeLinear.

Only convolutions are quantised, and not those of the offset branches (an offset has to be right to
a fraction of a pixel) nor the classifier (its output decides the label).
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from google.protobuf.message import DecodeError
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod as OrtMethod
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from alignseg_infer.errors import ExportError, ModelFileError, OptionError
from alignseg_infer.export.int8.convolutions import Convolution, Role, blocks, convolutions
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.options import QuantizationOptions
from alignseg_infer.files import require_file

_SEPARATED = ".int8"  # ending of a tensor that quantised convolutions read, while it is one


def loaded_graph(path: Path) -> onnx_ir.Model:
    """The graph in an ``.onnx`` file.

    Raises:
        ModelFileError: It cannot be read.
    """
    require_file(path, "an ONNX model", ModelFileError)
    try:
        return onnx_ir.load(path)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelFileError(
            f"{path} cannot be loaded: {error}",
            "an ONNX model, with its .data file beside it if any",
            "copy it again, or export it again: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        ) from error


def chosen_convolutions(
    model: onnx_ir.Model, options: QuantizationOptions
) -> tuple[Convolution, ...]:
    """The convolutions that `options` ask to quantise.

    Raises:
        OptionError: A block to keep does not exist, or nothing is left to quantise.
        ExportError: The graph is not in float32, or is quantised already.
    """
    _require_float32(model)
    candidates = [conv for conv in convolutions(model) if conv.role is Role.FEATURES]
    for block in options.keep_float:
        if not any(conv.belongs_to(block) for conv in candidates):
            raise OptionError(
                f"there is no block {block!r} to keep in float",
                f"one of {', '.join(blocks(model))}, or a part such as layer3.0",
                f"keep_float={[*blocks(model)][:1]}; offsets and classifier are float anyway",
            )
    chosen = tuple(
        conv
        for conv in candidates
        if not any(conv.belongs_to(block) for block in options.keep_float)
    )
    if not chosen:
        raise OptionError(
            "every convolution is to be kept in float",
            "something to quantise",
            "fewer blocks in keep_float=, or precision='fp16'",
        )
    return chosen


def quantized_model(
    model: onnx_ir.Model, ranges: Ranges, options: QuantizationOptions | None = None
) -> onnx_ir.Model:
    """A float32 copy of `model` whose chosen convolutions read and hold INT8.

    Inputs, outputs, metadata and opset stay as they are.

    Args:
        model: An exported graph in float32.
        ranges: From `export.calibration`, for this graph.
        options: What is left out beside offset branches and classifier.

    Raises:
        OptionError: The options cannot be used with this model.
        ExportError: The graph is not in float32, is quantised already, or has other tensors than
            those calibrated.
    """
    options = options or QuantizationOptions()
    return with_quantized(model, ranges, chosen_convolutions(model, options))


def with_quantized(
    model: onnx_ir.Model, ranges: Ranges, chosen: Collection[Convolution]
) -> onnx_ir.Model:
    """A copy of `model` in which exactly the `chosen` convolutions are quantised.

    Raises:
        ExportError: As `quantized_model` does.
    """
    _require_float32(model)
    _require_ranges(ranges, chosen)
    proto = onnx_ir.to_proto(model)
    sources = _separate(proto, {conv.name for conv in chosen})
    limits = {f"{source}{_SEPARATED}": ranges.limits[source] for source in sources}
    result = onnx_ir.from_proto(_quantized_by_onnxruntime(proto, limits, chosen))
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
            "the graph to quantise is not all float32",
            "the FP32 export: precision is lowered after quantisation",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx, whose precision is fp32",
        )


def _require_ranges(ranges: Ranges, chosen: Collection[Convolution]) -> None:
    missing = [conv.source for conv in chosen if conv.source not in ranges.limits]
    if missing:
        raise ExportError(
            f"no range was calibrated for {len(missing)} tensors, the first {missing[0]!r}",
            "ranges of the same export",
            "calibrate with the model that is to be quantised",
        )


def _separate(proto: onnx.ModelProto, chosen: Collection[str]) -> list[str]:
    """Lets what reads INT8 read copies, and returns the names of what is copied.

    ONNX Runtime's tool puts a pair between a tensor and all its readers, float ones too: what the
    samplers, offset branches and blocks kept in float read would be rounded as well.
    """
    nodes = proto.graph.node
    results = {node.output[0] for node in nodes if node.name in chosen}
    sources = dict.fromkeys(node.input[0] for node in nodes if node.name in chosen)
    for node in nodes:
        for index in _quantized_inputs(node, node.name in chosen, sources, results):
            node.input[index] += _SEPARATED
    for source in sources:
        copied = f"{source}{_SEPARATED}"
        place = next(index for index, node in enumerate(nodes) if copied in node.input)
        nodes.insert(place, onnx.helper.make_node("Identity", [source], [copied], copied))
        info = onnx.helper.make_tensor_value_info(copied, onnx.TensorProto.FLOAT, None)
        proto.graph.value_info.append(info)
    return list(sources)


def _quantized_inputs(
    node: onnx.NodeProto, chosen: bool, sources: Collection[str], results: Collection[str]
) -> list[int]:
    """Which inputs of `node` are to be in INT8.

    Beside that of a chosen convolution, it is a skip connection added to the result of one, where
    another convolution reads it in INT8 anyway: TensorRT then adds inside the convolution, and
    need not keep the tensor twice (its guide: "quantize the residual input in skip connections").
    On 30 streets, the demo labels 0.303 instead of 0.292 % of the pixels otherwise for it.
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


def _quantized_by_onnxruntime(
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
            # TensorRT puts the rounding of an output where its reader wants it.
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
    """ONNX Runtime's tool leaves out what it has no type for, with a warning."""
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
