"""How well predicted labels fit the true ones: confusion matrix and boundary F1.

Both are counts of pixels. Counts of several images are added with ``+``, in any order and
grouping; the scores of the sum are the scores of the whole dataset.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Labels
from alignseg_infer.backports import Self
from alignseg_infer.datasets.class_tables import IGNORED
from alignseg_infer.errors import OptionError

MAX_CLASSES = IGNORED
BOUNDARY_TOLERANCE = 3

Counts: TypeAlias = NDArray[np.int64]
Floats64: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """How many pixels of each true class were given each label.

    The scores follow cityscapesScripts (``evalPixelLevelSemanticLabeling.py``): pixels whose true
    label is ignored are not counted, and a class that occurs neither in the truth nor in the
    prediction has no score (NaN) and is left out of the means. AlignSeg's own ``evaluate.py``
    counts such a class as 0 instead. The two agree when every class occurs, as on Cityscapes val.

    Attributes:
        counts: (C, C) int64; rows are true classes, columns predicted ones.
        missed: (C,) int64, how many pixels of each true class were given no class. They are wrong.
    """

    counts: Counts
    missed: Counts

    @classmethod
    def of(cls, truth: Image, prediction: Labels, num_classes: int) -> Self:
        """Return the matrix of one image.

        Args:
            truth: (H, W) uint8, each below `num_classes`, or 255 for ignored.
            prediction: (H, W) uint8, each below `num_classes`, or equal to it for no class.
            num_classes: 1 to 255.

        Raises:
            OptionError: The arrays are not as described above.
        """
        _require_labels(truth, prediction, num_classes)
        # Values are at most 255 * 256 + 255, which fits 16 bits; these are 3 times as fast as 64.
        width = num_classes + 1
        pairs = truth.astype(np.uint16) * np.uint16(width) + prediction  # (H, W)
        table = np.bincount(pairs.ravel(), minlength=(IGNORED + 1) * width)  # (256 * (C + 1),)
        counts = table.reshape(-1, width)[:num_classes]  # (256, C + 1), then (C, C + 1)
        return cls(counts[:, :-1].astype(np.int64), counts[:, -1].astype(np.int64))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.counts + other.counts, self.missed + other.missed)

    @property
    def true(self) -> Counts:
        """(C,) int64, TP + FN, how many pixels of each class are in the truth."""
        total: Counts = self.counts.sum(axis=1) + self.missed
        return total

    @property
    def class_iou(self) -> Floats64:
        """(C,) float64, TP / (TP + FP + FN); NaN for a class in neither truth nor prediction."""
        hits = np.diagonal(self.counts)
        return _ratio(hits, self.counts.sum(axis=0) + self.true - hits)

    @property
    def mean_iou(self) -> float:
        """Mean of `class_iou` over the classes in truth or prediction; NaN if there are none."""
        return _mean(self.class_iou)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that were given the right label; NaN if there are none."""
        return float(_ratio(np.trace(self.counts), self.true.sum()))

    @property
    def class_accuracy(self) -> Floats64:
        """(C,) float64, TP / (TP + FN); NaN for a class that is not in the truth."""
        return _ratio(np.diagonal(self.counts), self.true)

    @property
    def mean_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes in the truth; NaN if there are none."""
        return _mean(self.class_accuracy)


@dataclass(frozen=True, eq=False)
class BoundaryMatches:
    """Boundary pixels of each class, and how many of them match a boundary on the other side.

    This is the measure of Csurka, Larlus and Perronnin, "What is a good evaluation measure for
    semantic segmentation?", BMVC 2013. For each class, precision is the share of predicted boundary
    pixels that are near the true boundary, recall is the share of true boundary pixels that are
    near the predicted boundary, and F1 is their harmonic mean. In detail:

    * A boundary pixel of class c has label c and a neighbour, one of four, with another label. The
      border of the image is not a boundary.
    * Pixels that the truth ignores are ignored in the prediction too. They are not boundary
      pixels, and they do not make boundary pixels of their neighbours.
    * Two pixels are near each other if their centres are at most `tolerance` pixels apart
      (Euclidean distance), at the size of the image. Several pixels may be near the same one.
    * Counts are added over all images before they are divided, so large images and long boundaries
      have more weight. Csurka et al. and MATLAB's ``bfscore`` average the scores of the images
      instead, with a tolerance of 0.75 % of the diagonal; their figures cannot be compared.

    Attributes:
        predicted: (C,) int64, boundary pixels in the prediction.
        predicted_near: (C,) int64, how many of `predicted` are near the true boundary.
        true: (C,) int64, boundary pixels in the truth.
        true_near: (C,) int64, how many of `true` are near the predicted boundary.
    """

    predicted: Counts
    predicted_near: Counts
    true: Counts
    true_near: Counts

    @classmethod
    def of(
        cls,
        truth: Image,
        prediction: Labels,
        num_classes: int,
        tolerance: int = BOUNDARY_TOLERANCE,
    ) -> Self:
        """Return the counts of one image.

        Args:
            truth: (H, W) uint8, each below `num_classes`, or 255 for ignored.
            prediction: (H, W) uint8, each below `num_classes`, or equal to it for no class.
            num_classes: 1 to 255.
            tolerance: Pixels, 0 or more.

        Raises:
            OptionError: The arrays are not as described above, or `tolerance` is negative.
        """
        _require_labels(truth, prediction, num_classes)
        if tolerance < 0:
            raise OptionError(f"tolerance={tolerance}", "0 or more pixels", "tolerance=3")
        ignored = truth == IGNORED
        true = _boundary_map(truth, ignored, tolerance)
        predicted = _boundary_map(prediction, ignored, tolerance)
        return cls(
            *_count_near(predicted, true, num_classes, tolerance),
            *_count_near(true, predicted, num_classes, tolerance),
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.predicted + other.predicted,
            self.predicted_near + other.predicted_near,
            self.true + other.true,
            self.true_near + other.true_near,
        )

    @property
    def precision(self) -> Floats64:
        """(C,) float64; NaN for a class without a predicted boundary."""
        return _ratio(self.predicted_near, self.predicted)

    @property
    def recall(self) -> Floats64:
        """(C,) float64; NaN for a class without a true boundary."""
        return _ratio(self.true_near, self.true)

    @property
    def class_f1(self) -> Floats64:
        """(C,) float64; 0 for a class with a boundary on one side only, NaN if on neither."""
        precision, recall = np.nan_to_num(self.precision), np.nan_to_num(self.recall)
        f1 = np.nan_to_num(_ratio(2 * precision * recall, precision + recall))
        f1[self.predicted + self.true == 0] = np.nan
        return f1

    @property
    def mean_f1(self) -> float:
        """Mean of `class_f1` over classes with a boundary on either side; NaN if there are none."""
        return _mean(self.class_f1)


def _require_labels(truth: Image, prediction: Labels, num_classes: int) -> None:
    known = np.arange(IGNORED + 1) < num_classes
    known[IGNORED] = True
    if not (
        1 <= num_classes <= MAX_CLASSES
        and truth.dtype == np.uint8
        and prediction.dtype.kind == "u"
        and truth.ndim == 2
        and truth.shape == prediction.shape
        and known[truth].all()
        and prediction.max(initial=0) <= num_classes
    ):
        raise OptionError(
            f"{_describe('truth', truth)} and {_describe('prediction', prediction)} "
            f"for {num_classes} classes",
            f"unsigned (H, W) labels below the number of classes, which is at most {MAX_CLASSES}, "
            "or equal to it for no class; "
            f"the truth as uint8, with {IGNORED} for pixels to ignore",
            "first map the label values to 0..C-1 and 255",
        )


def _describe(name: str, labels: Labels) -> str:
    return f"{name} {labels.shape} {labels.dtype} up to {labels.max(initial=0)}"


def _boundary_map(labels: Labels, ignored: NDArray[np.bool_], pad: int) -> NDArray[np.int16]:
    """Return the label of each boundary pixel, and -1 elsewhere, with a margin of `pad` pixels.

    Args:
        labels: (H, W).
        ignored: (H, W), pixels that have and make no boundary.
        pad: Width of the margin, in pixels.

    Returns:
        (H + 2 * pad, W + 2 * pad) int16.
    """
    edge = np.zeros(labels.shape, np.bool_)
    for near, far in (
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:, 1:], np.s_[:, :-1]),
    ):
        differs = (labels[near] != labels[far]) & ~(ignored[near] | ignored[far])
        edge[near] |= differs
        edge[far] |= differs
    boundary = np.full([side + 2 * pad for side in labels.shape], -1, np.int16)
    inner = boundary[pad : pad + labels.shape[0], pad : pad + labels.shape[1]]
    np.copyto(inner, labels, where=edge, casting="unsafe")
    return boundary


def _count_near(
    boundary: NDArray[np.int16], other: NDArray[np.int16], num_classes: int, tolerance: int
) -> tuple[Counts, Counts]:
    """Count the pixels of `boundary` by class, and those near the same class in `other`.

    The offsets of a disc are tried, nearest first, for pixels without a match so far. The time thus
    depends on the length of the boundaries, not on the number of classes.
    """
    # (P,), indices into the flat map; pixels without a class are not counted
    places = np.flatnonzero((boundary >= 0) & (boundary < num_classes))
    labels = boundary.ravel()[places]  # (P,)
    total = np.bincount(labels, minlength=num_classes).astype(np.int64)
    flat = other.ravel()
    for dy, dx in _list_disc_offsets(tolerance):
        missing = flat[places + (dy * boundary.shape[1] + dx)] != labels
        places, labels = places[missing], labels[missing]
    return total, total - np.bincount(labels, minlength=num_classes)


def _list_disc_offsets(radius: int) -> list[tuple[int, int]]:
    """Return the offsets (dy, dx) of length at most `radius`, shortest first."""
    reach = range(-radius, radius + 1)
    inside = [(dy, dx) for dy in reach for dx in reach if dy * dy + dx * dx <= radius * radius]
    return sorted(inside, key=lambda offset: offset[0] ** 2 + offset[1] ** 2)


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats64:
    """Return `part / whole`, with NaN where `whole` is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.true_divide(part, whole), np.float64)


def _mean(scores: Floats64) -> float:
    """Return the mean of the scores that are not NaN; NaN if there are none."""
    numbers = scores[~np.isnan(scores)]
    return float(numbers.mean()) if numbers.size else float("nan")
