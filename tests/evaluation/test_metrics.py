"""Scores compared with scikit-learn, brute force, and counts made by hand."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from alignseg_infer.arrays import Image
from alignseg_infer.datasets.class_tables import IGNORED
from alignseg_infer.errors import OptionError
from alignseg_infer.evaluation.metrics import BoundaryMatches, ConfusionMatrix

CLASSES = 4
SIZE = (40, 60)


def labels(seed: int, classes: int, size: tuple[int, int] = SIZE, ignored: float = 0.0) -> Image:
    """Make random labels in blocks of 5x5 pixels, and ignore a share of them."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, classes, (size[0] // 5, size[1] // 5)).astype(np.uint8)
    blocks[random.random(blocks.shape) < ignored] = IGNORED
    return blocks.repeat(5, axis=0).repeat(5, axis=1)


def square(left: int, top: int = 10, side: int = 20) -> Image:
    """Make a square of class 1 on class 0."""
    picture = np.zeros(SIZE, np.uint8)
    picture[top : top + side, left : left + side] = 1
    return picture


small_labels = arrays(np.uint8, (7, 9), elements=st.integers(0, CLASSES - 1))
small_truth = arrays(np.uint8, (7, 9), elements=st.sampled_from([*range(CLASSES), IGNORED]))


@pytest.mark.parametrize("classes", [2, 19, 150, 255])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_confusion_is_that_of_scikit_learn(classes: int, ignored: float) -> None:
    truth, found = labels(1, classes, (200, 300), ignored), labels(2, classes, (200, 300))
    found[0, 0] = classes - 1
    counts = ConfusionMatrix.of(truth, found, classes).counts
    expected = np.zeros((classes, classes), np.int64)
    if ignored < 1:
        valid = truth != IGNORED
        expected = confusion_matrix(truth[valid], found[valid], labels=range(classes))
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64


@settings(deadline=None)
@given(small_truth, small_labels)
def test_scores_by_sets_of_pixels(truth: Image, found: Image) -> None:
    matrix = ConfusionMatrix.of(truth, found, CLASSES)
    places = [place for place in np.ndindex(truth.shape) if truth[place] != IGNORED]
    ious: list[float] = []
    accuracies: list[float] = []
    for label in range(CLASSES):
        true = {place for place in places if truth[place] == label}
        seen = {place for place in places if found[place] == label}
        union = len(true | seen)
        assert_same(matrix.class_iou[label], len(true & seen) / union if union else math.nan)
        ious += [len(true & seen) / union] if union else []
        accuracies += [len(true & seen) / len(true)] if true else []
    right = sum(truth[place] == found[place] for place in places)
    assert_same(matrix.mean_iou, sum(ious) / len(ious) if ious else math.nan)
    assert_same(matrix.mean_accuracy, sum(accuracies) / len(accuracies) if accuracies else math.nan)
    assert_same(matrix.pixel_accuracy, right / len(places) if places else math.nan)


def assert_same(found: float, expected: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_scores_by_hand() -> None:
    """Class 2 is only predicted; class 3 is predicted only where the truth is ignored."""
    truth = np.array([[0, 0, 0, 1], [1, 1, IGNORED, IGNORED]], np.uint8)
    found = np.array([[0, 0, 1, 1], [1, 2, 3, 0]], np.uint8)
    matrix = ConfusionMatrix.of(truth, found, CLASSES)
    np.testing.assert_array_equal(matrix.counts[:2], [[2, 1, 0, 0], [0, 2, 1, 0]])
    np.testing.assert_allclose(matrix.class_iou, [2 / 3, 2 / 4, 0, np.nan])
    assert_same(matrix.mean_iou, (2 / 3 + 2 / 4 + 0) / 3)
    np.testing.assert_allclose(matrix.class_accuracy, [2 / 3, 2 / 3, np.nan, np.nan])
    assert_same(matrix.mean_accuracy, 2 / 3)
    assert_same(matrix.pixel_accuracy, 4 / 6)


def test_large_counts_do_not_overflow() -> None:
    once = ConfusionMatrix(np.full((2, 2), 2**60, np.int64), np.zeros(2, np.int64))
    assert (once + once).counts[0, 0] == 2**61
    assert_same(once.pixel_accuracy, 0.5)


@pytest.mark.parametrize("kind", [ConfusionMatrix, BoundaryMatches])
def test_counts_of_images_add_up(kind: type[ConfusionMatrix] | type[BoundaryMatches]) -> None:
    """One image below the other; an ignored row between them keeps boundaries as they are."""
    gap = np.full((4, SIZE[1]), IGNORED, np.uint8)
    pairs = [(labels(seed, CLASSES, ignored=0.2), labels(seed + 9, CLASSES)) for seed in (0, 1)]
    first, second = (kind.of(truth, found, CLASSES) for truth, found in pairs)
    both = kind.of(
        np.concatenate([pairs[0][0], gap, pairs[1][0]]),
        np.concatenate([pairs[0][1], gap * 0, pairs[1][1]]),
        CLASSES,
    )
    for added in (first + second, second + first):  # type: ignore[operator]
        for name, counts in vars(both).items():
            np.testing.assert_array_equal(getattr(added, name), counts)


def test_square_in_its_place() -> None:
    """A square of side 20 has 4 * 19 boundary pixels, and 4 * 20 pixels around it."""
    matches = BoundaryMatches.of(square(20), square(20), CLASSES)
    np.testing.assert_array_equal(matches.true, [80, 76, 0, 0])
    np.testing.assert_array_equal(matches.predicted_near, [80, 76, 0, 0])
    np.testing.assert_array_equal(matches.class_f1, [1, 1, np.nan, np.nan])
    assert matches.mean_f1 == 1


@pytest.mark.parametrize(
    ("shift", "tolerance", "near"),
    [
        (2, 3, 76),
        (3, 3, 76),
        (5, 5, 76),
        # Top and bottom row: 15 pixels on the true row, 3 within reach of its end. Left column
        # between them: 3 pixels at each end, near those rows. Right column: none.
        (5, 3, 2 * (15 + 3) + 2 * 3),
        (5, 0, 2 * 15),
        (25, 3, 0),
    ],
)
def test_shifted_square(shift: int, tolerance: int, near: int) -> None:
    matches = BoundaryMatches.of(square(5), square(5 + shift), CLASSES, tolerance)
    assert (matches.predicted[1], matches.true[1]) == (76, 76)
    assert (matches.predicted_near[1], matches.true_near[1]) == (near, near)
    assert_same(matches.class_f1[1], near / 76)


def test_distance_is_euclidean() -> None:
    """One pixel is 2 to the right of and 3 below the other: sqrt(13) is between 3 and 4."""
    truth, found = square(20, 20, side=1), square(22, 23, side=1)
    near = [BoundaryMatches.of(truth, found, 2, tolerance).true_near[1] for tolerance in (3, 4)]
    assert near == [0, 1]


def test_precision_and_recall_differ() -> None:
    """A second square that is predicted but not true costs only precision."""
    found = square(2, 2, side=10)
    found[25:35, 40:50] = 1
    matches = BoundaryMatches.of(square(2, 2, side=10), found, 2)
    assert (matches.precision[1], matches.recall[1]) == (0.5, 1)
    assert_same(matches.class_f1[1], 2 / 3)


def test_class_on_one_side_only() -> None:
    empty = np.zeros(SIZE, np.uint8)
    missed, invented = (
        BoundaryMatches.of(truth, found, 3)
        for truth, found in ((square(5), empty), (empty, square(5)))
    )
    np.testing.assert_array_equal(missed.class_f1, [0, 0, np.nan])
    np.testing.assert_array_equal(invented.class_f1, [0, 0, np.nan])
    assert np.isnan([missed.precision[1], invented.recall[1]]).all()
    assert missed.recall[1] == invented.precision[1] == 0
    assert math.isnan(BoundaryMatches.of(empty, empty, 3).mean_f1)


def test_boundaries_against_ignored_pixels_do_not_count() -> None:
    """The right half of the square and its surroundings are ignored."""
    truth = square(20)
    truth[:, 30:] = IGNORED
    for found in (square(20), square(20) | np.uint8(2) * (np.arange(60) >= 30).astype(np.uint8)):
        matches = BoundaryMatches.of(truth, found, CLASSES)
        np.testing.assert_array_equal(matches.true, [10 + 10 + 20, 10 + 10 + 18, 0, 0])
        np.testing.assert_array_equal(matches.predicted, matches.true)
        np.testing.assert_array_equal(matches.class_f1, [1, 1, np.nan, np.nan])
    everything = np.full(SIZE, IGNORED, np.uint8)
    assert not BoundaryMatches.of(everything, square(20), CLASSES).predicted.any()


def test_image_border_is_no_boundary() -> None:
    ones = np.ones(SIZE, np.uint8)
    assert not BoundaryMatches.of(ones, ones, 2).true.any()


@settings(max_examples=60, deadline=None)
@given(small_truth, small_labels, st.integers(0, 4))
def test_boundaries_by_brute_force(truth: Image, found: Image, tolerance: int) -> None:
    matches = BoundaryMatches.of(truth, found, CLASSES, tolerance)
    true = boundary_pixels(truth, truth)
    seen = boundary_pixels(found, truth)
    for label in range(CLASSES):
        ours, theirs = true[label], seen[label]
        assert matches.true[label] == len(ours)
        assert matches.predicted[label] == len(theirs)
        assert matches.true_near[label] == count_near(ours, theirs, tolerance)
        assert matches.predicted_near[label] == count_near(theirs, ours, tolerance)


def boundary_pixels(picture: Image, truth: Image) -> list[list[tuple[int, int]]]:
    found: list[list[tuple[int, int]]] = [[] for _ in range(CLASSES)]
    height, width = picture.shape
    for y, x in np.ndindex(height, width):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
        counted = [place for place in inside if truth[place] != IGNORED]
        if truth[y, x] != IGNORED and any(picture[place] != picture[y, x] for place in counted):
            found[picture[y, x]].append((y, x))
    return found


def count_near(places: list[tuple[int, int]], others: list[tuple[int, int]], tolerance: int) -> int:
    return sum(any(math.dist(place, other) <= tolerance for other in others) for place in places)


GOOD = np.zeros((4, 5), np.uint8)
BAD: list[tuple[NDArray[Any], NDArray[Any], int, str]] = [
    (GOOD, GOOD[:3], 2, "prediction (3, 5)"),
    (GOOD, GOOD + 3, 2, "prediction (4, 5) uint8 up to 3"),
    (GOOD + 2, GOOD, 2, "truth (4, 5) uint8 up to 2"),
    (GOOD + 254, GOOD, 254, "up to 254"),
    (GOOD.astype(np.int64), GOOD, 2, "truth (4, 5) int64"),
    (GOOD, GOOD.astype(np.float32), 2, "prediction (4, 5) float32"),
    (GOOD[0], GOOD[0], 2, "truth (5,)"),
    (GOOD, GOOD, 0, "0 classes"),
    (GOOD, GOOD, 256, "256 classes"),
]


@pytest.mark.parametrize("kind", [ConfusionMatrix, BoundaryMatches])
@pytest.mark.parametrize(("truth", "found", "classes", "fragment"), BAD)
def test_bad_labels(
    kind: type[ConfusionMatrix] | type[BoundaryMatches],
    truth: Image,
    found: Image,
    classes: int,
    fragment: str,
) -> None:
    with pytest.raises(OptionError) as caught:
        kind.of(truth, found, classes)
    assert fragment in caught.value.problem


def test_bad_tolerance() -> None:
    with pytest.raises(OptionError, match="tolerance=-1"):
        BoundaryMatches.of(GOOD, GOOD, 2, -1)
