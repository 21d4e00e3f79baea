"""Plugin nodes of a graph, and what they compute written in ONNX's own operators.

ONNX Runtime has no such plugins. For comparisons on the CPU, calibration and the like, `expanded`
writes each node out, in memory or in a temporary file; never in a file that the user keeps.

Coordinates and sums are in float32 whatever the node's inputs are, and the result is rounded once
to the node's type: what the plugin does. So `half_rounding`, which rounds what is float16, finds
inside an expansion nothing that a GPU would not round.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.tape import Tape

from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.errors import ExportError
from alignseg_infer.export.graph.onnx_file import save_onnx
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
_CORNERS_ALIGNED = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}


def plugin_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes of `model` that TensorRT plugins compute."""
    return [node for node in model.graph if node.domain == DOMAIN]


@contextlib.contextmanager
def runnable(path: Path) -> Iterator[Path]:
    """A file with the same model that ONNX Runtime can run: `path`, or a temporary one.

    Raises:
        ExportError: It has a plugin node that this package does not know.
    """
    if not needs_plugins(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        written_out = Path(folder) / path.name
        save_onnx(expanded(ir.load(path)), written_out)
        yield written_out


def expanded(model: ir.Model) -> ir.Model:
    """`model` with its plugin nodes written out; a copy, or itself where it has none.

    Args:
        model: A graph of ours, of opset 16 to 19.

    Raises:
        ExportError: It has a plugin node that this package does not know.
    """
    if not plugin_nodes(model):
        return model
    model = model.clone()
    for node in plugin_nodes(model):
        written = _Written(node)
        _expansion_of(node)(written, node)
        written.replace(model.graph, node)
    model.opset_imports.pop(DOMAIN, None)
    return model


def _expansion_of(node: ir.Node) -> "Callable[[_Written, ir.Node], None]":
    expansions = {
        OFFSET_GRID_SAMPLE.name: _offset_grid_sample,
        ALIGNED_ADD.name: _aligned_add,
        UPSAMPLE_ARGMAX.name: _upsample_argmax,
    }
    if node.op_type not in expansions:
        raise ExportError(
            f"node {node.name!r} is {node.domain}.{node.op_type}",
            f"one of {', '.join(PLUGIN_OPS)}",
            "pip install --upgrade alignseg-infer, or export the model again",
        )
    return expansions[node.op_type]


class _Written:
    """Nodes that take the place of one.

    Args:
        node: That one; new values are called after its output.
    """

    def __init__(self, node: ir.Node) -> None:
        self._tape = Tape()
        self._name = f"{node.outputs[0].name}_written"
        self.inputs = [value for value in node.inputs if value is not None]

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """A node, as its result."""
        value = self._tape.op(kind, inputs, attributes)
        value.name = f"{self._name}_{len(self._tape.nodes)}"
        return value

    def constant(self, value: float | list[int]) -> ir.Value:
        """A float32, or int64s."""
        dtype = FLOAT if isinstance(value, float) else ir.DataType.INT64
        return self.op("Constant", value=ir.tensor(value, dtype=dtype))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` as `dtype`."""
        return self.op("Cast", value, to=int(dtype))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension of `value`, int64 of shape (1,)."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def replace(self, graph: ir.Graph, node: ir.Node) -> None:
        """Puts the nodes where `node` was; the last one gives its output."""
        nodes, old = list(self._tape.nodes), node.outputs[0]
        new = nodes[-1].outputs[0]
        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [new])


def _offset_grid_sample(written: _Written, node: ir.Node) -> None:
    feature, offset = written.inputs
    _rounded(written, _sampled(written, feature, offset, _convention(node)), node)


def _aligned_add(written: _Written, node: ir.Node) -> None:
    high, low, high_offset, low_offset = written.inputs
    convention = _convention(node)
    wide = _sampled(written, _upsampled(written, high, low), high_offset, convention)
    fine = _sampled(written, low, low_offset, convention)
    _rounded(written, written.op("Add", wide, fine), node)


def _upsample_argmax(written: _Written, node: ir.Node) -> None:
    logits, like = written.inputs
    labels = written.op("ArgMax", _upsampled(written, logits, like), axis=1, keepdims=0)
    written.cast(labels, ir.DataType.INT32)


def _convention(node: ir.Node) -> SamplingConvention:
    return SamplingConvention(node.attributes["convention"].as_string())


def _rounded(written: _Written, value: ir.Value, node: ir.Node) -> None:
    written.cast(value, node.outputs[0].dtype or FLOAT)


def _upsampled(written: _Written, x: ir.Value, like: ir.Value) -> ir.Value:
    """`x`, (N, C, h, w), at the size of `like`, (N, K, H, W); float32."""
    channels = written.op("Shape", x, start=0, end=2)
    sizes = written.op("Concat", channels, written.op("Shape", like, start=2, end=4), axis=0)
    inputs = (written.cast(x, FLOAT), None, None, sizes)
    return written.op("Resize", *inputs, **_CORNERS_ALIGNED)  # type: ignore[arg-type]


def _sampled(
    written: _Written, feature: ir.Value, offset: ir.Value, convention: SamplingConvention
) -> ir.Value:
    """`ops.sampling.offset_grid_sample`; float32."""
    offset = written.cast(offset, FLOAT)
    axes = [_normalised(written, feature, offset, axis, convention) for axis in (3, 2)]
    last = written.constant([-1])
    grid = written.op("Concat", *(written.op("Unsqueeze", one, last) for one in axes), axis=-1)
    return written.op("GridSample", written.cast(feature, FLOAT), grid, **_GRID)


def _normalised(
    written: _Written,
    feature: ir.Value,
    offset: ir.Value,
    axis: int,
    convention: SamplingConvention,
) -> ir.Value:
    """Source positions along axis 3 (x) or 2 (y), (N, H, W), as GridSample wants them."""
    op, one = written.op, written.constant(1.0)
    size, across = (written.cast(written.size(feature, a), FLOAT) for a in (axis, 5 - axis))
    along = op("Gather", offset, written.op("Squeeze", written.constant([3 - axis])), axis=1)
    index = written.cast(_indices(written, offset, axis), FLOAT)
    last = op("Max", op("Sub", written.cast(written.size(offset, axis), FLOAT), one), one)
    if convention is SamplingConvention.STANDARD:
        step = op("Div", op("Sub", size, one), last)
        source = op("Mul", op("Add", index, along), step)
    else:
        gain = written.constant(0.5)
        if convention is SamplingConvention.RELEASE_2021_05:
            gain = op("Mul", gain, op("Div", size, across))
        position = op("Sub", op("Mul", index, op("Div", size, last)), written.constant(0.5))
        source = op("Add", position, op("Mul", along, gain))
    doubled = op("Add", op("Mul", source, written.constant(2.0)), one)
    return op("Sub", op("Div", doubled, size), one)  # pixel p of n is (2p + 1)/n - 1


def _indices(written: _Written, offset: ir.Value, axis: int) -> ir.Value:
    """0, 1, 2, ... along `axis` of `offset`: (W,), or (H, 1)."""
    ends = [written.constant([0]), written.size(offset, axis), written.constant([1])]
    index = written.op("Range", *(written.op("Squeeze", end) for end in ends))
    return index if axis == 3 else written.op("Unsqueeze", index, written.constant([1]))
