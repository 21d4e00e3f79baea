"""The plugin nodes of a graph, and the same computations in ONNX's own operators.

ONNX Runtime does not have these plugins. To compare on the CPU, to calibrate and so on,
`expand_plugin_nodes` replaces each node by standard ones, in memory or in a temporary file; never
in a file that the user keeps.

Like the plugins, the standard nodes compute coordinates and sums in float32, whatever the types of
the inputs, and round the result once to the node's type. Therefore `half_rounding`, which rounds
what is float16, rounds nothing inside them that a GPU would not round.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.tape import Tape

from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.errors import ExportError
from alignseg_infer.export.graph.onnx_file import load_graph, save_onnx
from alignseg_infer.files.writing import temporary_folder
from alignseg_infer.spec.model import SamplingConvention
from alignseg_infer.spec.plugin_contract import (
    ALIGNED_ADD,
    DOMAIN,
    OFFSET_GRID_SAMPLE,
    PLUGIN_OPS,
    UPSAMPLE_ARGMAX,
)

FLOAT = ir.DataType.FLOAT
_GRID = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": 0}
CORNERS_ALIGNED = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}


def find_plugin_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the nodes of `model` that TensorRT plugins compute."""
    return [node for node in model.graph if node.domain == DOMAIN]


@contextlib.contextmanager
def runnable_onnx(path: Path) -> Iterator[Path]:
    """Give a file with the same model that ONNX Runtime can run: `path`, or a temporary one.

    Raises:
        ExportError: The model has a plugin node that this package does not know.
    """
    if not needs_plugins(path):
        yield path
        return
    with temporary_folder() as folder:
        expanded = folder / path.name
        save_onnx(expand_plugin_nodes(load_graph(path)), expanded)
        yield expanded


def expand_plugin_nodes(model: ir.Model) -> ir.Model:
    """Return a copy of `model` without plugin nodes; `model` itself if it has none.

    Args:
        model: A graph that this package exported, of opset 16 to 19.

    Raises:
        ExportError: The graph has a plugin node that this package does not know.
    """
    if not find_plugin_nodes(model):
        return model
    model = model.clone()
    for node in find_plugin_nodes(model):
        writer = NodeWriter(node)
        _find_expansion(node)(writer, node)
        writer.replace(model.graph, node)
    model.opset_imports.pop(DOMAIN, None)
    return model


def _find_expansion(node: ir.Node) -> "Callable[[NodeWriter, ir.Node], None]":
    expansions = {
        OFFSET_GRID_SAMPLE.name: _write_offset_grid_sample,
        ALIGNED_ADD.name: _write_aligned_add,
        UPSAMPLE_ARGMAX.name: _write_upsample_argmax,
    }
    if node.op_type not in expansions:
        raise ExportError(
            f"node {node.name!r} is {node.domain}.{node.op_type}",
            f"one of {', '.join(PLUGIN_OPS)}",
            "export the model with this version: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )
    return expansions[node.op_type]


class NodeWriter:
    """Writes the standard nodes that replace one node.

    Args:
        node: The node to replace; new values are named after its output.
    """

    def __init__(self, node: ir.Node) -> None:
        self._tape = Tape()
        self._name = f"{node.outputs[0].name}_written"
        self.inputs = [value for value in node.inputs if value is not None]

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node and return its result."""
        value = self._tape.op(kind, inputs, attributes)
        value.name = f"{self._name}_{len(self._tape.nodes)}"
        return value

    def constant(self, value: float | list[int]) -> ir.Value:
        """Add a constant: a float32 scalar, or a list of int64."""
        dtype = FLOAT if isinstance(value, float) else ir.DataType.INT64
        return self.op("Constant", value=ir.tensor(value, dtype=dtype))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Convert `value` to `dtype`."""
        return self.op("Cast", value, to=int(dtype))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """Read one dimension of `value`: int64, (1,)."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def replace(self, graph: ir.Graph, node: ir.Node) -> None:
        """Put the nodes in the place of `node`; the last one computes its output."""
        nodes, old = list(self._tape.nodes), node.outputs[0]
        new = nodes[-1].outputs[0]
        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [new])


def _write_offset_grid_sample(writer: NodeWriter, node: ir.Node) -> None:
    feature, offset = writer.inputs
    _write_rounding(writer, _write_sampling(writer, feature, offset, _read_convention(node)), node)


def _write_aligned_add(writer: NodeWriter, node: ir.Node) -> None:
    high, low, high_offset, low_offset = writer.inputs
    convention = _read_convention(node)
    wide = _write_sampling(writer, _write_upsampling(writer, high, low), high_offset, convention)
    fine = _write_sampling(writer, low, low_offset, convention)
    _write_rounding(writer, writer.op("Add", wide, fine), node)


def _write_upsample_argmax(writer: NodeWriter, node: ir.Node) -> None:
    logits, like = writer.inputs
    labels = writer.op("ArgMax", _write_upsampling(writer, logits, like), axis=1, keepdims=0)
    writer.cast(labels, ir.DataType.INT32)


def _read_convention(node: ir.Node) -> SamplingConvention:
    return SamplingConvention(node.attributes["convention"].as_string())


def _write_rounding(writer: NodeWriter, value: ir.Value, node: ir.Node) -> None:
    writer.cast(value, node.outputs[0].dtype or FLOAT)


def _write_upsampling(writer: NodeWriter, x: ir.Value, like: ir.Value) -> ir.Value:
    """Upsample `x`, (N, C, h, w), to the size of `like`, (N, K, H, W); float32."""
    channels = writer.op("Shape", x, start=0, end=2)
    sizes = writer.op("Concat", channels, writer.op("Shape", like, start=2, end=4), axis=0)
    inputs = (writer.cast(x, FLOAT), None, None, sizes)
    return writer.op("Resize", *inputs, **CORNERS_ALIGNED)


def _write_sampling(
    writer: NodeWriter, feature: ir.Value, offset: ir.Value, convention: SamplingConvention
) -> ir.Value:
    """Compute `ops.sampling.offset_grid_sample`; float32."""
    offset = writer.cast(offset, FLOAT)  # (N, 2, H, W)
    x, y = (_write_positions(writer, feature, offset, axis, convention) for axis in (3, 2))
    last = writer.constant([-1])
    columns = (writer.op("Unsqueeze", one, last) for one in (x, y))  # each (N, H, W, 1)
    grid = writer.op("Concat", *columns, axis=-1)  # (N, H, W, 2)
    return writer.op("GridSample", writer.cast(feature, FLOAT), grid, **_GRID)


def _write_positions(
    writer: NodeWriter,
    feature: ir.Value,
    offset: ir.Value,
    axis: int,
    convention: SamplingConvention,
) -> ir.Value:
    """Compute source positions along axis 3 (x) or 2 (y), (N, H, W), in GridSample's units."""
    op, one = writer.op, writer.constant(1.0)
    size, across = (writer.cast(writer.size(feature, a), FLOAT) for a in (axis, 5 - axis))
    channel = writer.op("Squeeze", writer.constant([3 - axis]))
    along = op("Gather", offset, channel, axis=1)  # (N, H, W)
    index = writer.cast(_write_indices(writer, offset, axis), FLOAT)
    last = op("Max", op("Sub", writer.cast(writer.size(offset, axis), FLOAT), one), one)
    if convention is SamplingConvention.STANDARD:
        step = op("Div", op("Sub", size, one), last)
        source = op("Mul", op("Add", index, along), step)
    else:
        gain = writer.constant(0.5)
        if convention is SamplingConvention.RELEASE_2021_05:
            gain = op("Mul", gain, op("Div", size, across))
        position = op("Sub", op("Mul", index, op("Div", size, last)), writer.constant(0.5))
        source = op("Add", position, op("Mul", along, gain))
    doubled = op("Add", op("Mul", source, writer.constant(2.0)), one)
    return op("Sub", op("Div", doubled, size), one)  # pixel p of n is (2p + 1)/n - 1


def _write_indices(writer: NodeWriter, offset: ir.Value, axis: int) -> ir.Value:
    """Count 0, 1, 2, ... along `axis` of `offset`: (W,) for axis 3, (H, 1) for axis 2."""
    ends = [writer.constant([0]), writer.size(offset, axis), writer.constant([1])]
    index = writer.op("Range", *(writer.op("Squeeze", end) for end in ends))
    return index if axis == 3 else writer.op("Unsqueeze", index, writer.constant([1]))
