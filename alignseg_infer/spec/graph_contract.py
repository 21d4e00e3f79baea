"""What a graph takes and returns, compared with the facts that travel with it.

There is one comparison for all that read a graph: ONNX Runtime, OpenVINO, engines, and what reads
an ONNX file to convert it. Other tools change exported files. What only fixes the size or the
batch, takes and returns float16, or makes the network less precise, leaves a model that runs: the
facts follow the graph.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from alignseg_infer.errors import ModelFileError, SpecError
from alignseg_infer.spec.forms import (
    graph_input_shape,
    image_shape,
    input_type,
    label_dtype,
    takes_uint8,
)
from alignseg_infer.spec.model import (
    INPUT_NAME,
    MAX_INPUT_SIDE,
    MIN_INPUT_SIDE,
    ExportSpec,
    Layout,
    ModelSpec,
    OutputKind,
    OutputSize,
)
from alignseg_infer.spec.onnx_precision import follow_precision

CHANNELS = 3
FLOATS = ("float32", "float16")
# TensorRT does not have uint16, and some tools widen labels. `network_output` gives them back.
INTEGERS = ("uint8", "uint16", "int32", "int64")
OFFSET_PREFIX = "offset."
EXPORT_AGAIN = (
    "use the file as it was exported, or export it again and keep its inputs and outputs: "
    "alignseg export-onnx CHECKPOINT -o MODEL.onnx"
)

Dimensions: TypeAlias = tuple[int | None, ...]  # None for one that can change


class GraphTensor(NamedTuple):
    """An input or output of a graph.

    Attributes:
        name: Its name.
        data_type: NumPy's name of its type, such as ``float32``, or else the runtime's.
        shape: Its dimensions; None if the file does not tell how many it has.
    """

    name: str
    data_type: str
    shape: Dimensions | None

    def __str__(self) -> str:
        return f"{self.name} {self.data_type} {_shape_text(self.shape)}"


class _Wanted(NamedTuple):
    """What one input or output must be."""

    name: str
    data_types: tuple[str, ...]
    shape: Dimensions

    def __str__(self) -> str:
        return f"{self.name} {' or '.join(self.data_types)} {_shape_text(self.shape)}"

    def fits(self, seen: GraphTensor) -> bool:
        if seen.data_type not in self.data_types:
            return False
        if seen.shape is None:  # the first call will tell
            return True
        return len(seen.shape) == len(self.shape) and all(
            None in pair or pair[0] == pair[1] for pair in zip(seen.shape, self.shape, strict=True)
        )


def is_offset(output: str) -> bool:
    """Return whether the output of this name is an offset field. Outputs have any order."""
    return output.startswith(OFFSET_PREFIX)


def told_tensors(spec: ModelSpec) -> tuple[GraphTensor, GraphTensor]:
    """Return the input and the output of an exported graph as its facts tell them.

    Args:
        spec: The model's facts, with `export`.
    """
    export = spec.export
    assert export is not None
    image = (export.batch, CHANNELS, *(export.size or (None, None)))
    taken = graph_input_shape(spec, image)
    output = _wanted_of(export.output.value, spec, image)
    if export.output is OutputKind.LABELS:
        kind = export.label_type or np.dtype(label_dtype(spec.label_count)).name
    else:
        kind = "float32"
    return (
        GraphTensor(INPUT_NAME, np.dtype(input_type(spec)).name, taken),
        GraphTensor(output.name, kind, output.shape),
    )


def follow_graph(
    path: Path,
    spec: ModelSpec,
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
    *,
    error: type[ModelFileError] = ModelFileError,
    fix: str = EXPORT_AGAIN,
) -> ModelSpec:
    """Compare a graph with its facts; return the facts with its size, batch and precision.

    Args:
        path: The file. An engine's precision is checked where it is built.
        spec: The facts.
        inputs: The graph's inputs.
        outputs: Its outputs, in any order.
        error: What to raise.
        fix: The last part of its message.

    Raises:
        ModelFileError: The graph does not fit the facts.
    """
    for seen, wanted in _find_misfits(spec, inputs, outputs):
        raise error(f"{path} does not fit its facts: {seen}", wanted, fix)
    if spec.export is None:
        return spec
    precision = spec.export.precision
    if path.suffix.lower() == ".onnx":
        precision = follow_precision(path, precision)
    try:
        export = _follow_shape(spec.export, _image_shape(spec, inputs[0]))
        return replace(spec, export=replace(export, precision=precision))
    except (SpecError, ValueError) as problem:
        raise error(
            f"{path} cannot run: its input is {inputs[0]}",
            f"height and width of {MIN_INPUT_SIDE} to {MAX_INPUT_SIDE} pixels, both fixed or "
            "neither, and one image or more",
            fix,
        ) from problem


def _find_misfits(
    spec: ModelSpec, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
) -> Iterator[tuple[str, str]]:
    """Yield what was seen and what was expected, for each input and output that does not fit."""
    kind = spec.export.output if spec.export else OutputKind.LOGITS
    results = [tensor for tensor in outputs if not is_offset(tensor.name)]
    if [tensor.name for tensor in inputs] != [INPUT_NAME]:
        yield f"its inputs are {_list_text(inputs)}", f"{INPUT_NAME} alone"
        return
    if [tensor.name for tensor in results] != [kind.value]:
        yield f"its outputs are {_list_text(results)}", f"{kind} alone, besides offset fields"
    for side, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            wanted = _wanted_of(tensor.name, spec, _image_shape(spec, inputs[0]))
            if not wanted.fits(tensor):
                classes = f"for a model of {spec.network.num_classes} classes"
                yield f"its {side} is {tensor}", f"{wanted}, {classes}"


def _image_shape(spec: ModelSpec, image: GraphTensor) -> Dimensions:
    """Return the dimensions (N, 3, H, W) of the input, all None where they are not known."""
    if not image.shape or len(image.shape) != 4:
        return (None,) * 4
    return image_shape(spec, image.shape)


def _wanted_of(name: str, spec: ModelSpec, image: Dimensions) -> _Wanted:
    """Return what the input or output `name` must be, for an input of the shape `image`."""
    batch, _, height, width = image
    if name == INPUT_NAME:
        if takes_uint8(spec):
            return _Wanted(name, ("uint8",), (None, None, None, CHANNELS))
        return _Wanted(name, FLOATS, (None, CHANNELS, None, None))
    if is_offset(name):
        return _Wanted(name, FLOATS, (batch, 2, None, None))
    layout = spec.export.layout if spec.export else None
    if name == OutputKind.LABELS:
        shapes = {None: (height, width), Layout.NCHW: (1, height, width)}
        return _Wanted(name, INTEGERS, (batch, *shapes.get(layout, (height, width, 1))))
    if name == OutputKind.LOGITS or _has_quarter_size(spec):
        height = width = None
    classes = spec.network.num_classes
    last = layout is Layout.NHWC
    shape = (batch, height, width, classes) if last else (batch, classes, height, width)
    return _Wanted(name, FLOATS, shape)


def _has_quarter_size(spec: ModelSpec) -> bool:
    return spec.export is not None and spec.export.output_size is OutputSize.QUARTER


def _follow_shape(export: ExportSpec, image: Dimensions) -> ExportSpec:
    """Return the facts of the export with what the graph fixes.

    Raises:
        SpecError: The network cannot run at this size or batch.
        ValueError: Only one side is fixed.
    """
    batch, _, height, width = image
    if export.size and None in (height, width):
        height, width = height or export.size[0], width or export.size[1]
    size = None if height is None or width is None else (height, width)
    if size is None and (height, width) != (None, None):
        raise ValueError(f"height {height}, width {width}")
    return replace(export, size=size, batch=export.batch if batch is None else batch)


def _shape_text(shape: Dimensions | None) -> str:
    if shape is None:
        return "of unknown shape"
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"


def _list_text(tensors: Sequence[GraphTensor]) -> str:
    return ", ".join(map(str, tensors)) or "none"
