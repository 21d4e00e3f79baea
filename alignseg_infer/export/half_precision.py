"""Converts a graph to float16 in the form that TensorRT's strongly typed networks require.

Everything that is computed from the image becomes float16, except

* sampling coordinates: the nodes between a learned offset and the grid of GridSample, or the
  indices and weights of the gather lowering. A normalised float16 coordinate is off by up to 1/16
  pixel at width 513 (``tests/benchmarks/precision.py`` measures the effect on labels);
* GridSample itself, which stays a float32 island because TensorRT requires feature and grid to have
  the same type;
* labels, once they are found;
* values that depend on shapes only: pooling and interpolation matrices are computed in float32 and
  then rounded once.

Plugin nodes take float16 features and float16 offsets directly: the plugins compute coordinates in
float32, from integer indices, so no node of the graph holds a coordinate.

The image and the logits stay float32, so a float16 model is used like any other.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
from numpy.typing import NDArray
from onnxscript import version_converter

from alignseg_infer.errors import ExportError
from alignseg_infer.spec.model import INPUT_NAME
from alignseg_infer.spec.plugin_contract import PLUGIN_OPS

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
QUANTIZER_OPSET = 19  # the first opset whose QuantizeLinear takes float16
QUANTIZER_IR_VERSION = 9  # of ONNX 1.14, which introduced opset 19
_SHAPE_READERS = frozenset({"Shape", "Size"})
_FEATURE_MAKERS = frozenset({"Conv", "MatMul", "GridSample", "ConvTranspose", "Gemm"})
# Inputs that are not features: region and scales, and the image where only its size is read.
_ALWAYS_FLOAT32 = {"Resize": {1, 2}}
_ALWAYS_FLOAT32 |= {op.name: set(op.shapes) for op in PLUGIN_OPS.values()}
_LABEL_TYPES = {ir.DataType.INT32, ir.DataType.INT64}
SMALLEST_HALF = 2.0**-24


def to_half_precision(model: ir.Model) -> None:
    """Convert a float32 graph, quantised or not, to float16 where that is safe; in place.

    Args:
        model: A graph made by `onnx_graph.onnx_from_model`, with or without Q/DQ around
            convolutions. All its values must have types.

    Raises:
        ExportError: A weight is too large for float16, or the graph already contains float16.
    """
    _type_quantizers(model)
    _require_float32(model)
    if any(node.op_type in QUANTIZERS for node in model.graph):
        _raise_opset(model)
        _fit_weights_to_half_scales(model)
    half = _find_half_nodes(model)
    # Shapes need no cast: they are the same in both types, and a cast would copy the tensor.
    others = [
        node for node in model.graph if node not in half and node.op_type not in _SHAPE_READERS
    ]
    conversion = _Conversion(model)
    for node in half:
        conversion.convert(node)
    conversion.cast_back(others)
    conversion.cast_outputs()
    onnx_ir.passes.common.RemoveUnusedNodesPass()(model)


def find_coordinate_nodes(model: ir.Model) -> set[ir.Node]:
    """Return the nodes that compute sampling coordinates from learned offsets; none with plugins.

    They begin after the convolution that predicts the offsets. They end where a feature comes in:
    at GridSample, at Gather, or at the product with a gathered feature.
    """
    from_image = _find_values_from_image(model)
    found: set[ir.Node] = set()
    waiting = [value for value in _find_coordinate_ends(model) if value in from_image]
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in found or node.op_type in _FEATURE_MAKERS:
            continue
        found.add(node)
        waiting += [value for value in node.inputs if value in from_image]
    return found | _find_readers_of_coordinates(model, found, from_image)


def require_exact_coordinates(model: ir.Model) -> None:
    """Raise ExportError unless a float16 graph samples at float32 coordinates.

    Comparing labels does not replace this check: they may agree well enough to hide the error.

    Raises:
        ExportError: A coordinate is float16.
    """
    grids = [node.inputs[1] for node in model.graph if node.op_type == "GridSample"]
    nodes = find_coordinate_nodes(model)
    exact = [node for node in nodes if not _only_rounds_weights(node, nodes)]
    values = [*grids, *(value for node in exact for value in node.outputs)]
    half = [value.name for value in values if value and value.dtype == ir.DataType.FLOAT16]
    if half:
        raise ExportError(
            f"{len(half)} sampling coordinates are float16, the first {half[0]!r}",
            "float32 coordinates: float16 ones are off by up to 1/16 pixel at width 513",
            "alignseg export-onnx FLOAT32.onnx -o MODEL.onnx --precision fp16",
        )


def _only_rounds_weights(node: ir.Node, coordinates: set[ir.Node]) -> bool:
    """Return whether `node` rounds finished bilinear weights for their product with a feature."""
    readers = set(node.outputs[0].consumers())
    return node.op_type == "Cast" and readers.isdisjoint(coordinates)


def _find_coordinate_ends(model: ir.Model) -> Iterable[ir.Value]:
    """Yield the grids of GridSample and the indices of Gather."""
    for node in model.graph:
        if node.op_type in ("GridSample", "Gather") and node.inputs[1] is not None:
            yield node.inputs[1]


def _find_readers_of_coordinates(
    model: ir.Model, coordinates: set[ir.Node], from_image: set[ir.Value]
) -> set[ir.Node]:
    """Return the nodes whose only inputs from the image are coordinates: bilinear weights, say."""
    found: set[ir.Node] = set()
    for node in model.graph:  # in topological order
        producers = {value.producer() for value in node.inputs if value in from_image}
        if producers and producers <= coordinates | found and node not in coordinates:
            found.add(node)
    return found


def _find_values_from_image(model: ir.Model) -> set[ir.Value]:
    """Return the values that depend on pixels, not only on the image's shape."""
    found = {value for value in model.graph.inputs if value.name == INPUT_NAME}
    for node in model.graph:
        if node.op_type not in _SHAPE_READERS and not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def _find_half_nodes(model: ir.Model) -> dict[ir.Node, None]:
    """Return the nodes that should compute in float16, in the graph's order."""
    from_image = _find_values_from_image(model)
    kept = find_coordinate_nodes(model) | _find_label_nodes(model, from_image)
    return {
        node: None
        for node in model.graph
        if node.op_type in QUANTIZERS
        or (
            node.op_type not in ("GridSample", *_SHAPE_READERS)
            and node not in kept
            and not from_image.isdisjoint(node.inputs)
        )
    }


def _find_label_nodes(model: ir.Model, from_image: set[ir.Value]) -> set[ir.Node]:
    """Return the nodes that only convert labels: float16 holds them up to 2048."""
    found: set[ir.Node] = set()
    for node in model.graph:  # in topological order
        inputs = [value for value in node.inputs if value in from_image]
        if inputs and all(v.dtype in _LABEL_TYPES or v.producer() in found for v in inputs):
            found.add(node)
    return found


class _Conversion:
    """Rewires a graph so that some of its nodes compute in float16.

    Args:
        model: The graph to change.
    """

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def convert(self, node: ir.Node) -> None:
        """Make one node read and return float16."""
        kept = _ALWAYS_FLOAT32.get(node.op_type, set())
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT and index not in kept:
                node.replace_input_with(index, self._make_half(value))
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.dtype = ir.DataType.FLOAT16

    def cast_back(self, nodes: Iterable[ir.Node]) -> None:
        """Give `nodes`, which stay in float32, float32 inputs again."""
        for node in nodes:
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype == ir.DataType.FLOAT16:
                    node.replace_input_with(index, self._cast(value, ir.DataType.FLOAT))

    def cast_outputs(self) -> None:
        """Give the graph float32 outputs again, under the same names."""
        for index, value in enumerate(self._graph.outputs):
            if value.dtype == ir.DataType.FLOAT16:
                name, value.name = value.name, f"{value.name}_half"
                self._graph.outputs[index] = self._cast(value, ir.DataType.FLOAT)
                self._graph.outputs[index].name = name

    def _make_half(self, value: ir.Value) -> ir.Value:
        constant = value.const_value
        if value.producer() is not None or constant is None:
            return self._cast(value, ir.DataType.FLOAT16)
        key = (value, ir.DataType.FLOAT16)
        if key not in self._casts:
            half = ir.Value(
                name=f"{value.name}_half",
                const_value=ir.tensor(_round_weights(constant.numpy(), str(value.name))),
                type=ir.TensorType(ir.DataType.FLOAT16),
                shape=value.shape,
            )
            self._graph.register_initializer(half)
            self._casts[key] = half
        return self._casts[key]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        key = (value, dtype)
        if key not in self._casts:
            node = ir.node("Cast", [value], {"to": int(dtype)})
            output = node.outputs[0]
            output.name = f"{value.name}_{dtype.name.lower()}"
            output.dtype, output.shape = dtype, value.shape
            producer = value.producer()
            if producer is None:
                self._graph.insert_before(self._graph[0], node)
            else:
                self._graph.insert_after(producer, node)
            self._casts[key] = output
        return self._casts[key]


def _round_weights(weights: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = weights.astype(np.float16)
    if not np.isfinite(half).all():
        raise ExportError(
            f"the weight {name} has values up to {np.abs(weights).max():.3g}",
            f"at most {np.finfo(np.float16).max}, the largest float16",
            "precision='fp32'; or check the checkpoint: weights this large are usually a mistake",
        )
    return half


def _type_quantizers(model: ir.Model) -> None:
    """Set the types and shapes of Q/DQ results, which ONNX Runtime's tool leaves out."""
    for node in model.graph:
        if node.op_type not in QUANTIZERS:
            continue
        value, scale, zero = node.inputs[:3]
        like = zero if node.op_type == "QuantizeLinear" else scale
        assert value is not None
        assert like is not None
        node.outputs[0].type, node.outputs[0].shape = like.type, value.shape


def _require_float32(model: ir.Model) -> None:
    values = [value for node in model.graph for value in node.outputs]
    untyped = [value.name for value in values if value.dtype is None]
    half = [value.name for value in values if value.dtype == ir.DataType.FLOAT16]
    if not untyped and not half:
        return
    if untyped:
        problem = f"{len(untyped)} values of the graph have no type, the first {untyped[0]}"
    elif set(half) <= {value.name for value in model.graph.outputs}:
        problem = f"the graph returns {', '.join(map(str, half))} as float16"
    else:
        problem = f"the graph already has float16 values, the first {half[0]}"
    raise ExportError(
        problem,
        "a float32 graph, outputs too, as this package exports it",
        "use the file from before another tool changed it, or export the checkpoint again: "
        "alignseg export-onnx CHECKPOINT -o MODEL.onnx",
    )


def _raise_opset(model: ir.Model) -> None:
    if model.opset_imports[""] < QUANTIZER_OPSET:
        version_converter.convert_version(model, QUANTIZER_OPSET)
        model.ir_version = max(model.ir_version, QUANTIZER_IR_VERSION)


def _fit_weights_to_half_scales(model: ir.Model) -> None:
    """Round all scales to float16 values above 0, and adapt int8 weights to their new scales.

    Scales are rounded up, so that no weight is clipped. Without new weights, small scales, for
    which float16 has few bits below 6e-5, would change weights by more than quantising did.
    """
    scales: dict[ir.Value, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    done: set[ir.Value] = set()
    for node in model.graph:
        if node.op_type not in QUANTIZERS:
            continue
        weight, scale = node.inputs[:2]
        if weight is None or scale is None or scale.const_value is None or weight in done:
            continue
        if scale not in scales:
            exact = scale.const_value.numpy().astype(np.float32)
            scales[scale] = exact, _round_up_to_half(exact)
        old, new = scales[scale]
        scale.const_value = ir.tensor(new, name=scale.name)
        if node.op_type != "DequantizeLinear" or weight.const_value is None:
            continue
        done.add(weight)
        shape = [1] * len(weight.const_value.shape)
        if old.size > 1:
            shape[node.attributes.get_int("axis", 1)] = old.size
        values = weight.const_value.numpy() * (old / new).reshape(shape)
        weight.const_value = ir.tensor(np.rint(values).astype(np.int8), name=weight.name)


def _round_up_to_half(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return, for each of `values`, the smallest float16 above 0 that is not below it; float32."""
    nearest = np.maximum(values, np.float32(SMALLEST_HALF)).astype(np.float16)
    above = np.nextafter(nearest, np.float16(np.inf))
    return np.where(nearest < values, above, nearest).astype(np.float32)
