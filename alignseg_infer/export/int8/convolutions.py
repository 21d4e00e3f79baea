"""The convolutions of an exported graph: what each is for, and which block it belongs to.

The roles come from how values flow, not from names. The offset branches have different layers and
names with and without rewrites, and a new lowering would add others; a list of names would
silently take those for features. The definition of an offset branch cannot change: it affects the
output only through the places that are sampled.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir

from alignseg_infer.backports import StrEnum
from alignseg_infer.spec.graph_contract import is_offset
from alignseg_infer.spec.plugin_contract import PLUGIN_OPS

STEM = "stem"
_STEM_LAYERS = ("conv1", "conv2", "conv3")
# Which inputs of an operator are the positions at which the others are read.
_COORDINATE_INPUTS: dict[str, tuple[int, ...]] = {
    "GridSample": (1,),
    "Gather": (1,),
    **{op.name: op.offsets for op in PLUGIN_OPS.values()},
}


class Role(StrEnum):
    """What a convolution is for, seen from the graph's output.

    ``offsets`` are those that predict the offsets, and ``offset-features`` those before them in an
    offset branch.
    """

    FEATURES = "features"
    OFFSET_FEATURES = "offset-features"
    OFFSETS = "offsets"
    CLASSIFIER = "classifier"


class Grain(StrEnum):
    """How much one block is: ``layer3`` with all its residual blocks, or ``layer3.0`` alone."""

    STAGE = "stage"
    BLOCK = "block"


@dataclass(frozen=True)
class Convolution:
    """A convolution of the graph.

    Attributes:
        result: Name of the tensor it computes. Unlike nodes, all tensors have names of their own.
        source: Name of the tensor it reads.
        layer: Path of its layer in the network: ``layer1.0.conv2``, ``RRB2b.inner``.
        role: What it is for.
    """

    result: str
    source: str
    layer: str
    role: Role

    @property
    def part(self) -> Role:
        """Its role; one for the whole of an offset branch."""
        return Role.OFFSETS if self.role is Role.OFFSET_FEATURES else self.role

    def block(self, grain: Grain = Grain.STAGE) -> str:
        """The block it belongs to: ``stem``, ``layer1``, ``RRB2b``, ``CAM``, ``head``."""
        first, *rest = self.layer.split(".")
        if first in _STEM_LAYERS:
            return STEM
        if grain is Grain.BLOCK and first.startswith("layer") and rest:
            return f"{first}.{rest[0]}"
        return first

    def belongs_to(self, block: str) -> bool:
        """Whether `block` is its block, or any leading part of its layer's path."""
        return block == self.block() or f"{self.layer}.".startswith(f"{block}.")


def find_convolutions(model: onnx_ir.Model) -> tuple[Convolution, ...]:
    """Return all convolutions with constant weights, in the order of the graph."""
    classifiers = _find_nearest_convolutions(
        value for value in model.graph.outputs if not is_offset(str(value.name))
    )
    offset_heads = _find_nearest_convolutions(
        node.inputs[index]
        for node in model.graph
        for index in _COORDINATE_INPUTS.get(node.op_type, ())
    )
    # Stop at offset heads: with gather they lead to the output as indices and as weights.
    of_value = _walk_upstream(model.graph.outputs, lambda node: node not in offset_heads)
    roles: dict[onnx_ir.Node, Role] = {}
    for node in (node for node in model.graph if node.op_type == "Conv"):
        if node in offset_heads:
            roles[node] = Role.OFFSETS
        elif node not in of_value:
            roles[node] = Role.OFFSET_FEATURES
        else:
            roles[node] = Role.CLASSIFIER if node in classifiers else Role.FEATURES
    found = (_describe(node, role) for node, role in roles.items())
    return tuple(conv for conv in found if conv is not None)


def _describe(node: onnx_ir.Node, role: Role) -> Convolution | None:
    source, weight = node.inputs[:2]
    if source is None or weight is None or weight.const_value is None:
        return None
    layer = str(weight.name).removeprefix("model.").removesuffix(".weight")
    return Convolution(str(node.outputs[0].name), str(source.name), layer, role)


def _find_nearest_convolutions(values: Iterable[onnx_ir.Value | None]) -> set[onnx_ir.Node]:
    """Return the first convolutions on the paths from `values` to the input."""
    nodes = _walk_upstream(values, lambda node: node.op_type != "Conv")
    return {node for node in nodes if node.op_type == "Conv"}


def _walk_upstream(
    values: Iterable[onnx_ir.Value | None], passes: Callable[[onnx_ir.Node], bool]
) -> set[onnx_ir.Node]:
    """Return the nodes that `values` depend on; do not go beyond those that fail `passes`."""
    found: set[onnx_ir.Node] = set()
    waiting = [value.producer() for value in values if value is not None]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        if node.op_type not in ("Shape", "Size") and passes(node):  # sizes depend on no value
            waiting += [value.producer() for value in node.inputs if value is not None]
    return found


def list_blocks(model: onnx_ir.Model, grain: Grain = Grain.STAGE) -> tuple[str, ...]:
    """Return the blocks with convolutions that can be quantised, in the order of the graph."""
    found = (conv.block(grain) for conv in find_convolutions(model) if conv.role is Role.FEATURES)
    return tuple(dict.fromkeys(found))
