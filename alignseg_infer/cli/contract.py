"""The contract of a model, in words: what its graph takes and returns, and how to get labels.

It is for those who run the graph without this package, in C++ or in a server.
"""

from collections.abc import Sequence

from alignseg_infer.spec.forms import input_axes, takes_uint8
from alignseg_infer.spec.graph_contract import told_tensors
from alignseg_infer.spec.model import (
    INPUT_NAME,
    MIN_INPUT_SIDE,
    ExportSpec,
    ImageInput,
    Layout,
    ModelSpec,
    OutputKind,
    OutputSize,
)

_UPSAMPLING = (
    "bilinearly with align_corners=True: from (h, w) to (H, W), row i of the result reads row "
    "i*(h-1)/(H-1), and columns likewise"
)


def contract_lines(spec: ModelSpec, offsets: Sequence[str] = ()) -> list[str]:
    """Return the contract of an exported model, as lines for people.

    Args:
        spec: The model's facts, with `export`.
        offsets: Names of the offset fields that the graph returns too.
    """
    export = spec.export
    assert export is not None
    lines = ["  contract:", *_input_lines(spec, export), _output_line(spec, export)]
    if offsets:
        lines.append(
            f"    other outputs, float32 (N, 2, height, width): {', '.join(offsets)}; they are not "
            "needed for labels"
        )
    return [*lines, *_label_lines(spec, export)]


def _input_lines(spec: ModelSpec, export: ExportSpec) -> list[str]:
    height, width = export.size or ("H", "W")
    sides = (str(export.batch or "N"), "3", str(height), str(width))
    shape = ", ".join(sides[axis] for axis in input_axes(spec))
    kind, order = ("uint8", "NHWC") if takes_uint8(spec) else ("float32", "NCHW")
    prepared = spec.input
    if takes_uint8(spec):
        channels = "BGR" if export.image is ImageInput.UINT8_BGR else "RGB"
        values = f"{channels}, pixels as they are, 0 to 255; the graph normalises them"
    else:
        channels = prepared.channel_order.upper()
        values = (
            f"{channels}, (pixel - mean) / std of pixels from 0 to 255, with mean "
            f"{_numbers(prepared.mean)} and std {_numbers(prepared.std)}, in that channel order"
        )
    size = f"H and W are {MIN_INPUT_SIDE} or more, and need not be multiples of anything"
    if export.size:
        size = f"other images are resized to {height}x{width} (height x width), bilinear"
    return [
        f"    input {INPUT_NAME}: {kind} ({shape}), {order}",
        f"      {values}",
        f"      {size}",
    ]


def _output_line(spec: ModelSpec, export: ExportSpec) -> str:
    classes, batch = str(spec.network.num_classes), str(export.batch or "N")
    full = [str(side) for side in export.size or ("H", "W")]
    last = export.layout is Layout.NHWC
    if export.output is OutputKind.LABELS:
        sides = {None: full, Layout.NCHW: ["1", *full]}.get(export.layout, [*full, "1"])
        shape = [batch, *sides]
        values = f"the class of each pixel, 0 to {len(spec.classes.names) - 1}"
        values += f", or {spec.remap.void} for none" if spec.remap else ""
    else:
        probable = export.output is OutputKind.PROBABILITIES
        is_full = probable and export.output_size is OutputSize.IMAGE
        sides = full if is_full else ["h", "w"]
        shape = [batch, *sides, classes] if last else [batch, classes, *sides]
        values = "from 0 to 1, with a sum of 1 in each pixel" if probable else "any finite numbers"
        if not is_full:
            values += "; h = (H + 1) / 4 + 1 and w = (W + 1) / 4 + 1, in whole numbers"
    order = export.layout.upper() if export.layout else ("NHW" if len(shape) == 3 else "NCHW")
    kind = told_tensors(spec)[1].data_type
    return f"    output {export.output}: {kind} ({', '.join(shape)}), {order}\n      {values}"


def _label_lines(spec: ModelSpec, export: ExportSpec) -> list[str]:
    if export.output is OutputKind.LABELS:
        return ["    labels: they are the output; resize them by nearest neighbour only"]
    is_full = export.output is OutputKind.PROBABILITIES and export.output_size is OutputSize.IMAGE
    best = "take the class with the largest value in each pixel; of equal values, the lowest class"
    lines = [f"    labels: upsample the {export.output} {_UPSAMPLING};", f"      then {best}"]
    if is_full:
        lines = [f"    labels: {best}"]
    if remap := spec.remap_to_apply:
        table = ", ".join(map(str, remap.labels))
        lines.append(f"      class c then becomes the label at position c of {table}")
        if remap.threshold:
            lines.append(
                f"      or {remap.void}, if the probabilities of classes with this label sum to "
                f"less than {remap.threshold:g}"
            )
    return lines


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.9g}" for value in values) + ")"
