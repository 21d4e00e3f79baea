"""From logits to labels at image size.

Logits are upsampled bilinearly with ``align_corners=True``, as the authors evaluate, straight to
the size asked for: output row i reads input row ``i*(h-1)/(H-1)``. Work goes in bands of rows, so
that full-resolution logits never exist as a whole.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.errors import ModelError
from alignseg_infer.preprocess import Size

Labels: TypeAlias = NDArray[np.unsignedinteger[Any]]  # uint8, or uint16 above 256 classes
Floats: TypeAlias = NDArray[np.float32]

BAND_BYTES = 4 << 20  # upsampled logits per band; larger ones leave the CPU's cache


class Scores(NamedTuple):
    """What logits say at image size.

    Attributes:
        labels: (H, W) uint8, or uint16 above 256 classes; on a tie the lower label.
        confidence: (H, W) float32, softmax probability of that label; None if not asked for.
        probabilities: (C, H, W) float32, softmax over classes; None if not asked for.
    """

    labels: Labels
    confidence: Floats | None
    probabilities: Floats | None


def not_finite_error() -> ModelError:
    """The error for logits that are NaN or infinite."""
    return ModelError(
        "the network returned NaN or infinite logits",
        "finite logits",
        "check the weights and the mean and std: alignseg inspect MODEL",
    )


def label_dtype(num_classes: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type that holds all labels."""
    return np.uint8 if num_classes <= 256 else np.uint16


def scores_from_logits(
    logits: Floats, size: Size, *, confidence: bool = False, probabilities: bool = False
) -> Scores:
    """Labels, and on request probabilities, of one image.

    Args:
        logits: (C, h, w) float32.
        size: Output (height, width).
        confidence: Whether to return the winning probability per pixel.
        probabilities: Whether to return all probabilities: 4*C bytes per pixel.

    Raises:
        ModelError: The logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise not_finite_error()
    classes = logits.shape[0]
    labels = np.empty(size, label_dtype(classes))
    best_probability = np.empty(size, np.float32) if confidence else None
    all_probabilities = np.empty((classes, *size), np.float32) if probabilities else None
    for rows, band in upsampled_bands(logits, size):
        best = _argmax_into(labels[rows], band)
        if best_probability is None and all_probabilities is None:
            continue
        exponentials = np.exp(band - best)
        total = exponentials.sum(axis=0)
        if best_probability is not None:
            np.divide(1.0, total, out=best_probability[rows])
        if all_probabilities is not None:
            np.divide(exponentials, total, out=all_probabilities[:, rows])
    return Scores(labels, best_probability, all_probabilities)


def upsampled_bands(logits: Floats, size: Size) -> Iterator[tuple[slice, Floats]]:
    """Bands of rows of the upsampled logits, top to bottom.

    Args:
        logits: (C, h, w) float32.
        size: Output (height, width).

    Yields:
        The rows, and their logits (C, rows, width) float32, not to be written to.
    """
    classes, height, width = logits.shape
    top, bottom, row_weight = _axis_weights(height, size[0])
    left, right, column_weight = _axis_weights(width, size[1])
    band_rows = max(1, BAND_BYTES // (4 * classes * size[1]))
    for start in range(0, size[0], band_rows):
        rows = slice(start, min(start + band_rows, size[0]))
        if (height, width) == size:  # averaged logits have the image's size already
            yield rows, logits[:, rows]
            continue
        upper, lower = logits[:, top[rows]], logits[:, bottom[rows]]
        band = upper + (lower - upper) * row_weight[rows, np.newaxis]
        leftmost = band.take(left, axis=2)
        yield rows, leftmost + (band.take(right, axis=2) - leftmost) * column_weight


def _axis_weights(size: int, output: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """The two inputs each output reads along one axis, and the weight of the second."""
    position = np.arange(output) * ((size - 1) / max(output - 1, 1))
    first = np.minimum(position.astype(np.intp), size - 1)
    weight = (position - first).astype(np.float32)
    return first, np.minimum(first + 1, size - 1), weight


def _argmax_into(labels: Labels, band: Floats) -> Floats:
    """Writes the argmax over classes into `labels` and returns the maximum."""
    labels.fill(0)
    best: Floats = band[0].copy()
    for label in range(1, band.shape[0]):
        np.putmask(labels, band[label] > best, label)
        np.maximum(best, band[label], out=best)
    return best


def resized_labels(labels: Labels, size: Size) -> Labels:
    """`labels` (h, w) at `size` (height, width), by nearest neighbour."""
    if labels.shape == size:
        return labels
    resized = cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, labels.dtype)
