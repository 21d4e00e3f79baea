"""The demo model with other outputs, made with plain ONNX nodes around the file that ships.

`alignseg_infer.export` has code of its own for this, so the two can be compared.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alignseg_infer.arrays import Size
from alignseg_infer.demo import model_path
from alignseg_infer.spec.model import (
    SPEC_KEY,
    ClassSpec,
    ExportSpec,
    InputSpec,
    LabelType,
    Layout,
    ModelSpec,
    OutputKind,
)

SIZE: Size = (96, 160)
_TYPES = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "int64": TensorProto.INT64}


def form_demo(
    path: Path,
    output: OutputKind = OutputKind.LOGITS,
    *,
    layout: Layout | None = None,
    label_type: LabelType | None = None,
    size: Size | None = SIZE,
    prepared: InputSpec | None = None,
    classes: ClassSpec | None = None,
) -> ModelSpec:
    """Write the demo model in another form to `path`, and return its facts.

    Args:
        path: The file to write.
        output: What the graph returns.
        layout: Order of its axes.
        label_type: Type of labels.
        size: Fixed (height, width) of the input; None for any, which logits may have.
        prepared: Other facts of the input, which the network was not trained with.
        classes: Other classes.
    """
    model = onnx.load(model_path("demo"))
    _, _, *sides = model.graph.input[0].type.tensor_type.shape.dim
    for side, pixels in zip(sides if size else (), size or (), strict=True):
        side.dim_value = pixels
    del model.graph.output[1:]  # offset fields
    told = {entry.key: entry for entry in model.metadata_props}
    spec = ModelSpec.from_json(told[SPEC_KEY].value)
    assert spec.export is not None
    export = replace(spec.export, output=output, layout=layout, label_type=label_type, size=size)
    spec = replace(
        spec, export=export, input=prepared or spec.input, classes=classes or spec.classes
    )
    if output is not OutputKind.LOGITS:
        assert size is not None
        _put_output(model.graph, export, size, spec.network.num_classes)
    told[SPEC_KEY].value = spec.to_json()
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return spec


def _put_output(graph: onnx.GraphProto, export: ExportSpec, size: Size, classes: int) -> None:
    """Replace logits by labels or probabilities at the input's size."""
    height, width = size
    logits, kind = graph.output[0].name, export.output.value
    sizes = np.array([height, width], np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, "form.size"))
    graph.node.extend(
        [
            helper.make_node("Shape", [logits], ["form.first"], start=0, end=2),
            helper.make_node("Concat", ["form.first", "form.size"], ["form.sizes"], axis=0),
            helper.make_node(
                "Resize",
                [logits, "", "", "form.sizes"],
                ["form.wide"],
                mode="linear",
                coordinate_transformation_mode="align_corners",
            ),
        ]
    )
    is_last = export.layout is Layout.NHWC
    if export.output is OutputKind.LABELS:
        element = _TYPES[export.label_type or "uint8"]
        axis = {None: None, Layout.NCHW: 1, Layout.NHWC: 3}[export.layout]
        shape: list[str | int] = ["N", height, width]
        last = "form.labels" if axis is None else "form.unsqueezed"
        graph.node.append(
            helper.make_node("ArgMax", ["form.wide"], ["form.labels"], axis=1, keepdims=0)
        )
        if axis is not None:
            shape.insert(axis, 1)
            graph.initializer.append(numpy_helper.from_array(np.array([axis]), "form.axis"))
            graph.node.append(helper.make_node("Unsqueeze", ["form.labels", "form.axis"], [last]))
        graph.node.append(helper.make_node("Cast", [last], [kind], to=element))
    else:
        element, shape = TensorProto.FLOAT, ["N", classes, height, width]
        softmax = "form.softmax" if is_last else kind
        graph.node.append(helper.make_node("Softmax", ["form.wide"], [softmax], axis=1))
        if is_last:
            shape = ["N", height, width, classes]
            graph.node.append(helper.make_node("Transpose", [softmax], [kind], perm=[0, 2, 3, 1]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(kind, element, shape))
