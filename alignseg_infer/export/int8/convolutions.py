"""The convolutions of an exported graph: what each is for, and to which block it belongs.

The roles come from how values flow, not from names. With and without rewrites the offset branches
have different layers under different names; a new lowering would bring others, and a list of names
would take them for features without a word. What an offset branch is cannot change: it has an
influence on the output only through the places that are sampled.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import onnx_ir

from alignseg_infer.spec.plugin_contract import PLUGIN_OPS

STEM = "stem"
_STEM_LAYERS = ("conv1", "conv2", "conv3")
# Which inputs of an operator say where to read the others.
_COORDINATE_INPUTS: dict[str, tuple[int, ...]] = {
    "GridSample": (1,),
    "Gather": (1,),
    **{op.name: op.offsets for op in PLUGIN_OPS.values()},
}


class Role(StrEnum):
    """What a convolution is for, seen from the graph's output."""

    FEATURES = "features"
    OFFSETS = "offsets"
    CLASSIFIER = "classifier"


class Grain(StrEnum):
    """How much is one block: ``layer3`` with all its residual blocks, or ``layer3.0`` alone."""

    STAGE = "stage"
    BLOCK = "block"


@dataclass(frozen=True)
class Convolution:
    """A convolution of the graph.

    Attributes:
        name: Of its node.
        source: Name of the tensor it reads.
        layer: Path of its layer in the network: ``layer1.0.conv2``, ``RRB2b.inner``.
        role: What it is for.
    """

    name: str
    source: str
    layer: str
    role: Role

    def block(self, grain: Grain = Grain.STAGE) -> str:
        """The block it belongs to: ``stem``, ``layer1``, ``RRB2b``, ``CAM``, ``head``."""
        first, *rest = self.layer.split(".")
        if first in _STEM_LAYERS:
            return STEM
        if grain is Grain.BLOCK and first.startswith("layer") and rest:
            return f"{first}.{rest[0]}"
        return first

    def belongs_to(self, block: str) -> bool:
        """Whether `block` is its block, or any other part of the path of its layer."""
        return block == self.block() or f"{self.layer}.".startswith(f"{block}.")


def convolutions(model: onnx_ir.Model) -> tuple[Convolution, ...]:
    """All convolutions with constant weights, in the order of the graph."""
    classifiers = _nearest_convolutions(model.graph.outputs[:1])
    offset_heads = _nearest_convolutions(
        node.inputs[index]
        for node in model.graph
        for index in _COORDINATE_INPUTS.get(node.op_type, ())
    )
    # Heads lead to gathered rows as indices and as weights, so they are where the way ends.
    of_value = _upstream(model.graph.outputs, lambda node: node not in offset_heads)
    roles = {
        node: Role.OFFSETS
        if node in offset_heads or node not in of_value
        else (Role.CLASSIFIER if node in classifiers else Role.FEATURES)
        for node in model.graph
        if node.op_type == "Conv"
    }
    found = (_convolution(node, role) for node, role in roles.items())
    return tuple(conv for conv in found if conv is not None)


def _convolution(node: onnx_ir.Node, role: Role) -> Convolution | None:
    source, weight = node.inputs[:2]
    if source is None or weight is None or weight.const_value is None:
        return None
    layer = str(weight.name).removeprefix("model.").removesuffix(".weight")
    return Convolution(str(node.name), str(source.name), layer, role)


def _nearest_convolutions(values: Iterable[onnx_ir.Value | None]) -> set[onnx_ir.Node]:
    """The first convolutions on the way from `values` to the input."""
    nodes = _upstream(values, lambda node: node.op_type != "Conv")
    return {node for node in nodes if node.op_type == "Conv"}


def _upstream(
    values: Iterable[onnx_ir.Value | None], passes: Callable[[onnx_ir.Node], bool]
) -> set[onnx_ir.Node]:
    """The nodes whose results `values` depend on; the way ends at those that do not pass."""
    found: set[onnx_ir.Node] = set()
    waiting = [value.producer() for value in values if value is not None]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        if node.op_type not in ("Shape", "Size") and passes(node):  # sizes are no values
            waiting += [value.producer() for value in node.inputs if value is not None]
    return found


def blocks(model: onnx_ir.Model, grain: Grain = Grain.STAGE) -> tuple[str, ...]:
    """The blocks with convolutions that can be quantised, in the order of the graph."""
    found = (conv.block(grain) for conv in convolutions(model) if conv.role is Role.FEATURES)
    return tuple(dict.fromkeys(found))
