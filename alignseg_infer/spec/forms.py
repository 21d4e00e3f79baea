"""How the axes of a graph's input and output follow from the form that its facts tell.

All code but what talks to a runtime has images as (N, 3, H, W), logits and probabilities as
(N, C, h, w), and labels as (N, H, W). A graph may have other axes, as `ExportSpec` says.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.spec.model import ImageInput, Layout, ModelSpec, OutputKind

Shape = tuple[int, ...]
T = TypeVar("T", int, int | None)


def has_plain_form(spec: ModelSpec) -> bool:
    """Return whether the graph takes float32 images, and returns logits (N, C, h, w)."""
    export = spec.export
    is_logits = export is None or (export.output is OutputKind.LOGITS and export.layout is None)
    return is_logits and not takes_uint8(spec)


def takes_uint8(spec: ModelSpec) -> bool:
    """Return whether the graph takes images as (N, H, W, 3) uint8, and normalises them."""
    return spec.export is not None and spec.export.image is not ImageInput.FLOAT32


def input_type(spec: ModelSpec) -> type[np.uint8] | type[np.float32]:
    """Return NumPy's type of the images that `Backend.infer` takes."""
    return np.uint8 if takes_uint8(spec) else np.float32


def label_dtype(num_classes: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest unsigned type that holds the labels 0 to `num_classes` - 1."""
    return np.uint8 if num_classes <= 256 else np.uint16


def input_axes(spec: ModelSpec) -> tuple[int, int, int, int]:
    """Return the order in which the graph has the axes of images (N, 3, H, W)."""
    return (0, 2, 3, 1) if takes_uint8(spec) else (0, 1, 2, 3)


def graph_input_shape(spec: ModelSpec, shape: Sequence[T]) -> tuple[T, ...]:
    """Return the shape of the graph's input for images of the shape (N, 3, H, W)."""
    return tuple(shape[axis] for axis in input_axes(spec))


def image_shape(spec: ModelSpec, given: Sequence[T]) -> tuple[T, ...]:
    """Return the dimensions (N, 3, H, W) of a graph's input of the shape `given`."""
    axes = input_axes(spec)
    return tuple(given[axes.index(axis)] for axis in range(4))


def graph_input(spec: ModelSpec, batch: NDArray[Any]) -> NDArray[Any]:
    """Return images (N, 3, H, W) with the axes that the graph takes, C-contiguous."""
    return np.ascontiguousarray(batch.transpose(input_axes(spec)))


def usual_axes(spec: ModelSpec, output: NDArray[Any]) -> NDArray[Any]:
    """Return what a graph returned with the usual axes. It shares the memory of `output`.

    An array with another number of axes than the facts tell stays as it is; the checks of
    `pixels.network_output` say so then.
    """
    export = spec.export
    if export is None or export.layout is None or output.ndim != 4:
        return output
    last = export.layout is Layout.NHWC
    if export.output is OutputKind.LABELS:
        channel = 3 if last else 1
        return output.squeeze(channel) if output.shape[channel] == 1 else output
    return output.transpose(0, 3, 1, 2) if last else output


def usual_shape(spec: ModelSpec, shape: Shape) -> Shape:
    """Return the shape that `usual_axes` gives to an output of `shape`."""
    return usual_axes(spec, np.broadcast_to(np.uint8(0), shape)).shape
