"""Puts nodes around a finished graph, so that it takes and returns what a consumer has and wants.

The graph in the middle, from a normalised image to logits at 1/4 of its size or to labels, was
exported and converted before, in any precision. Therefore every precision and every sampler takes
every form. What the nodes compute is float32, whatever the graph computes in.

TensorRT sets the order of the nodes: UINT8 is a type of inputs and outputs only, so the first node
casts the image to FLOAT, and the last one casts labels from FLOAT.
"""

from collections.abc import Iterable
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with
from onnx_ir.tape import Tape

from alignseg_infer.errors import ExportError
from alignseg_infer.spec.forms import label_dtype
from alignseg_infer.spec.model import (
    INPUT_NAME,
    SPEC_KEY,
    ChannelOrder,
    ExportSpec,
    ImageInput,
    Layout,
    ModelSpec,
    OutputKind,
    OutputSize,
)
from alignseg_infer.spec.remapping import RemapSpec

FLOAT = ir.DataType.FLOAT
_CORNERS_ALIGNED = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
_NHWC, _NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def put_form(model: ir.Model, spec: ModelSpec, formed: ModelSpec) -> None:
    """Give a graph another form, in place, and store its facts in it.

    Args:
        model: A graph that takes ``image``, (N, 3, H, W) float32, and returns ``logits``,
            (N, C, h, w), or ``labels``, (N, H, W); perhaps offset fields too, which stay.
        spec: Its facts.
        formed: Its facts afterwards, of which the form, the shape and the remapping are read.

    Raises:
        ExportError: The graph already has another form, or returns labels where others are wanted.
    """
    wanted = formed.export
    assert spec.export is not None
    assert wanted is not None
    remap = formed.remap if spec.remap is None else spec.remap_to_apply
    _require_plain(spec.export, wanted, judged=remap is not None and remap.threshold is not None)
    _fix_shape(model, wanted)
    image = model.graph.inputs[0]
    _Suffix(model, spec.export, formed, remap).put(image)
    if wanted.image is not ImageInput.FLOAT32:
        _put_normalisation(model, spec, wanted.image)
    model.metadata_props[SPEC_KEY] = formed.to_json()


def _require_plain(export: ExportSpec, wanted: ExportSpec, *, judged: bool) -> None:
    """Raise ExportError unless a graph with the facts `export` can be given the form `wanted`."""
    changed = export.image is not ImageInput.FLOAT32 or export.layout or export.label_type
    if changed or export.output is OutputKind.PROBABILITIES:
        raise ExportError(
            "the model already has another form than float32 images and logits",
            "a model that returns logits, in the usual layout",
            "start from such a file: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )
    if export.output is OutputKind.LABELS and (wanted.output is not export.output or judged):
        asked = f"{wanted.output} with a threshold" if judged else wanted.output
        raise ExportError(
            f"the model returns labels, and {asked} were asked for",
            "a model that returns logits, of which all others are made",
            "start from such a file: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )


def _fix_shape(model: ir.Model, wanted: ExportSpec) -> None:
    """Replace the names of dimensions that the wanted size and batch fix by numbers."""
    [batch, _, height, width] = model.graph.inputs[0].shape or ir.Shape([None] * 4)
    size = wanted.size or (None, None)
    pairs = zip((batch, height, width), (wanted.batch, *size), strict=True)
    fixed = {str(name): side for name, side in pairs if side and not isinstance(name, int)}
    made = [value for node in model.graph for value in node.outputs]
    for value in (*model.graph.inputs, *made) if fixed else ():
        if value.shape is not None:
            value.shape = ir.Shape(
                side if isinstance(side, int) else fixed.get(str(side), side)
                for side in value.shape
            )


class _Nodes:
    """Writes nodes for one side of a graph. New values are named after that side."""

    def __init__(self, side: str, model: ir.Model) -> None:
        values = (*model.graph.initializers.values(), *model.graph.inputs)
        made = (value for node in model.graph for value in node.outputs)
        taken = {str(value.name).split(".", maxsplit=1)[0] for value in (*values, *made)}
        free = (name for number in count(2) if (name := f"{side}_{number}") not in taken)
        self._tape, self._name = Tape(), side if side not in taken else next(free)
        self._constants = 0
        self.initializers: list[ir.Value] = []

    @property
    def nodes(self) -> list[ir.Node]:
        return list(self._tape.nodes)

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        value = self._tape.op(kind, inputs, attributes)
        value.name = f"{self._name}.{len(self._tape.nodes)}"
        node = value.producer()
        assert node is not None
        node.name = f"{self._name}/{kind}_{len(self._tape.nodes)}"
        return value

    def constant(self, values: np.ndarray[Any, Any]) -> ir.Value:
        self._constants += 1
        tensor = ir.tensor(values, name=f"{self._name}.constant_{self._constants}")
        value = ir.Value(name=tensor.name, const_value=tensor)
        value.dtype, value.shape = tensor.dtype, ir.Shape(values.shape)
        self.initializers.append(value)
        return value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self.op("Cast", value, to=int(dtype))

    def describe(self, value: ir.Value, dtype: ir.DataType, shape: Iterable[Any]) -> ir.Value:
        value.dtype, value.shape = dtype, ir.Shape(shape)
        return value


def _put_normalisation(model: ir.Model, spec: ModelSpec, image: ImageInput) -> None:
    """Let the graph take uint8 images, (N, H, W, 3), and compute what `preprocess` computes."""
    write, old = _Nodes("input", model), model.graph.inputs[0]
    batch, _, height, width = old.shape or [None] * 4
    order = ChannelOrder.BGR if image is ImageInput.UINT8_BGR else ChannelOrder.RGB
    given = ir.Value(name=INPUT_NAME)
    given.dtype = ir.DataType.UINT8
    given.shape = ir.Shape([batch, height, width, 3])
    value = write.op("Transpose", write.cast(given, FLOAT), perm=_NCHW)
    if order is not spec.input.channel_order:
        value = write.op("Gather", value, write.constant(np.array([2, 1, 0])), axis=1)
    value = write.op("Sub", value, write.constant(_per_channel(spec.input.mean)))
    if spec.input.std != (1, 1, 1):
        value = write.op("Div", value, write.constant(_per_channel(spec.input.std)))
    old.name = "input.normalised"
    value.name = old.name
    write.describe(value, FLOAT, old.shape or [None] * 4)
    replace_all_uses_with(old, value)
    model.graph.inputs[0] = given
    for node in write.nodes:
        model.graph.append(node)
    for constant in write.initializers:
        model.graph.register_initializer(constant)
    model.graph.sort()


def _per_channel(values: tuple[float, float, float]) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32).reshape(1, 3, 1, 1)


class _Suffix:
    """The nodes behind the graph, which make the wanted output of its first one."""

    def __init__(
        self, model: ir.Model, export: ExportSpec, formed: ModelSpec, remap: RemapSpec | None
    ) -> None:
        assert formed.export is not None
        self._model, self._export, self._wanted = model, export, formed.export
        self._remap, self._label_count = remap, formed.label_count
        self._classes = formed.network.num_classes
        names = [value.name for value in model.graph.outputs]
        self._place = names.index(str(export.output))
        self._write = _Nodes("output", model)

    def put(self, image: ir.Value) -> None:
        """Put the nodes; `image` has the size that labels and probabilities take."""
        was, now = self._export, self._wanted
        form = (now.output, now.layout, now.label_type)
        remaps = self._remap is not None and now.output is OutputKind.LABELS
        if form == (was.output, None, None) and not remaps:
            return
        old = self._model.graph.outputs[self._place]
        if now.output is OutputKind.LABELS:
            new = self._labels(old, image)
        else:
            new = self._scores(old, image)
        old.name = f"{old.name}.plain"
        new.name = now.output.value
        self._model.graph.outputs[self._place] = new
        for node in self._write.nodes:
            self._model.graph.append(node)
        for constant in self._write.initializers:
            self._model.graph.register_initializer(constant)

    def _labels(self, old: ir.Value, image: ir.Value) -> ir.Value:
        write, now = self._write, self._wanted
        batch, _, height, width = image.shape or [None] * 4
        shape = [batch, height, width]
        if self._export.output is OutputKind.LABELS:
            labels = self._remapped(_labels_before_cast(old), None)
        else:
            logits = self._upsample(old, image)
            labels = self._remapped(write.op("ArgMax", logits, axis=1, keepdims=0), logits)
        if now.layout is not None:
            axis = 1 if now.layout is Layout.NCHW else 3
            labels = write.op("Unsqueeze", labels, write.constant(np.array([axis])))
            shape.insert(axis, 1)
        kind = now.label_type or label_dtype(self._label_count)
        dtype = ir.DataType.from_numpy(np.dtype(kind))
        # TensorRT documents no conversion of integers to UINT8.
        if dtype.itemsize < 4 and labels.dtype is not FLOAT:
            labels = write.cast(labels, FLOAT)
        return write.describe(write.cast(labels, dtype), dtype, shape)

    def _remapped(self, classes: ir.Value, logits: ir.Value | None) -> ir.Value:
        """Return the labels that the network's classes become, as `pixels.postprocess` does.

        Args:
            classes: (N, H, W) integers.
            logits: (N, C, H, W) float32; None if there is no threshold.
        """
        remap, write = self._remap, self._write
        if remap is None:
            return classes
        table = np.array(remap.labels, np.float32)
        places = write.cast(classes, ir.DataType.INT64)
        labels = write.op("Gather", write.constant(table), places, axis=0)
        if remap.threshold is not None and logits is not None:
            threshold = write.constant(np.array(remap.threshold, np.float32))
            unsure = write.op("Less", self._certainty(labels, logits, table), threshold)
            void = write.constant(np.array(remap.void, np.float32))
            labels = write.op("Where", unsure, void, labels)
        labels.dtype = FLOAT
        return labels

    def _certainty(
        self, labels: ir.Value, logits: ir.Value, table: np.ndarray[Any, Any]
    ) -> ir.Value:
        """Return the probability of each pixel's label, (N, H, W) float32.

        No convolution adds it up, since an engine would be refused for one in another precision.

        Args:
            labels: (N, H, W) float32.
            logits: (N, C, H, W) float32.
            table: (C,) float32, the label of each class.
        """
        write, axis = self._write, self._write.constant(np.array([1]))
        own = write.constant(table.reshape(1, -1, 1, 1))
        alike = write.op("Equal", own, write.op("Unsqueeze", labels, axis))  # (N, C, H, W)
        none = write.constant(np.array(0, np.float32))
        parts = write.op("Where", alike, write.op("Softmax", logits, axis=1), none)
        return write.op("ReduceSum", parts, axis, keepdims=0)

    def _scores(self, old: ir.Value, image: ir.Value) -> ir.Value:
        write, now, value = self._write, self._wanted, old
        dtype = FLOAT if now.output is OutputKind.PROBABILITIES else old.dtype or FLOAT
        batch, channels, height, width = old.shape or [None] * 4
        if now.output is OutputKind.PROBABILITIES:
            if now.output_size is OutputSize.IMAGE:
                value = self._upsample(old, image)
                _, _, height, width = image.shape or [None] * 4
            elif old.dtype is not FLOAT:
                value = write.cast(old, FLOAT)
            value = write.op("Softmax", value, axis=1)
        if now.layout is Layout.NHWC:
            value = write.op("Transpose", value, perm=_NHWC)
            return write.describe(value, dtype, [batch, height, width, channels])
        if value is old:  # the usual layout of logits, which was asked for by its name
            value = write.op("Identity", old)
        return write.describe(value, dtype, [batch, channels, height, width])

    def _upsample(self, logits: ir.Value, image: ir.Value) -> ir.Value:
        """Upsample logits to the image's size by the rule of `pixels.postprocess`; float32."""
        write = self._write
        value = logits if logits.dtype is FLOAT else write.cast(logits, FLOAT)
        if self._wanted.size is not None and self._wanted.batch is not None:
            shape = (self._wanted.batch, self._classes, *self._wanted.size)
            sizes = write.constant(np.array(shape))
        else:
            first = write.op("Shape", logits, start=0, end=2)
            sizes = write.op("Concat", first, write.op("Shape", image, start=2, end=4), axis=0)
        return write.op("Resize", value, None, None, sizes, **_CORNERS_ALIGNED)


def _labels_before_cast(labels: ir.Value) -> ir.Value:
    """Return labels as they are before the graph casts them to the smallest type."""
    node = labels.producer()
    if node is None or node.op_type != "Cast" or node.inputs[0] is None:
        return labels
    return node.inputs[0]
