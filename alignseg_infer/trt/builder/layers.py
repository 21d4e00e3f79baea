"""Reads a parsed TensorRT network back, and compares it and its types with the ONNX graph.

The types are those of the parsed network. It is strongly typed, so TensorRT keeps them in a build.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from alignseg_infer.errors import BuildError
from alignseg_infer.spec.model import Precision, Sampler
from alignseg_infer.spec.onnx_facts import OnnxFacts
from alignseg_infer.trt import bindings as api
from alignseg_infer.trt.engine_file import LayerCount
from alignseg_infer.trt.flavours import Module

_LayerT = TypeVar("_LayerT", bound=api.ILayer)

PLUGIN_LAYER = "PLUGIN_V3"
HALF, FLOAT, INT8 = "HALF", "FLOAT", "INT8"
LABELS = "INT32"  # the type in which plugins return labels
_SHOWN = {HALF: "FP16", FLOAT: "FP32", INT8: "INT8"}
# TensorRT's names for ONNX's mode=bilinear, padding_mode=zeros, align_corners=0.
SAMPLING = ("LINEAR", "FILL", False)
# TensorRT's names for ONNX's mode=linear, coordinate_transformation_mode=align_corners.
RESIZING = ("LINEAR", "ALIGN_CORNERS")
_ALLOWED = {
    Precision.FP32: {FLOAT},
    Precision.FP16: {HALF},
    Precision.INT8: {HALF, INT8},
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a parsed network.

    Attributes:
        name: Its name, usually that of the ONNX node.
        kind: TensorRT's layer type, e.g. ``CONVOLUTION``.
        data_type: The type of its first output, e.g. ``HALF``; ``INT8`` for a convolution of
            dequantised values with dequantised weights.
        inputs: Names of the tensors it reads.
        outputs: Names of the tensors it writes.
        operation: What a unary layer computes, e.g. ``FLOOR``.
        sampling: Interpolation, value outside, and whether corners are aligned, for a grid-sample
            layer.
        resizing: Interpolation and coordinate transformation, for a resize layer.
        plugin: The plugin of a plugin layer, as ``name/version``, if TensorRT tells.
    """

    name: str
    kind: str
    data_type: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    operation: str | None = None
    sampling: tuple[str, str, bool] | None = None
    resizing: tuple[str, str] | None = None
    plugin: str | None = None


@dataclass(frozen=True)
class Network:
    """A parsed network: its layers in order, and the names of its inputs and outputs."""

    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_network(module: Module, network: api.INetworkDefinition) -> Network:
    """Read the layers, inputs and outputs of TensorRT's `network`.

    Args:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        network: Its ``INetworkDefinition``.
    """
    makers: dict[str, str] = {}
    layers = []
    for index in range(network.num_layers):
        layer = _layer_from(module, network.get_layer(index), makers)
        makers.update(dict.fromkeys(layer.outputs, layer.kind))
        layers.append(layer)
    inputs = tuple(network.get_input(index).name for index in range(network.num_inputs))
    outputs = tuple(network.get_output(index).name for index in range(network.num_outputs))
    return Network(tuple(layers), inputs, outputs)


def _layer_from(module: Module, layer: api.ILayer, makers: dict[str, str]) -> Layer:
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    inputs = tuple(tensor.name for tensor in tensors if tensor is not None)
    outputs = tuple(layer.get_output(index).name for index in range(layer.num_outputs))
    kind, data_type = layer.type.name, layer.get_output(0).dtype.name
    if kind == "CONVOLUTION" and _is_quantised(inputs, makers):
        data_type = INT8
    read = Layer(name=layer.name, kind=kind, data_type=data_type, inputs=inputs, outputs=outputs)
    return _with_own_facts(read, module, layer)


def _with_own_facts(read: Layer, module: Module, layer: api.ILayer) -> Layer:
    """Add the attributes that only layers of this kind have."""
    if read.kind == "UNARY":
        return replace(read, operation=_as(module.IUnaryLayer, layer).op.name)
    if read.kind == "GRID_SAMPLE":
        grid = _as(module.IGridSampleLayer, layer)
        mode, outside = grid.interpolation_mode.name, grid.sample_mode.name
        return replace(read, sampling=(mode, outside, bool(grid.align_corners)))
    if read.kind == "RESIZE":
        resize = _as(module.IResizeLayer, layer)
        modes = (resize.resize_mode.name, resize.coordinate_transformation.name)
        return replace(read, resizing=modes)
    if read.kind == PLUGIN_LAYER:
        plugin = _as(module.IPluginV3Layer, layer).plugin
        core = plugin.get_capability_interface(module.PluginCapabilityType.CORE)
        if core is not None:  # Python bindings up to 10.3 always return None
            return replace(read, plugin=f"{core.plugin_name}/{core.plugin_version}")
    return read


def _as(kind: type[_LayerT], layer: api.ILayer) -> _LayerT:
    """Return a layer of the network, which returns every one as an ILayer, as one of its class."""
    layer.__class__ = kind
    return cast("_LayerT", layer)


def _is_quantised(inputs: Sequence[str], makers: dict[str, str]) -> bool:
    """Whether values and weights come from DequantizeLinear, so that TensorRT computes in INT8."""
    return len(inputs) >= 2 and all(makers.get(name) == "DEQUANTIZE" for name in inputs[:2])


def count_layers(network: Network) -> tuple[LayerCount, ...]:
    """Count the layers of each kind and type, sorted."""
    counts = Counter((layer.kind, layer.data_type) for layer in network.layers)
    return tuple(LayerCount(*key, count) for key, count in sorted(counts.items()))


def require_sampling(network: Network, facts: OnnxFacts) -> None:
    """Check that samplers and plugins are those of the ONNX graph, with the right modes and types.

    TensorRT up to 11.1 silently reads GridSample of opset 20 as nearest neighbour
    (NVIDIA/TensorRT#4646).

    Raises:
        BuildError: TensorRT made something else of them.
    """
    found = [layer for layer in network.layers if layer.sampling is not None]
    for layer in found:
        if layer.sampling != SAMPLING:
            mode, outside, corners = layer.sampling or SAMPLING
            raise BuildError(
                f"TensorRT's layer {layer.name!r} samples with {mode}, {outside}, "
                f"align_corners={corners}",
                "LINEAR, FILL (zeros outside), align_corners=False, as in the ONNX graph",
                "export again with sampler='gather', which needs no such layer; and report this",
            )
    rounded = [layer for layer in network.layers if _is_inexact_coordinate(layer)]
    if rounded:
        raise BuildError(
            f"TensorRT's layer {rounded[0].name!r} computes sampling coordinates in "
            f"{rounded[0].data_type}",
            "FLOAT: sampling coordinates in float16 are off by up to 1/16 pixel at width 513",
            "build it from the checkpoint again, with precision='fp16'",
        )
    native = facts.export.sampler is Sampler.NATIVE
    if len(found) != facts.grid_samples or bool(found) != native:
        raise BuildError(
            f"TensorRT has {len(found)} grid-sample layers, the ONNX graph {facts.grid_samples} "
            f"GridSample nodes, and its sampler is {facts.export.sampler}",
            "as many layers as nodes; layers only with the sampler native",
            "export the model again, and report this if it happens again",
        )
    _require_plugins(network, facts)


def require_resizing(network: Network, facts: OnnxFacts) -> None:
    """Check that each Resize node became a layer, linear, with aligned corners.

    Raises:
        BuildError: TensorRT made something else of them.
    """
    found = [layer for layer in network.layers if layer.resizing is not None]
    for layer in found:
        if layer.resizing != RESIZING:
            raise BuildError(
                f"TensorRT's layer {layer.name!r} resizes with {', '.join(layer.resizing or ())}",
                f"{' and '.join(RESIZING)}, as in the ONNX graph",
                "export again with upsampling='matrices' and output='logits', which needs no such "
                "layer; and report this",
            )
    if len(found) != facts.resizes:
        raise BuildError(
            f"TensorRT has {len(found)} resize layers, the ONNX graph {facts.resizes} Resize nodes",
            "as many layers as nodes",
            "export the model again, and report this if it happens again",
        )


def _require_plugins(network: Network, facts: OnnxFacts) -> None:
    """Check that each plugin node became a layer of that plugin, in the graph's own type."""
    layers = [layer for layer in network.layers if layer.kind.startswith("PLUGIN")]
    nodes = dict(facts.plugin_nodes)  # the parser names layers after nodes
    found = Counter(layer.plugin or nodes.get(layer.name, layer.kind) for layer in layers)
    if found != Counter(facts.plugins):
        raise BuildError(
            f"TensorRT has the plugin layers {_list_counts(found)}, the ONNX graph "
            f"{_list_counts(Counter(facts.plugins))}",
            "a layer for each node, of the same plugin",
            "build the library of plugins again, and report this if it happens again",
        )
    for layer in layers:
        wanted = FLOAT if facts.export.precision is Precision.FP32 else HALF
        if layer.data_type not in (wanted, LABELS):
            raise BuildError(
                f"the plugin layer {layer.name!r} returns {layer.data_type}, but the graph was "
                f"exported as {facts.export.precision}",
                f"{wanted}, or {LABELS} labels",
                "export the model again, and report this if it happens again",
            )


def _list_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _is_inexact_coordinate(layer: Layer) -> bool:
    """Whether a layer that handles sampling coordinates computes in less than FP32.

    For the native sampler this is the grid sampling itself, for gather the floor of coordinates.
    """
    return (layer.sampling is not None or layer.operation == "FLOOR") and layer.data_type != "FLOAT"


def require_precision(network: Network, precision: Precision) -> None:
    """Check that every convolution computes in the precision of the graph.

    Raises:
        BuildError: A convolution does not, or an INT8 graph has no INT8 convolution.
    """
    convolutions = [layer for layer in network.layers if layer.kind == "CONVOLUTION"]
    wrong = [layer for layer in convolutions if layer.data_type not in _ALLOWED[precision]]
    quantised = any(layer.data_type == INT8 for layer in convolutions)
    if wrong or not convolutions or quantised != (precision is Precision.INT8):
        first = f", the first of them {wrong[0].name!r}" if wrong else ""
        raise BuildError(
            f"the graph was exported as {precision}, but TensorRT computes "
            f"{_count_per_type(convolutions)} convolutions{first}",
            f"all of them in {' or '.join(sorted(_SHOWN[kind] for kind in _ALLOWED[precision]))}",
            f"build it from the checkpoint again, with precision={precision.value!r}",
        )


def _count_per_type(layers: Iterable[Layer]) -> str:
    counts = Counter(_SHOWN.get(layer.data_type, layer.data_type) for layer in layers)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "0"
