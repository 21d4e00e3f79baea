"""What other tools make of an exported file's inputs and outputs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alignseg_infer.spec.model import SPEC_KEY, ExportSpec, ModelSpec

Change: TypeAlias = Callable[[onnx.ModelProto], None]


def changed(source: Path, target: Path, *changes: Change) -> Path:
    """Write `source` as `target`, with the changes made to it one after the other."""
    model = onnx.load(source)
    for change in changes:
        change(model)
    onnx.save(model, target)
    return target


def told(**facts: object) -> Change:
    """Change what the file says of its export."""

    def change(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == SPEC_KEY)
        spec = ModelSpec.from_json(entry.value)
        assert isinstance(spec.export, ExportSpec)
        export = replace(spec.export, **facts)  # type: ignore[arg-type]
        entry.value = replace(spec, export=export).to_json()

    return change


def fixed(*shape: int) -> Change:
    """Fix the input as ``onnxruntime.tools.make_dynamic_shape_fixed --input_shape`` does."""

    def change(model: onnx.ModelProto) -> None:
        from onnxruntime.tools import onnx_model_utils as tool

        tool.make_input_shape_fixed(model.graph, "image", list(shape))
        tool.fix_output_shapes(model)

    return change


def fixed_batch(batch: int) -> Change:
    """Fix the batch as ``--dim_param N --dim_value`` does."""

    def change(model: onnx.ModelProto) -> None:
        from onnxruntime.tools import onnx_model_utils as tool

        tool.make_dim_param_fixed(model.graph, "N", batch)
        tool.fix_output_shapes(model)

    return change


def declares(name: str, *shape: int | str) -> Change:
    """Write another shape where the graph declares an input or output, and change nothing else."""

    def change(model: onnx.ModelProto) -> None:
        value = _value(model, name)
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(name, kind, shape))

    return change


def without_shape(name: str) -> Change:
    """Leave out the shape of an input or output."""

    def change(model: onnx.ModelProto) -> None:
        _value(model, name).type.tensor_type.ClearField("shape")

    return change


def takes(kind: int = TensorProto.FLOAT, shape: list[int | str] | None = None) -> Change:
    """Give the graph another input, which it first turns into the old one."""

    def change(model: onnx.ModelProto) -> None:
        value = _value(model, "image")
        _rename(model, "image", "image_inside")
        nodes = _nodes_from(shape)
        if kind != TensorProto.FLOAT:
            nodes.insert(0, helper.make_node("Cast", ["image"], ["image_inside"], to=1))
        _chain(nodes, "image", "image_inside")
        for position, node in enumerate(nodes):
            model.graph.node.insert(position, node)
        dimensions = shape or ["N", 3, "H", "W"]
        value.CopyFrom(helper.make_tensor_value_info("image", kind, dimensions))
        _add_constants(model)

    return change


def takes_more(model: onnx.ModelProto) -> None:
    """Give the graph a second input."""
    extra = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1])
    _rename(model, "image", "image_inside")
    model.graph.node.insert(0, helper.make_node("Mul", ["image", "scale"], ["image_inside"]))
    model.graph.input.append(extra)


def returns(kind: int, shape: list[int | str] | None = None, name: str = "logits") -> Change:
    """Let the graph return its output in another type."""

    def change(model: onnx.ModelProto) -> None:
        value = _value(model, name)
        _move_output(model, name, helper.make_node("Cast", [""], [name], to=kind))
        dimensions = [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        value.CopyFrom(helper.make_tensor_value_info(name, kind, shape or dimensions))

    return change


def ends_with(operator: str, *constants: str, axis: int | None = None) -> Change:
    """Put a node behind the logits, under their name."""

    def change(model: onnx.ModelProto) -> None:
        value = _value(model, "logits")
        node = helper.make_node(operator, ["", *constants], ["logits"])
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        _move_output(model, "logits", node)
        value.type.tensor_type.ClearField("shape")
        _add_constants(model)

    return change


def renamed(old: str, new: str) -> Change:
    """Give an output another name."""

    def change(model: onnx.ModelProto) -> None:
        value = _value(model, old)
        model.graph.node.append(helper.make_node("Identity", [old], [new]))
        value.name = new

    return change


def returns_more(model: onnx.ModelProto) -> None:
    """Return a second output."""
    model.graph.node.append(helper.make_node("Identity", ["logits"], ["copy"]))
    model.graph.output.append(helper.make_tensor_value_info("copy", TensorProto.FLOAT, None))


def outputs_reversed(model: onnx.ModelProto) -> None:
    """List the outputs in another order."""
    outputs = list(model.graph.output)[::-1]
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def _value(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    values: list[onnx.ValueInfoProto] = [*model.graph.input, *model.graph.output]
    return next(value for value in values if value.name == name)


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _move_output(model: onnx.ModelProto, name: str, node: onnx.NodeProto) -> None:
    """Let `node`, whose first input is empty, read what was the output `name`, and return it."""
    inside = f"{name}_before_{node.op_type}"
    for one in model.graph.node:
        for index, output in enumerate(one.output):
            if output == name:
                one.output[index] = inside
    _rename(model, name, inside)
    node.input[0] = inside
    model.graph.node.append(node)


def _nodes_from(shape: list[int | str] | None) -> list[onnx.NodeProto]:
    """Return what turns an input of `shape` into (N, 3, H, W)."""
    if shape is None:
        return []
    if len(shape) == 3:
        return [helper.make_node("Unsqueeze", ["image", "c_zero"], ["image_inside"])]
    if shape[3] == 3:
        return [helper.make_node("Transpose", ["image"], ["image_inside"], perm=[0, 3, 1, 2])]
    if shape[1] == 4:
        inputs = ["image", "c_zero", "c_three", "c_one"]
        return [helper.make_node("Slice", inputs, ["image_inside"])]
    return [helper.make_node("Concat", ["image"] * 3, ["image_inside"], axis=1)]


def _chain(nodes: list[onnx.NodeProto], first: str, last: str) -> None:
    for index, node in enumerate(nodes[:-1]):
        node.output[0] = nodes[index + 1].input[0] = f"{last}_{index}"
    assert not nodes or (nodes[0].input[0], nodes[-1].output[0]) == (first, last)


def _add_constants(model: onnx.ModelProto) -> None:
    constants: dict[str, np.ndarray[Any, Any]] = {
        "c_zero": np.array([0], np.int64),
        "c_one": np.array([1], np.int64),
        "c_two": np.array([2], np.int64),
        "c_three": np.array([3], np.int64),
        "c_pads": np.array([0, 0, 0, 0, 0, 2, 0, 0], np.int64),
        "c_nowhere": np.array(50, np.float32),
    }
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
