"""How `torch.onnx` writes the operators of `ops.plugin_ops`: each as one node for a plugin."""

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnxscript import values

import alignseg_infer.ops.plugin_ops  # noqa: F401  registers the operators
from alignseg_infer.spec.plugin_contract import (
    ALIGNED_ADD,
    DOMAIN,
    DOMAIN_OPSET,
    NAMESPACE,
    NAMESPACE_FIELD,
    OFFSET_GRID_SAMPLE,
    UPSAMPLE_ARGMAX,
    VERSION,
    VERSION_FIELD,
    PluginOp,
)

_FLOATS = ["tensor(float)", "tensor(float16)"]


def plugin_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ``custom_translation_table`` of ``torch.onnx.export`` for the plugin operators."""
    operators = torch.ops.alignseg
    return {
        operators.offset_grid_sample.default: _make_translation(OFFSET_GRID_SAMPLE),
        operators.aligned_add.default: _make_translation(ALIGNED_ADD),
        operators.upsample_argmax.default: _make_translation(UPSAMPLE_ARGMAX),
    }


def _make_translation(op: PluginOp) -> Callable[..., Any]:
    node = values.Op(values.Opset(DOMAIN, DOMAIN_OPSET), op.name, _make_schema(op))

    def translate(*arguments: Any) -> Any:
        inputs, fields = arguments[: len(op.inputs)], arguments[len(op.inputs) :]
        named = dict(zip(op.fields, fields, strict=True))
        return node(*inputs, **named, **{NAMESPACE_FIELD: NAMESPACE, VERSION_FIELD: VERSION})

    return translate


def _make_schema(op: PluginOp) -> onnx.defs.OpSchema:
    """Describe what the node takes and returns; to the exporter only, not to all of ``onnx``."""
    kinds = [f"T{index}" for index in range(len(op.inputs))]
    integers = op is UPSAMPLE_ARGMAX
    attribute = onnx.defs.OpSchema.Attribute
    text = onnx.defs.OpSchema.AttrType.STRING
    return onnx.defs.OpSchema(
        op.name,
        DOMAIN,
        DOMAIN_OPSET,
        inputs=[
            onnx.defs.OpSchema.FormalParameter(name, kind)
            for name, kind in zip(op.inputs, kinds, strict=True)
        ],
        outputs=[
            onnx.defs.OpSchema.FormalParameter(op.output, "tensor(int32)" if integers else "T0")
        ],
        type_constraints=[(kind, _FLOATS, "") for kind in kinds],
        attributes=[
            attribute(name, text, required=True)
            for name in (*op.fields, NAMESPACE_FIELD, VERSION_FIELD)
        ],
    )
