"""INT8 for CPUs: Q/DQ in a float32 graph, where ONNX Runtime and OpenVINO fuse it.

Both look for an operator whose inputs come from DequantizeLinear and whose result goes to
QuantizeLinear. So integers do not only enter convolutions here: they flow through activations,
additions, pooling and concatenations as well, as far as these lie between convolutions. Values are
unsigned with a zero point: kernels multiply unsigned values by signed weights, and ONNX Runtime
takes 1.6 times as long for signed ones (demo, 256x512: 48.4 and 30.7 ms). Biases are INT32.

Weights have 7 bits. Without VNNI, x86-64 processors add two products of an unsigned value and a
weight in 16 bits, which 2 * 255 * 64 fits and 2 * 255 * 127 does not.

What samples, upsamples or predicts offsets reads exact values, unless a convolution made them:
that must end in integers to be fused.

Grouped convolutions become plain ones, with zeros between the groups. There are four, one for the
taps of each pair of offset branches. Without VNNI, OpenVINO computes groups in INT8 slowly: with
plain ones, the demo takes 0.83 of the time (256x512, for any size).
"""

import math
from collections.abc import Collection

import numpy as np
import onnx_ir

from alignseg_infer.errors import ExportError
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.rounding import Reader, Rounding, Scales

LARGEST_WEIGHT, LARGEST_VALUE = 64, 255
_FOLLOWING = frozenset({"Relu", "LeakyRelu", "MaxPool", "Add", "Concat"})


def quantize_for_cpus(
    graph: onnx_ir.Graph, convs: Collection[onnx_ir.Node], ranges: Ranges
) -> None:
    """Quantise `convs` and what lies between them; in place.

    Raises:
        ExportError: A tensor was not calibrated.
    """
    readers = find_readers(graph, convs)
    _require_bounds(readers, ranges)
    for conv in convs:
        join_groups(graph, conv)
    bounds = _find_bounds(readers, ranges)
    sources = {conv: value for conv in convs if (value := conv.inputs[0]) is not None}
    rounding = Rounding(graph)
    scales = {
        value: rounding.round_unsigned(value, bounds[value], found)
        for value, found in readers.items()
    }
    for weight, found in _find_weights(convs).items():
        inputs = {conv: scales[sources[conv]] for conv, _ in found}
        least = np.max([_least_scales(conv, inputs[conv]) for conv in inputs], axis=0)
        weight_scales = rounding.round_weights(weight, found, LARGEST_WEIGHT, least)
        for conv, scale in inputs.items():
            _round_bias(rounding, conv, scale * weight_scales)


def join_groups(graph: onnx_ir.Graph, conv: onnx_ir.Node) -> None:
    """Write the groups of a convolution into one weight, whose other entries are 0."""
    groups = conv.attributes.get_int("group", 1)
    weight = conv.inputs[1]
    if groups == 1 or weight is None or weight.const_value is None:
        return
    exact = weight.const_value.numpy()
    outputs, inputs, *kernel = exact.shape
    joined = np.zeros((groups, outputs // groups, groups, inputs, *kernel), exact.dtype)
    for group, own in enumerate(np.split(exact, groups)):
        joined[group, :, group] = own
    joined = joined.reshape(outputs, groups * inputs, *kernel)
    name = f"{conv.outputs[0].name}_weight"  # unlike the weight, only this convolution has it
    value = onnx_ir.val(name, const_value=onnx_ir.tensor(joined, name=name))
    graph.register_initializer(value)
    conv.replace_input_with(1, value)
    conv.attributes["group"] = onnx_ir.AttrInt64("group", 1)
    if not weight.uses():
        del graph.initializers[str(weight.name)]


def find_readers(
    graph: onnx_ir.Graph, convs: Collection[onnx_ir.Node]
) -> dict[onnx_ir.Value, list[Reader]]:
    """Return the tensors that become integers, and who reads them so, in the graph's order."""
    integer = _find_integer_nodes(graph, convs)
    readers: dict[onnx_ir.Value, list[Reader]] = {}
    for node in graph:
        if node not in integer:
            continue
        for index in range(1 if node in convs else len(node.inputs)):
            value = node.inputs[index]
            if value is not None and not _is_merged(value, integer):
                readers.setdefault(value, []).append((node, index))
    places = {node: place for place, node in enumerate(graph)}
    outputs = set(graph.outputs)
    for conv in convs:
        result = conv.outputs[0]
        if result not in readers and result not in outputs and not _is_merged(result, integer):
            users = [(use.node, use.idx) for use in result.uses()]
            readers[result] = sorted(users, key=lambda reader: places[reader[0]])
    return readers


def _find_integer_nodes(
    graph: onnx_ir.Graph, convs: Collection[onnx_ir.Node]
) -> dict[onnx_ir.Node, None]:
    """Return `convs`, and the nodes that compute from their results alone, in the graph's order."""
    found: dict[onnx_ir.Node, None] = {}
    for node in graph:
        makers = [value.producer() for value in node.inputs if value is not None]
        if node in convs or (node.op_type in _FOLLOWING and all(m in found for m in makers)):
            found[node] = None
    return found


def _is_merged(value: onnx_ir.Value, integer: Collection[onnx_ir.Node]) -> bool:
    """Return whether only a ReLU reads `value`, which unsigned integers make by themselves."""
    readers = value.consumers()
    maker = value.producer()
    if len(readers) != 1 or maker is None or maker not in integer:
        return False
    return readers[0].op_type == "Relu" and readers[0] in integer


def _find_weights(convs: Collection[onnx_ir.Node]) -> dict[onnx_ir.Value, list[Reader]]:
    weights: dict[onnx_ir.Value, list[Reader]] = {}
    for conv in convs:
        weight = conv.inputs[1]
        assert weight is not None  # `find_convolutions` lists those with constant weights only
        weights.setdefault(weight, []).append((conv, 1))
    return weights


def _least_scales(conv: onnx_ir.Node, input_scale: Scales) -> Scales:
    """Return the smallest scales of a convolution's weights with which its sums fit INT32.

    A sum of products begins with the bias, in steps of both scales. Where weights are tiny or 0, as
    those of channels that training has switched off, such steps would be too small for the bias.
    """
    weight, bias = conv.inputs[1], _bias_of(conv)
    assert weight is not None
    assert weight.const_value is not None
    outputs, *inner = weight.const_value.shape.numpy()
    if bias is None:
        return np.zeros(outputs, np.float32)
    most = np.iinfo(np.int32).max - LARGEST_VALUE * LARGEST_WEIGHT * math.prod(inner)
    assert bias.const_value is not None
    exact = np.abs(bias.const_value.numpy().astype(np.float64))
    # A little more, since float32 rounds the product of both scales.
    return (exact * (1 + 1e-6) / (np.float64(input_scale) * most)).astype(np.float32)


def _bias_of(conv: onnx_ir.Node) -> onnx_ir.Value | None:
    """Return the constant bias of a convolution."""
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    return None if bias is None or bias.const_value is None else bias


def _round_bias(rounding: Rounding, conv: onnx_ir.Node, scale: Scales) -> None:
    bias = _bias_of(conv)
    if bias is not None:
        rounding.round_bias(bias, scale, (conv, 2))


def _find_bounds(
    values: Collection[onnx_ir.Value], ranges: Ranges
) -> dict[onnx_ir.Value, tuple[float, float]]:
    """Return the bounds of each tensor. The result of a MaxPool has those of what it reads.

    ONNX Runtime pools integers only if both have one scale. In floats, pooling and the changes of
    layout around it took 7 % of the network's time (demo, 256x512).
    """
    found: dict[onnx_ir.Value, tuple[float, float]] = {}
    for value in values:
        pool = value.producer()
        source = pool.inputs[0] if pool is not None and pool.op_type == "MaxPool" else None
        measured = value if source is None or source not in values else source
        found[value] = ranges.bounds[str(measured.name)]
    return found


def _require_bounds(readers: Collection[onnx_ir.Value], ranges: Ranges) -> None:
    missing = [value.name for value in readers if value.name not in ranges.bounds]
    if missing:
        raise ExportError(
            f"no range was calibrated for {len(missing)} tensors, the first {missing[0]!r}",
            "ranges calibrated with the same export, for CPUs",
            "calibrate with the model that you quantise, and target='cpu'",
        )
