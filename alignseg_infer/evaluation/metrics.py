"""How well predicted labels fit the true ones: confusion matrix and boundary F1.

Both are counts of pixels: those of several images are added with ``+``, in any order and grouping,
and the scores of the sum are those of the whole dataset.
"""

from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image
from alignseg_infer.datasets.class_tables import IGNORED
from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.postprocess import Labels

MAX_CLASSES = IGNORED
BOUNDARY_TOLERANCE = 3

Counts: TypeAlias = NDArray[np.int64]
Floats64: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """How many pixels of each class were given each label.

    The scores follow cityscapesScripts (``evalPixelLevelSemanticLabeling.py``): pixels whose true
    label is ignored count nowhere, and a class that occurs neither in the truth nor in the
    prediction has no score (NaN) and stays out of the means. AlignSeg's own ``evaluate.py``
    counts such a class as 0 instead; the two agree when every class occurs, as on Cityscapes val.

    Attributes:
        counts: (C, C) int64; rows are true classes, columns predicted ones.
    """

    counts: Counts

    @classmethod
    def of(cls, truth: Image, prediction: Labels, num_classes: int) -> Self:
        """The matrix of one image.

        Args:
            truth: (H, W) uint8, each below `num_classes`, or 255 for ignored.
            prediction: (H, W) uint8, each below `num_classes`.
            num_classes: 1 to 255.

        Raises:
            OptionError: The arrays are not such.
        """
        _require_labels(truth, prediction, num_classes)
        # At most 255 * 255 + 254, which fits 16 bits and is 3 times as fast as 64.
        pairs = truth.astype(np.uint16) * np.uint16(num_classes) + prediction
        table = np.bincount(pairs.ravel(), minlength=(IGNORED + 1) * num_classes)
        return cls(table.reshape(-1, num_classes)[:num_classes].astype(np.int64))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.counts + other.counts)

    @property
    def class_iou(self) -> Floats64:
        """(C,) float64, TP / (TP + FP + FN); NaN for a class in neither truth nor prediction."""
        hits = np.diagonal(self.counts)
        return _ratio(hits, self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits)

    @property
    def mean_iou(self) -> float:
        """Mean of `class_iou` over classes that occur in truth or prediction; NaN if none does."""
        return _mean(self.class_iou)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels whose label is right; NaN if there are none."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    @property
    def class_accuracy(self) -> Floats64:
        """(C,) float64, TP / (TP + FN); NaN for a class that is not in the truth."""
        return _ratio(np.diagonal(self.counts), self.counts.sum(axis=1))

    @property
    def mean_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes in the truth; NaN if there are none."""
        return _mean(self.class_accuracy)


@dataclass(frozen=True, eq=False)
class BoundaryMatches:
    """Boundary pixels of each class, and how many have a partner on the other side.

    The measure of Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
    segmentation?", BMVC 2013: for each class, precision is the share of predicted boundary pixels
    within a distance of the true boundary, recall the share of true ones within that distance of
    the predicted boundary, F1 their harmonic mean. Exactly:

    * A boundary pixel of class c has label c, and one of its four neighbours has another label.
      The image's border is no boundary.
    * Where the truth is ignored, so is the prediction; a neighbour that is ignored makes no
      boundary, and ignored pixels have none.
    * Near is a Euclidean distance between pixel centres of at most `tolerance` pixels, at the
      image's own size. Several pixels may be near the same one.
    * Counts are pooled over all images, then divided: large images and classes with long
      boundaries weigh by their pixels. Csurka et al., and MATLAB's ``bfscore``, average per-image
      scores instead, with a tolerance of 0.75 % of the diagonal; the figures do not compare.

    Attributes:
        predicted: (C,) int64, boundary pixels in the prediction.
        predicted_near: (C,) int64, those of them near the true boundary.
        true: (C,) int64, boundary pixels in the truth.
        true_near: (C,) int64, those of them near the predicted boundary.
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
        """The counts of one image.

        Args:
            truth: (H, W) uint8, each below `num_classes`, or 255 for ignored.
            prediction: (H, W) uint8, each below `num_classes`.
            num_classes: 1 to 255.
            tolerance: Pixels, 0 or more.

        Raises:
            OptionError: The arrays are not such, or `tolerance` is negative.
        """
        _require_labels(truth, prediction, num_classes)
        if tolerance < 0:
            raise OptionError(f"tolerance={tolerance}", "0 or more pixels", "tolerance=3")
        ignored = truth == IGNORED
        true = _boundary_map(truth, ignored, tolerance)
        predicted = _boundary_map(prediction, ignored, tolerance)
        return cls(
            *_counted(predicted, true, num_classes, tolerance),
            *_counted(true, predicted, num_classes, tolerance),
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
        """(C,) float64; NaN for a class without predicted boundary."""
        return _ratio(self.predicted_near, self.predicted)

    @property
    def recall(self) -> Floats64:
        """(C,) float64; NaN for a class without true boundary."""
        return _ratio(self.true_near, self.true)

    @property
    def class_f1(self) -> Floats64:
        """(C,) float64; 0 for a class with a boundary on one side only, NaN with none at all."""
        precision, recall = np.nan_to_num(self.precision), np.nan_to_num(self.recall)
        f1 = np.nan_to_num(_ratio(2 * precision * recall, precision + recall))
        f1[self.predicted + self.true == 0] = np.nan
        return f1

    @property
    def mean_f1(self) -> float:
        """Mean of `class_f1` over classes with a boundary in truth or prediction, else NaN."""
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
        and prediction.max(initial=0) < num_classes
    ):
        raise OptionError(
            f"{_described('truth', truth)} and {_described('prediction', prediction)} "
            f"for {num_classes} classes",
            f"unsigned (H, W) labels below the number of classes, which is {MAX_CLASSES} at most; "
            f"the truth as uint8, {IGNORED} where it is to be ignored",
            "map label values to 0..C-1 and 255 first",
        )


def _described(name: str, labels: Labels) -> str:
    return f"{name} {labels.shape} {labels.dtype} up to {labels.max(initial=0)}"


def _boundary_map(labels: Labels, ignored: NDArray[np.bool_], pad: int) -> NDArray[np.int16]:
    """The label of each boundary pixel, elsewhere -1; `pad` pixels of -1 are put around it."""
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


def _counted(
    boundary: NDArray[np.int16], other: NDArray[np.int16], num_classes: int, tolerance: int
) -> tuple[Counts, Counts]:
    """Pixels of `boundary` by class, and those of them near the same class in `other`.

    Looks along the offsets of a disc, nearest first, and only for pixels that found nothing yet:
    the time depends on the length of boundaries, not on the number of classes.
    """
    places = np.flatnonzero(boundary >= 0)
    labels = boundary.ravel()[places]
    total = np.bincount(labels, minlength=num_classes).astype(np.int64)
    flat = other.ravel()
    for dy, dx in _disc(tolerance):
        missing = flat[places + (dy * boundary.shape[1] + dx)] != labels
        places, labels = places[missing], labels[missing]
    return total, total - np.bincount(labels, minlength=num_classes)


def _disc(radius: int) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of length `radius` at most, shortest first."""
    reach = range(-radius, radius + 1)
    inside = [(dy, dx) for dy in reach for dx in reach if dy * dy + dx * dx <= radius * radius]
    return sorted(inside, key=lambda offset: offset[0] ** 2 + offset[1] ** 2)


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats64:
    """`part` over `whole`, NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.true_divide(part, whole), np.float64)


def _mean(scores: Floats64) -> float:
    """Mean of the scores that are numbers; NaN if none is."""
    numbers = scores[~np.isnan(scores)]
    return float(numbers.mean()) if numbers.size else float("nan")
