"""From logits to labels at image size.

Logits are upsampled bilinearly with ``align_corners=True``, as the authors evaluate, straight to
the size asked for: output row i reads input row ``i*(h-1)/(H-1)``. Labels are found without
upsampling what is certain (`cell_labels`); where all is upsampled, it happens in bands of rows, so
that full-resolution logits never exist as a whole.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np

from alignseg_infer.arrays import Floats, Labels, Size
from alignseg_infer.errors import ModelError
from alignseg_infer.pixels.cell_labels import argmax_into, axis_weights, labels_by_cells

__all__ = [
    "Floats",
    "Labels",
    "Scores",
    "label_dtype",
    "not_finite_error",
    "resized_labels",
    "scores_from_logits",
    "upsampled_bands",
]

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
    if not (confidence or probabilities) and _labels_without_bands(logits, labels):
        return Scores(labels, None, None)
    for rows, band in upsampled_bands(logits, size):
        best = argmax_into(labels[rows], band)
        if best_probability is None and all_probabilities is None:
            continue
        exponentials = np.exp(band - best)
        total = exponentials.sum(axis=0)
        if best_probability is not None:
            np.divide(1.0, total, out=best_probability[rows])
        if all_probabilities is not None:
            np.divide(exponentials, total, out=all_probabilities[:, rows])
    return Scores(labels, best_probability, all_probabilities)


def _labels_without_bands(logits: Floats, labels: Labels) -> bool:
    """Writes `labels` if that is worth it: where the image is larger than its logits."""
    (_, height, width), size = logits.shape, labels.shape
    if labels.size <= height * width:
        return False
    rows, columns = axis_weights(height, size[0]), axis_weights(width, size[1])
    return labels_by_cells(logits, rows, columns, labels)


def upsampled_bands(logits: Floats, size: Size) -> Iterator[tuple[slice, Floats]]:
    """Bands of rows of the upsampled logits, top to bottom.

    Args:
        logits: (C, h, w) float32.
        size: Output (height, width).

    Yields:
        The rows, and their logits (C, rows, width) float32, not to be written to.
    """
    classes, height, width = logits.shape
    most = max(1, BAND_BYTES // (4 * classes * size[1]))
    if (height, width) == size:  # averaged logits have the image's size already
        for start in range(0, height, most):
            rows = slice(start, min(start + most, height))
            yield rows, logits[:, rows]
        return
    vertical, horizontal = axis_weights(height, size[0]), axis_weights(width, size[1])

    @lru_cache(maxsize=2)
    def widened(row: int) -> Floats:
        left = logits[:, row].take(horizontal.first, axis=1)
        step = logits[:, row].take(horizontal.second, axis=1) - left
        return left + step * horizontal.weight

    start = 0
    while start < size[0]:
        row = int(vertical.first[start])
        end = min(int(np.searchsorted(vertical.first, row, side="right")), start + most)
        upper, lower = (
            widened(row)[:, np.newaxis],
            widened(int(vertical.second[start]))[:, np.newaxis],
        )
        yield slice(start, end), upper + (lower - upper) * vertical.weight[start:end, np.newaxis]
        start = end


def resized_labels(labels: Labels, size: Size) -> Labels:
    """`labels` (h, w) at `size` (height, width), by nearest neighbour."""
    if labels.shape == size:
        return labels
    resized = cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, labels.dtype)
