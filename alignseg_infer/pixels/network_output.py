"""Checks what a network returned, and turns it into what `Backend.infer` promises."""

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.errors import ModelFileError
from alignseg_infer.spec.forms import label_dtype
from alignseg_infer.spec.graph_contract import EXPORT_AGAIN
from alignseg_infer.spec.model import ModelSpec, OutputKind, OutputSize

_ROUNDING = 1e-3  # float16 probabilities of 150 classes sum to 1 within 5e-4


def as_promised(
    spec: ModelSpec, shape: tuple[int, ...], output: NDArray[np.generic]
) -> NDArray[np.generic]:
    """Return the output as numbers in float32, or labels in the smallest type that holds them all.

    Args:
        spec: The model's facts.
        shape: (N, 3, H, W) of the input.
        output: What the graph returned, with the usual axes. It is copied only if it has another
            type.

    Raises:
        ModelFileError: It is not as the facts say.
    """
    require_output(spec, shape, output)
    promised = label_dtype(spec.label_count) if output.ndim == 3 else np.float32
    return output.astype(promised, copy=False)


def require_output(spec: ModelSpec, shape: tuple[int, ...], output: NDArray[np.generic]) -> None:
    """Check what a network returned.

    For an input of 1024x2048 this takes 0.003 ms with logits and 0.03 ms with labels in uint8.

    Args:
        spec: The model's facts.
        shape: (N, 3, H, W) of the input.
        output: The output.

    Raises:
        ModelFileError: It is not as `Backend.infer` promises.
    """
    if not isinstance(output, np.ndarray):
        raise _unfit(f"a {type(output).__name__}", "a NumPy array of logits or labels")
    require_output_shape(spec, shape, output.shape)
    classes, named = spec.network.num_classes, len(spec.classes.names)
    void = None if spec.remap is None else spec.remap.void
    kinds = "ui" if output.ndim == 3 else "fui"
    if output.dtype.kind not in kinds:
        raise _unfit(
            f"numbers of the type {output.dtype}", "labels are integers, and logits are numbers"
        )
    if output.ndim == 3:
        limits = (output.max(),) if output.dtype.kind == "u" else (output.max(), output.min())
        for label in map(int, limits):
            if not (0 <= label < named or label == void):
                more = "" if void is None else f", and {void} for void"
                raise _unfit(f"the label {label}", f"labels from 0 to {named - 1}{more}")
    elif returns_probabilities(spec):
        if not _are_probabilities(output[:, :, :1, :1]):
            raise _unfit(
                "values that are no probabilities", "values from 0 to 1, with a sum of 1 in a pixel"
            )
    elif classes > 1 and _are_probabilities(output):
        raise _unfit(
            "probabilities: all values are from 0 to 1, and those of a pixel sum to 1",
            "logits, as they are before softmax",
        )


def require_output_shape(spec: ModelSpec, shape: tuple[int, ...], output: tuple[int, ...]) -> None:
    """Check the shape of what a network returns.

    Args:
        spec: The model's facts.
        shape: (N, 3, H, W) of the input.
        output: Shape of the output.

    Raises:
        ModelFileError: It is not as `Backend.infer` promises.
    """
    count, classes = shape[0], spec.network.num_classes
    if spec.export is not None and spec.export.output is OutputKind.LABELS:
        fits, expected = output == (count, *shape[2:]), (count, *shape[2:])
        wanted = f"labels {expected}, (images, height, width)"
    elif returns_probabilities(spec) and has_image_size(spec):
        expected = (count, classes, *shape[2:])
        fits, wanted = output == expected, f"probabilities {expected}, for {classes} classes"
    else:
        kind = "probabilities" if returns_probabilities(spec) else "logits"
        fits = len(output) == 4 and output[:2] == (count, classes) and min(output) > 0
        wanted = f"{kind} ({count}, {classes}, height, width), for {classes} classes"
    if not fits:
        raise _unfit(f"an array of shape {output} for an input of shape {shape}", wanted)


def returns_probabilities(spec: ModelSpec) -> bool:
    """Return whether the graph returns probabilities."""
    return spec.export is not None and spec.export.output is OutputKind.PROBABILITIES


def has_image_size(spec: ModelSpec) -> bool:
    """Return whether the graph returns probabilities of the image's size."""
    return spec.export is not None and spec.export.output_size is OutputSize.IMAGE


def require_offsets(shape: tuple[int, ...], name: str, output: NDArray[np.generic]) -> None:
    """Check the shape of an offset field.

    Args:
        shape: (N, 3, H, W) of the input.
        name: Of the field.
        output: The field.

    Raises:
        ModelFileError: It is not (N, 2, height, width).
    """
    seen = output.shape
    if len(seen) != 4 or seen[:2] != (shape[0], 2) or min(seen) < 1:
        raise _unfit(
            f"the offset field {name} of shape {seen} for an input of shape {shape}",
            f"({shape[0]}, 2, height, width)",
        )


def _are_probabilities(output: NDArray[np.generic]) -> bool:
    """Return whether logits (N, C, h, w) are the results of a softmax.

    The first pixel of true logits shows that they are not. Only probabilities are looked at as a
    whole. NaN is none.
    """
    for part in (output[:, :, :1, :1], output):
        values = part.astype(np.float32, copy=False)
        if not (values.min() >= 0 and values.max() <= 1):
            return False
        if not np.abs(values.sum(axis=1) - 1).max() <= _ROUNDING:
            return False
    return True


def _unfit(seen: str, expected: str) -> ModelFileError:
    return ModelFileError(
        f"the network returned {seen}", f"{expected}, as the facts in the file say", EXPORT_AGAIN
    )
