"""From logits to labels at image size.

Logits are upsampled bilinearly with ``align_corners=True``, as in the authors' evaluation, directly
to the requested size: output row i reads input row ``i*(h-1)/(H-1)``. Where the labels are certain,
they are found without upsampling (`cell_labels`). Otherwise logits are upsampled in bands of rows,
so that the full-resolution logits never exist as a whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Labels, Size
from alignseg_infer.backports import Self
from alignseg_infer.errors import ModelError
from alignseg_infer.pixels.cell_labels import argmax_into, axis_weights, label_by_cells
from alignseg_infer.spec.forms import label_dtype
from alignseg_infer.spec.remapping import RemapSpec

__all__ = [
    "Floats",
    "Labels",
    "Scores",
    "not_finite_error",
    "remap_labels",
    "remap_scores",
    "resize_labels",
    "scores_from_logits",
    "upsample_in_bands",
]

BAND_BYTES = 4 << 20  # upsampled logits per band; larger bands do not fit into the CPU's cache


class Scores(NamedTuple):
    """Labels and probabilities at image size.

    Attributes:
        labels: (H, W) uint8, or uint16 for labels above 255; on a tie the lower class.
        confidence: (H, W) float32, softmax probability of that label; None if not requested.
        probabilities: (C, H, W) float32, softmax over classes; None if not requested. Where
            classes were merged they are sums, and where some were left out they add up to less
            than 1.
    """

    labels: Labels
    confidence: Floats | None
    probabilities: Floats | None


def not_finite_error() -> ModelError:
    """Return the error for logits that are NaN or infinite."""
    return ModelError(
        "the network returned NaN or infinite logits",
        "finite logits",
        "check the weights, the mean and the std: alignseg inspect MODEL",
    )


def scores_from_logits(
    logits: Floats,
    size: Size,
    *,
    confidence: bool = False,
    probabilities: bool = False,
    are_probabilities: bool = False,
    remap: RemapSpec | None = None,
) -> Scores:
    """Return the labels of one image and, on request, its probabilities.

    With a `remap`, a pixel gets the label that its most probable class becomes.

    Args:
        logits: (C, h, w) float32; or probabilities, which are upsampled and compared alike.
        size: Output (height, width).
        confidence: Whether to return the probability of each pixel's label.
        probabilities: Whether to return all probabilities, which take 4*C bytes per pixel.
        are_probabilities: Whether `logits` are probabilities, the results of a softmax.
        remap: What the classes become; None for nothing else.

    Raises:
        ModelError: The logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise not_finite_error()
    classes = logits.shape[0]
    judged = confidence or (remap is not None and remap.threshold is not None)
    labels = np.empty(size, label_dtype(classes))
    if not (judged or probabilities) and _label_without_bands(logits, labels):
        return remap_scores(Scores(labels, None, None), remap, confidence=False)
    # Without sums, the probability of a label is that of its class.
    is_grouped = remap is not None and (remap.needs_sums or probabilities)
    groups = _Groups.of(remap) if remap is not None and is_grouped else None
    best_probability = np.empty(size, np.float32) if judged else None
    named = classes if groups is None else groups.count
    all_probabilities = np.empty((named, *size), np.float32) if probabilities else None
    for rows, band in upsample_in_bands(logits, size):  # (C, rows, W)
        best = argmax_into(labels[rows], band)  # (rows, W)
        if best_probability is None and all_probabilities is None:
            continue
        exponentials = band if are_probabilities else np.exp(band - best)  # (C, rows, W)
        largest = best if are_probabilities else np.float32(1)
        total = exponentials.sum(axis=0)  # (rows, W)
        if groups is not None:
            exponentials, largest = groups.sum(exponentials, labels[rows])
        if best_probability is not None:
            np.divide(largest, total, out=best_probability[rows])
        if all_probabilities is not None:
            np.divide(exponentials, total, out=all_probabilities[:, rows])
    found = Scores(labels, best_probability, all_probabilities)
    return remap_scores(found, remap, confidence=confidence)


@dataclass(frozen=True)
class _Groups:
    """Which of the network's classes have a label in common.

    Attributes:
        count: Number of labels, besides void.
        rows: (C,), the label of each class; `count` for void.
    """

    count: int
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, remap: RemapSpec) -> Self:
        count = len({*remap.labels} - {remap.void})
        return cls(count, np.minimum(remap.labels, count))

    def sum(self, values: Floats, classes: Labels) -> tuple[Floats, Floats]:
        """Add up the values of each group.

        Args:
            values: (C, rows, W), one for each class.
            classes: (rows, W), the class of each pixel.

        Returns:
            The sums, (count, rows, W), and that of each pixel's class, (rows, W).
        """
        sums = np.zeros((self.count + 1, *values.shape[1:]), np.float32)
        # With 18 labels at 1024x2048, all takes 0.3 s like this, and 4 s with a matrix product.
        for row, value in zip(self.rows, values, strict=True):
            sums[row] += value
        own = np.take_along_axis(sums, self.rows[classes][np.newaxis], axis=0)[0]
        return sums[: self.count], own


def remap_scores(scores: Scores, remap: RemapSpec | None, *, confidence: bool) -> Scores:
    """Return scores with the labels that the network's classes become.

    Args:
        scores: Their labels are classes of the network. With a threshold, there is the
            `confidence` of the new labels.
        remap: What the classes become; None for nothing else.
        confidence: Whether to return the confidence.
    """
    if remap is None:
        return scores
    labels = remap_labels(scores.labels, remap)
    if remap.threshold is not None and scores.confidence is not None:
        labels[scores.confidence < np.float32(remap.threshold)] = remap.void
    return scores._replace(labels=labels, confidence=scores.confidence if confidence else None)


def remap_labels(classes: Labels, remap: RemapSpec) -> Labels:
    """Return the labels that classes of the network become, without looking at a threshold."""
    kind = label_dtype(remap.largest + 1)
    table = np.zeros(max(256, len(remap.labels)), kind)
    table[: len(remap.labels)] = remap.labels
    if classes.dtype == np.uint8:  # at 1024x2048: 0.8 ms, and 5.8 by indexing
        return np.asarray(cv2.LUT(classes, table[:256]), kind)
    return np.asarray(table[classes], kind)


def _label_without_bands(logits: Floats, labels: Labels) -> bool:
    """Write `labels` without upsampling all logits; return False where that would not be faster."""
    (_, height, width), size = logits.shape, labels.shape
    if labels.size <= height * width:
        return False
    rows, columns = axis_weights(height, size[0]), axis_weights(width, size[1])
    return label_by_cells(logits, rows, columns, labels)


def upsample_in_bands(logits: Floats, size: Size) -> Iterator[tuple[slice, Floats]]:
    """Upsample logits in bands of rows, top to bottom.

    Args:
        logits: (C, h, w) float32.
        size: Output (height, width).

    Yields:
        The rows, and their logits (C, rows, width) float32, which must not be written to.
    """
    classes, height, width = logits.shape
    most = max(1, BAND_BYTES // (4 * classes * size[1]))
    if (height, width) == size:  # averaged logits already have the image's size
        for start in range(0, height, most):
            rows = slice(start, min(start + most, height))
            yield rows, logits[:, rows]
        return
    vertical, horizontal = axis_weights(height, size[0]), axis_weights(width, size[1])

    @lru_cache(maxsize=2)
    def widen_row(row: int) -> Floats:
        left = logits[:, row].take(horizontal.first, axis=1)  # (C, W)
        step = logits[:, row].take(horizontal.second, axis=1) - left  # (C, W)
        return left + step * horizontal.weight

    start = 0
    while start < size[0]:
        row = int(vertical.first[start])
        end = min(int(np.searchsorted(vertical.first, row, side="right")), start + most)
        upper = widen_row(row)[:, np.newaxis]  # (C, 1, W)
        lower = widen_row(int(vertical.second[start]))[:, np.newaxis]  # (C, 1, W)
        weight = vertical.weight[start:end, np.newaxis]  # (rows, 1)
        yield slice(start, end), upper + (lower - upper) * weight  # (C, rows, W)
        start = end


def resize_labels(labels: Labels, size: Size) -> Labels:
    """Resize `labels` (h, w) to `size` (height, width) by nearest neighbour."""
    if labels.shape == size:
        return labels
    resized = cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, labels.dtype)
