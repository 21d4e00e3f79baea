"""Labelling by cells gives exactly the labels of upsampling everything."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Labels, Size
from alignseg_infer.pixels import cell_labels, postprocess
from alignseg_infer.pixels.cell_labels import argmax_into, axis_weights, label_by_cells
from alignseg_infer.pixels.postprocess import scores_from_logits, upsample_in_bands
from alignseg_infer.spec.forms import label_dtype
from tests.pixels.test_postprocess import random_logits, smooth_logits

Make = Callable[[tuple[int, ...]], Floats]
SIDE = st.integers(1, 9)


def all_upsampled(logits: Floats, size: Size) -> Labels:
    labels: Labels = np.empty(size, label_dtype(len(logits)))
    for rows, band in upsample_in_bands(logits, size):
        argmax_into(labels[rows], band)
    return labels


def by_cells(logits: Floats, size: Size) -> Labels | None:
    """Label by cells; None where most cells would have to be computed."""
    labels: Labels = np.full(size, 99, label_dtype(len(logits)))
    rows, columns = axis_weights(logits.shape[1], size[0]), axis_weights(logits.shape[2], size[1])
    return labels if label_by_cells(logits, rows, columns, labels) else None


@pytest.fixture
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute cells however many there are, in small blocks."""
    monkeypatch.setattr(cell_labels, "MOST_COMPUTED", 99)
    monkeypatch.setattr(cell_labels, "_BLOCK", 700)


def levels(shape: tuple[int, ...]) -> Floats:
    """Return whole numbers from -2 to 2, with ties at most inputs and between them."""
    return np.random.default_rng(2).integers(-2, 3, shape).astype(np.float32)


def nearly_tied(shape: tuple[int, ...]) -> Floats:
    """Return classes that differ from the same waves by a few units in the last place."""
    base = smooth_logits((1, *shape[1:]))
    steps = np.random.default_rng(3).integers(-3, 4, shape).astype(np.float32)
    return np.asarray(base * (1 + steps * np.float32(2**-23)), np.float32)


def twice(shape: tuple[int, ...]) -> Floats:
    """Return each class twice."""
    half = smooth_logits((-(-shape[0] // 2), *shape[1:]))
    return np.concatenate([half, half])[: shape[0]]


def constant(shape: tuple[int, ...]) -> Floats:
    values = np.random.default_rng(4).normal(0, 4, (shape[0], 1, 1))
    return np.tile(values.astype(np.float32), (1, *shape[1:]))


def zeros(shape: tuple[int, ...]) -> Floats:
    return np.zeros(shape, np.float32)


def far_from_zero(shape: tuple[int, ...]) -> Floats:
    """Return waves plus 1000, which loses their last bits."""
    return np.asarray(smooth_logits(shape) / 10 + 1000, np.float32)


def one_spike(shape: tuple[int, ...]) -> Floats:
    logits = smooth_logits(shape)
    logits[-1, shape[1] // 2, shape[2] // 2] = 1e30
    return logits


def huge(shape: tuple[int, ...]) -> Floats:
    """Return logits near the largest float32: the sum of four overflows."""
    return np.asarray(regions(shape) / 40 * 3e38 + 1.5e38, np.float32)


def tiny(shape: tuple[int, ...]) -> Floats:
    """Return up to about 20 of float32's smallest steps: products lose most of their digits."""
    steps = np.random.default_rng(5).integers(0, 20, shape)
    return np.asarray(steps * 2.0**-149, np.float32)


def regions(shape: tuple[int, ...]) -> Floats:
    """Return random numbers at every eighth input, interpolated, like a trained network's."""
    coarse = random_logits((shape[0], max(shape[1] // 8, 1), max(shape[2] // 8, 1)))
    bands = [band for _, band in upsample_in_bands(coarse, (shape[1], shape[2]))]
    return np.concatenate(bands, axis=1)


KINDS: list[Make] = [
    random_logits,
    smooth_logits,
    levels,
    nearly_tied,
    twice,
    constant,
    zeros,
    far_from_zero,
    one_spike,
    huge,
    tiny,
    regions,
]
SIZES = [
    ((19, 17, 33), (64, 128)),
    ((19, 23, 33), (90, 131)),  # odd
    ((7, 23, 33), (20, 9)),  # smaller
    ((7, 23, 33), (90, 9)),  # taller and narrower
    ((5, 7, 8), (7, 8)),  # as it is
    ((4, 1, 9), (5, 40)),
    ((4, 9, 1), (40, 5)),
    ((4, 1, 1), (6, 7)),
    ((4, 9, 9), (1, 30)),
    ((4, 9, 9), (30, 1)),
    ((1, 5, 6), (11, 12)),
    ((300, 6, 5), (21, 18)),
]


@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_same_labels(make: Make, shape: tuple[int, int, int], size: Size) -> None:
    logits = make(shape)
    np.testing.assert_array_equal(by_cells(logits, size), all_upsampled(logits, size))


@pytest.mark.usefixtures("_always")
@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(1, 6), SIDE, SIDE),
    st.tuples(st.integers(1, 25), st.integers(1, 25)),
    st.sampled_from([random_logits, levels]),
    st.integers(0, 9999),
)
def test_any_shape(shape: tuple[int, int, int], size: Size, make: Make, seed: int) -> None:
    logits = make(shape) + np.float32(0.25) * random_logits(shape, seed).round()
    np.testing.assert_array_equal(by_cells(logits, size), all_upsampled(logits, size))


def test_a_class_that_wins_at_no_corner() -> None:
    """Class 0 falls from 10 to 0, class 1 rises from 0 to 10, and class 2 is 6 and wins between."""
    ramp = np.array([[10, 0], [10, 0]], np.float32)
    logits = np.stack([ramp, 10 - ramp, np.full_like(ramp, 6)])
    labels = by_cells(np.pad(logits, ((0, 0), (0, 0), (0, 9)), mode="edge"), (4, 41))
    assert labels is not None
    assert labels[:, :5].tolist() == [[0, 0, 2, 1, 1]] * 4  # 10, 7.5, 5, 2.5, 0 against 6


def test_most_pixels_of_a_street_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = regions((19, 65, 129))
    computed = 0
    real = cell_labels._label_cells

    def counting(logits: Floats, nodes: Labels, cells: NDArray[np.intp], *rest: object) -> None:
        nonlocal computed
        computed += len(cells)
        real(logits, nodes, cells, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cell_labels, "_label_cells", counting)
    labels = by_cells(logits, (256, 512))
    np.testing.assert_array_equal(labels, all_upsampled(logits, (256, 512)))
    assert 0 < computed < 0.4 * 64 * 128


@pytest.mark.parametrize(
    ("logits", "size", "expected"),
    [
        (regions((19, 17, 33)), (64, 128), True),
        (random_logits((19, 17, 33)), (64, 128), False),  # hardly a cell is sure
        (zeros((19, 17, 33)), (64, 128), False),
        (regions((19, 17, 33)), (17, 33), False),
        (regions((19, 17, 33)), (9, 20), False),
    ],
)
def test_the_way_is_chosen(
    logits: Floats, size: Size, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = 0

    def counting(logits: Floats, size: Size) -> object:
        nonlocal bands
        bands += 1
        return upsample_in_bands(logits, size)

    monkeypatch.setattr(postprocess, "upsample_in_bands", counting)
    labels = scores_from_logits(logits, size).labels
    assert (bands == 0) is expected
    np.testing.assert_array_equal(labels, all_upsampled(logits, size))


def test_as_many_classes_as_labels_hold() -> None:
    logits = np.zeros((65535, 3, 3), np.float32)
    logits[65534, :, 0] = logits[65533, :, 1] = logits[3, :, 2] = 1
    labels = scores_from_logits(logits, (9, 17)).labels
    assert labels.dtype == np.uint16
    row = [65534] * 4 + [65533] * 8 + [3] * 4
    assert (
        labels[:, [*range(4), *range(5, 12), *range(13, 17)]].tolist()
        == [[*row[:4], *row[4:11], *row[12:]]] * 9
    )
    assert labels[0, [4, 12]].tolist() == [65533, 3]  # ties


def test_memory() -> None:
    """Full-resolution logits would be 159 MB at 1024x2048; a quarter of each side here."""
    logits = regions((19, 65, 129))
    tracemalloc.start()
    scores_from_logits(logits, (256, 512))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e6
