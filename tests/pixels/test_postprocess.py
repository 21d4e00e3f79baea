"""Logits to labels, against PyTorch in float64 and numbers computed by hand."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from alignseg_infer.arrays import Floats, Size
from alignseg_infer.pixels import postprocess
from alignseg_infer.pixels.postprocess import (
    resize_labels,
    scores_from_logits,
    upsample_in_bands,
)
from alignseg_infer.spec.forms import label_dtype

TIE = 1e-5  # labels may differ where the two best logits are closer than this
SIDE = st.integers(1, 9)
SIZES = [
    ((19, 16, 32), (64, 128)),
    ((19, 23, 33), (90, 131)),  # odd
    ((19, 33, 47), (20, 9)),  # smaller
    ((5, 7, 7), (7, 7)),  # as it is
    ((4, 1, 9), (5, 40)),
    ((4, 9, 1), (40, 5)),
    ((4, 1, 1), (6, 7)),
    ((4, 9, 9), (1, 30)),
    ((4, 9, 9), (30, 1)),
    ((1, 5, 6), (11, 12)),  # one class
    ((300, 6, 5), (21, 18)),
]


class Reference(NamedTuple):
    labels: NDArray[np.int64]
    certain: NDArray[np.bool_]
    probabilities: NDArray[np.float64]


def reference(logits: Floats, size: Size) -> Reference:
    """Compute the same with PyTorch in float64."""
    tensor = torch.from_numpy(logits).double()[None]
    upsampled = F.interpolate(tensor, size, mode="bilinear", align_corners=True)[0]
    best = torch.topk(upsampled, min(2, len(upsampled)), dim=0).values
    certain = best[0] - best[-1] > TIE if len(best) == 2 else torch.ones(size, dtype=torch.bool)
    probabilities = torch.softmax(upsampled, dim=0)
    return Reference(upsampled.argmax(0).numpy(), certain.numpy(), probabilities.numpy())


def random_logits(shape: tuple[int, ...], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 4, shape).astype(np.float32)


def smooth_logits(shape: tuple[int, ...]) -> Floats:
    """Return random waves: large regions of one label, like those of a trained network."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[: shape[1], : shape[2]] / 8
    waves = [np.sin(a * y + b * x + c) * 6 for a, b, c in rng.normal(0, 1, (shape[0], 3))]
    return np.asarray(waves, np.float32)


@pytest.mark.parametrize("make", [random_logits, smooth_logits])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_scores_equal_torch(
    make: Callable[[tuple[int, ...]], Floats], shape: tuple[int, int, int], size: Size
) -> None:
    logits = make(shape)
    scores = scores_from_logits(logits, size, confidence=True, probabilities=True)
    expected = reference(logits, size)
    assert scores.labels.shape == size
    assert expected.certain.mean() > 0.99
    np.testing.assert_array_equal(
        scores.labels[expected.certain], expected.labels[expected.certain]
    )
    assert scores.probabilities is not None
    assert scores.confidence is not None
    assert scores.probabilities.dtype == scores.confidence.dtype == np.float32
    np.testing.assert_allclose(scores.probabilities, expected.probabilities, rtol=0, atol=1e-5)
    highest = expected.probabilities.max(axis=0)
    np.testing.assert_allclose(scores.confidence, highest, rtol=0, atol=1e-5)


def test_ramp_by_hand() -> None:
    """-1..1 over two columns, stretched to five: -1, -.5, 0, .5, 1 against a class at 0."""
    logits = np.array([[[0, 0]], [[-1, 1]]], np.float32)
    scores = scores_from_logits(logits, (2, 5), confidence=True)
    assert scores.labels.tolist() == [[0, 0, 0, 1, 1]] * 2  # the tie goes to class 0
    best = [1 / (1 + math.exp(-abs(ramp))) for ramp in (-1, -0.5, 0, 0.5, 1)]
    np.testing.assert_allclose(scores.confidence, [best] * 2, rtol=1e-6)  # type: ignore[arg-type]


def test_only_what_was_asked_for() -> None:
    scores = scores_from_logits(random_logits((3, 4, 4)), (8, 8))
    assert scores.confidence is None
    assert scores.probabilities is None


@pytest.mark.parametrize("large", [1e4, -1e4])
def test_large_logits_do_not_overflow(large: float) -> None:
    logits = np.full((2, 2, 2), large, np.float32)
    logits[1] += 100
    scores = scores_from_logits(logits, (3, 3), confidence=True, probabilities=True)
    np.testing.assert_array_equal(scores.confidence, np.ones((3, 3)))
    np.testing.assert_array_equal(scores.labels, np.ones((3, 3)))


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (300, np.uint16)]
)
def test_label_dtype(classes: int, dtype: type[np.unsignedinteger]) -> None:
    logits = np.zeros((classes, 2, 2), np.float32)
    logits[-1] = 1
    labels = scores_from_logits(logits, (5, 5)).labels
    assert labels.dtype == label_dtype(classes) == dtype
    assert (labels == classes - 1).all()


@pytest.mark.parametrize("band_bytes", [1, 4 * 19 * 131 * 7, 1 << 40])
@pytest.mark.parametrize("size", [(90, 131), (23, 33)])
def test_bands_do_not_matter(band_bytes: int, size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits((19, 23, 33))
    default = scores_from_logits(logits, size, confidence=True, probabilities=True)
    monkeypatch.setattr(postprocess, "BAND_BYTES", band_bytes)
    for ours, expected in zip(
        scores_from_logits(logits, size, confidence=True, probabilities=True), default, strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


def test_bands_cover_the_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows from four: each band reads the same two rows and stays within its limit."""
    logits = random_logits((3, 4, 4))
    rows = [(rows.start, rows.stop) for rows, _ in upsample_in_bands(logits, (10, 8))]
    assert rows == [(0, 3), (3, 6), (6, 9), (9, 10)]
    monkeypatch.setattr(postprocess, "BAND_BYTES", 4 * 3 * 8 * 2)  # two rows of (3, 8) floats
    bands = list(upsample_in_bands(logits, (10, 8)))
    assert [rows.start for rows, _ in bands] == [0, 2, 3, 5, 6, 8, 9]
    assert [band.shape for _, band in bands] == [(3, n, 8) for n in (2, 1, 2, 1, 2, 1, 1)]


@pytest.mark.parametrize("size", [(7, 9), (20, 30)])
def test_logits_are_left_alone(size: Size) -> None:
    logits = random_logits((5, 7, 9))
    before = logits.copy()
    scores_from_logits(logits, size, confidence=True, probabilities=True)
    np.testing.assert_array_equal(logits, before)


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 5), SIDE, SIDE), st.tuples(SIDE, SIDE), st.integers(0, 99))
def test_any_shape_equals_torch(shape: tuple[int, int, int], size: Size, seed: int) -> None:
    logits = random_logits(shape, seed)
    labels = scores_from_logits(logits, size).labels
    expected = reference(logits, size)
    np.testing.assert_array_equal(labels[expected.certain], expected.labels[expected.certain])


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.integers(1, 4), SIDE, SIDE), st.tuples(SIDE, SIDE), st.integers(0, 99))
def test_ties_go_to_the_lower_class(shape: tuple[int, int, int], size: Size, seed: int) -> None:
    logits = random_logits(shape, seed)
    twice = scores_from_logits(np.concatenate([logits, logits]), size).labels
    np.testing.assert_array_equal(twice, scores_from_logits(logits, size).labels)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6),
    st.tuples(SIDE, SIDE),
    st.tuples(SIDE, SIDE),
)
def test_constant_logits_stay_constant(values: list[float], feature: Size, size: Size) -> None:
    levels = np.array(values, np.float32).reshape(-1, 1, 1)
    logits = np.tile(levels, (1, *feature))
    for rows, band in upsample_in_bands(logits, size):
        expected = np.tile(levels, (1, rows.stop - rows.start, size[1]))
        np.testing.assert_array_equal(band, expected)
    labels = scores_from_logits(logits, size).labels
    np.testing.assert_array_equal(labels, np.full(size, values.index(max(values))))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resized_labels(dtype: type[np.unsignedinteger]) -> None:
    labels = np.array([[0, 200], [7, 3]], dtype)
    larger = resize_labels(labels, (4, 6))
    assert larger.dtype == dtype
    assert larger.tolist() == [[0, 0, 0, 200, 200, 200]] * 2 + [[7, 7, 7, 3, 3, 3]] * 2
    assert resize_labels(larger, (2, 2)).tolist() == labels.tolist()


def test_labels_are_resized_by_their_pixel_centres() -> None:
    """Nine to five: output i covers the input around (i + 1/2)*9/5 - 1/2 = .4, 2.2, 4, 5.8, 7.6."""
    row = np.arange(9, dtype=np.uint8)[np.newaxis].repeat(2, axis=0)
    assert resize_labels(row, (2, 5)).tolist() == [[0, 2, 4, 6, 8]] * 2
