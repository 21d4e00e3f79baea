"""Offset sampling and adaptive pooling against hand-computed numbers and plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from alignseg_infer.ops.resampling import (
    adaptive_average_pool,
    interpolation_matrix,
    pooling_matrix,
    upsample_by_matrices,
)
from alignseg_infer.ops.sampling import offset_grid_sample, source_pixels
from alignseg_infer.spec.model import Sampler, SamplingConvention

STANDARD = SamplingConvention.STANDARD
RELEASE_12 = SamplingConvention.RELEASE_2021_12
RELEASE_05 = SamplingConvention.RELEASE_2021_05


def formula(convention: SamplingConvention, x: int, dx: float, sizes: tuple[int, ...]) -> float:
    """Return source x, computed again from the table in `ops.sampling`."""
    w, W, h = sizes
    last = max(W - 1, 1)
    return {
        RELEASE_12: x * w / last + dx / 2 - 0.5,
        RELEASE_05: x * w / last + dx * w / (2 * h) - 0.5,
        STANDARD: (x + dx) * (w - 1) / last,
    }[convention]


def sample_by_loops(feature: Tensor, offset: Tensor, convention: SamplingConvention) -> Tensor:
    """Interpolate bilinearly with zeros outside, one pixel after another, in Python floats."""
    batch, channels, h, w = feature.shape
    H, W = offset.shape[-2:]
    out = torch.zeros(batch, channels, H, W, dtype=torch.float64)
    for n in range(batch):
        for y in range(H):
            for x in range(W):
                sx = formula(convention, x, float(offset[n, 0, y, x]), (w, W, h))
                sy = formula(convention, y, float(offset[n, 1, y, x]), (h, H, w))
                for row in (math.floor(sy), math.floor(sy) + 1):
                    for column in (math.floor(sx), math.floor(sx) + 1):
                        if 0 <= row < h and 0 <= column < w:
                            weight = (1 - abs(sy - row)) * (1 - abs(sx - column))
                            out[n, :, y, x] += weight * feature[n, :, row, column].double()
    return out


@pytest.mark.parametrize(
    ("convention", "dx", "expected"),
    [
        (STANDARD, 0.0, [0.0, 0.5, 1.0, 1.5, 2.0]),
        (STANDARD, 1.0, [0.5, 1.0, 1.5, 2.0, 2.5]),
        (RELEASE_12, 0.0, [-0.5, 0.25, 1.0, 1.75, 2.5]),  # x*3/4 - 1/2
        (RELEASE_12, 1.0, [0.0, 0.75, 1.5, 2.25, 3.0]),
        (RELEASE_05, 1.0, [0.25, 1.0, 1.75, 2.5, 3.25]),  # dx counts 3/(2*2)
    ],
)
def test_source_positions_by_hand(
    convention: SamplingConvention, dx: float, expected: list[float]
) -> None:
    """Five columns sampled from a feature of two rows and three columns."""
    offset = torch.zeros(1, 2, 4, 5)
    offset[:, 0] = dx
    _, x = source_pixels(offset, (2, 3), convention)
    assert x[0].tolist() == [pytest.approx(expected)] * 4


@pytest.mark.parametrize("sampler", Sampler)
def test_ramp_by_hand(sampler: Sampler) -> None:
    feature = torch.tensor([0.0, 10.0, 20.0]).expand(1, 1, 2, 3)
    offset = torch.zeros(1, 2, 2, 5)
    offset[:, 0] = 1.0
    seen = offset_grid_sample(feature, offset, STANDARD, sampler)
    last = 10.0  # at 2.5: half of the last pixel, half of the zero outside
    assert seen[0, 0].tolist() == [pytest.approx([5.0, 10.0, 15.0, 20.0, last], abs=1e-5)] * 2


@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("convention", SamplingConvention)
@pytest.mark.parametrize(
    ("feature_size", "output_size"),
    [((3, 3), (9, 17)), ((5, 7), (5, 7)), ((4, 6), (7, 3)), ((1, 1), (3, 4)), ((3, 2), (1, 1))],
)
def test_sampling_equals_plain_loops(
    sampler: Sampler,
    convention: SamplingConvention,
    feature_size: tuple[int, int],
    output_size: tuple[int, int],
) -> None:
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(2, 3, *feature_size, generator=generator)
    offset = torch.randn(2, 2, *output_size, generator=generator) * 4  # many point outside
    seen = offset_grid_sample(feature, offset, convention, sampler)
    expected = sample_by_loops(feature, offset, convention)
    torch.testing.assert_close(seen.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("sampler", Sampler)
def test_zero_offsets_of_equal_size_change_nothing_in_standard(sampler: Sampler) -> None:
    feature = torch.randn(1, 4, 6, 9)
    seen = offset_grid_sample(feature, torch.zeros(1, 2, 6, 9), STANDARD, sampler)
    torch.testing.assert_close(seen, feature, atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    convention=st.sampled_from(SamplingConvention),
    spread=st.sampled_from([0.0, 0.5, 5.0, 500.0]),
    seed=st.integers(0, 1000),
)
def test_both_samplers_agree(
    sizes: tuple[int, int, int, int], convention: SamplingConvention, spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(2, 2, *sizes[:2], generator=generator)
    offset = torch.randn(2, 2, *sizes[2:], generator=generator) * spread
    native = offset_grid_sample(feature, offset, convention, Sampler.NATIVE)
    gather = offset_grid_sample(feature, offset, convention, Sampler.GATHER)
    torch.testing.assert_close(native, gather, atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e30, -1e30])
def test_gather_gives_zero_for_offsets_that_point_nowhere(value: float) -> None:
    offset = torch.full((1, 2, 3, 3), value)
    seen = offset_grid_sample(torch.ones(1, 1, 4, 4), offset, STANDARD, Sampler.GATHER)
    assert torch.equal(seen, torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize("sampler", Sampler)
def test_half_precision_features_keep_exact_coordinates(sampler: Sampler) -> None:
    """With float16 coordinates this would be off by a tenth or more, since columns reach 1000."""
    feature = torch.linspace(0, 1, 1001).expand(1, 1, 3, 1001)
    offset = torch.full((1, 2, 3, 1001), 0.25)
    exact = offset_grid_sample(feature, offset, STANDARD)
    half = offset_grid_sample(feature.half(), offset.half(), STANDARD, sampler)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=1e-3, rtol=0)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_pooling_equals_adaptive_average_pooling(height: int, width: int) -> None:
    feature = torch.randn(2, 3, height, width)
    expected = F.adaptive_avg_pool2d(feature, 3)
    torch.testing.assert_close(adaptive_average_pool(feature, 3), expected, atol=1e-5, rtol=1e-5)


def test_pooling_matrix_by_hand() -> None:
    expected = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])
    assert np.array_equal(pooling_matrix(4, 3, torch.zeros(1)).numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 40)] * 4))
def test_upsampling_equals_interpolate(sizes: tuple[int, int, int, int]) -> None:
    feature = torch.randn(2, 3, *sizes[:2])
    expected = F.interpolate(feature, sizes[2:], mode="bilinear", align_corners=True)
    seen = upsample_by_matrices(feature, sizes[2:])
    torch.testing.assert_close(seen, expected, atol=2e-5, rtol=1e-5)


def test_interpolation_matrix_by_hand() -> None:
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    assert interpolation_matrix(3, 5, torch.zeros(1)).tolist() == expected


def test_interpolation_positions_are_float32_for_half_features() -> None:
    """In float16, positions above 512 would be off by a quarter or more."""
    exact = interpolation_matrix(600, 1100, torch.zeros(1))
    half = interpolation_matrix(600, 1100, torch.zeros(1).half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=1e-3, rtol=0)
