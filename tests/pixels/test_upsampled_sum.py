"""Sums of upsampled logits: against PyTorch, in any blocks and any number of threads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from alignseg_infer.arrays import Floats, Size
from alignseg_infer.pixels import upsampled_sum
from alignseg_infer.pixels.cell_labels import axis_weights
from alignseg_infer.pixels.upsampled_sum import add_upsampled, weighted_lerp


def seeded(*shape: int) -> Floats:
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def add_with_shares(total: Floats, logits: Floats) -> tuple[Floats, Floats]:
    """Add upsampled logits to `total`, and return the shares of rows and columns."""
    shares = [np.linspace(0.25, 1, side, dtype=np.float32) for side in total.shape[1:]]
    axes = zip(logits.shape[1:], total.shape[1:], shares, strict=True)
    lerps = [weighted_lerp(axis_weights(size, side), share) for size, side, share in axes]
    add_upsampled(total, logits, *lerps)
    return shares[0], shares[1]


SIDES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4), SIDES, SIDES)
def test_any_shape_equals_torch(classes: int, feature: Size, size: Size) -> None:
    logits, before = seeded(classes, *feature), seeded(classes, *size)
    total = before.copy()
    rows, columns = add_with_shares(total, logits)
    wide = F.interpolate(
        torch.from_numpy(logits).double()[None], size, mode="bilinear", align_corners=True
    )
    expected = before + wide[0].numpy() * np.multiply.outer(rows, columns)
    np.testing.assert_allclose(total, expected, rtol=0, atol=2e-6 * max(1, *feature) / 8)


def test_two_values_by_hand() -> None:
    total = np.ones((1, 1, 3), np.float32)
    logits = np.array([[[2, 4]]], np.float32)
    share = np.array([1, 0.5, 0.25], np.float32)
    rows, columns = weighted_lerp(axis_weights(1, 1), 0.5), weighted_lerp(axis_weights(2, 3), share)
    add_upsampled(total, logits, rows, columns)
    assert total.tolist() == [[[2, 1.75, 1.5]]]  # 1 + (2, 3, 4) * share / 2


@pytest.mark.parametrize("size", [(872, 1100), (97, 97)])
def test_threads_do_not_matter(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(upsampled_sum, "THREADS", threads)
        total = np.zeros((7, *size), np.float32)
        add_with_shares(total, seeded(7, size[0] // 4, size[1] // 4))
        found.append(total)
    assert found[0].any()
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (100, 100)])
def test_groups_of_blocks_do_not_matter(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, seen = np.zeros((2, 3, 150, 260), np.float32)
    logits = seeded(3, 38, 65)
    add_with_shares(expected, logits)
    monkeypatch.setattr(upsampled_sum, "_ROW_BLOCKS", rows)
    monkeypatch.setattr(upsampled_sum, "_COLUMN_BLOCKS", columns)
    add_with_shares(seen, logits)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)


def test_only_the_target_is_written() -> None:
    whole, logits = np.zeros((2, 60, 70), np.float32), seeded(2, 10, 12)
    before = logits.copy()
    add_with_shares(whole[:, 5:45, 7:54], logits[..., ::-1])
    assert whole[:, 5:45, 7:54].all()
    whole[:, 5:45, 7:54] = 0
    assert not whole.any()
    np.testing.assert_array_equal(logits, before)


def test_equal_classes_stay_equal() -> None:
    total = np.zeros((2, 33, 47), np.float32)
    add_with_shares(total, np.repeat(seeded(1, 9, 13), 2, axis=0))
    np.testing.assert_array_equal(total[0], total[1])
