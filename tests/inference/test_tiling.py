"""The sliding window: layout by hand and by property tests, logits against a plain loop."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from alignseg_infer.arrays import Floats, Size
from alignseg_infer.inference.tiling import Tiling, sliding_logits, tile_starts, tile_windows
from alignseg_infer.pixels import postprocess

THIRD = 1 / 3
CLASSES = 3


def toy_logits(tile: Floats) -> Floats:
    """(3, h, w) at 1/4 size from (3, H, W); depends on the place in the tile, as networks do."""
    quarter = tile[:, ::4, ::4]
    rows, columns = np.indices(quarter.shape[1:], np.float32)
    return quarter * (1 + rows / 8) - columns / 4


def toy_infer(tiles: Iterable[Floats]) -> Iterator[Floats]:
    for tile in tiles:
        yield toy_logits(tile[0])


def plain_loop(tensor: Floats, tiling: Tiling) -> Floats:
    """Run the authors' loop in float64, one tile after the other."""
    (rows, columns), (height, width) = tiling.tile, tensor.shape[2:]
    total, count = np.zeros((CLASSES, height, width)), np.zeros((height, width))
    for y in tile_starts(height, rows, tiling.overlap):
        for x in tile_starts(width, columns, tiling.overlap):
            part = tensor[0, :, y : y + rows, x : x + columns]
            missing = ((0, 0), (0, rows - part.shape[1]), (0, columns - part.shape[2]))
            logits = torch.from_numpy(toy_logits(np.pad(part, missing))).double()[None]
            up = F.interpolate(logits, tiling.tile, mode="bilinear", align_corners=True)[0].numpy()
            total[:, y : y + rows, x : x + columns] += up[:, : part.shape[1], : part.shape[2]]
            count[y : y + rows, x : x + columns] += 1
    return (total / count).astype(np.float32)


def random_input(size: Size) -> Floats:
    return np.random.default_rng(0).normal(0, 1, (1, 3, *size)).astype(np.float32)


@pytest.mark.parametrize(
    ("side", "tile", "overlap", "starts"),
    [
        (97, 97, THIRD, [0]),
        (98, 97, THIRD, [0, 1]),
        (150, 97, THIRD, [0, 53]),
        (162, 97, THIRD, [0, 65]),
        (163, 97, THIRD, [0, 65, 66]),
        (260, 97, THIRD, [0, 65, 130, 163]),
        (1024, 872, THIRD, [0, 152]),
        (2048, 872, THIRD, [0, 582, 1164, 1176]),
        (192, 96, THIRD, [0, 64, 96]),
        (231, 99, THIRD, [0, 66, 132]),  # in floats 99 * (1 - 1/3) is above 66
        (50, 97, THIRD, [0]),  # smaller than the tile
        (20, 97, THIRD, [0]),  # so small that the authors' count would be 0
        (100, 50, 0, [0, 50]),
        (101, 50, 0, [0, 50, 51]),
        (80, 40, 0.5, [0, 20, 40]),
        (40, 40, 0.7, [0]),
        (64, 40, 0.7, [0, 12, 24]),  # in floats 40 * (1 - 0.7) is above 12
        (34, 32, 0.9999999999, [0, 1, 2]),  # never a stride of 0
    ],
)
def test_starts_by_hand(side: int, tile: int, overlap: float, starts: list[int]) -> None:
    assert tile_starts(side, tile, overlap) == starts


@pytest.mark.parametrize(
    "overlap",
    [Fraction(1, 3), Fraction(2, 3), Fraction(7, 10), Fraction(1, 7), Fraction(0)],
    ids=str,
)
def test_the_stride_is_that_of_the_exact_fraction(overlap: Fraction) -> None:
    for tile in range(32, 2000):
        second = tile_starts(10 * tile, tile, float(overlap))[1]
        assert second == ceil(tile * (1 - overlap)), tile


@pytest.mark.parametrize("tile", [97, 769, 872])
def test_starts_are_the_authors(tile: int) -> None:
    """Their formulas, word for word, at the tile sizes they and our reference used."""
    stride = ceil(tile * (1 - 1 / 3))
    for side in range(tile, 4 * tile, 7):
        count = int(ceil((side - tile) / stride) + 1)
        ends = [min(int(index * stride) + tile, side) for index in range(count)]
        assert tile_starts(side, tile, THIRD) == [max(int(end - tile), 0) for end in ends]


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(8, 130), st.integers(8, 130)),
    st.one_of(st.just(THIRD), st.floats(0, 0.95)),
)
def test_every_pixel_is_covered_and_shares_add_up_to_one(
    size: Size, tile: Size, overlap: float
) -> None:
    covered = np.zeros(size, np.float32)
    for rows, columns in tile_windows(size, Tiling(tile, overlap)):
        for span, side, length in zip((rows, columns), size, tile, strict=True):
            assert 0 <= span.place.start < span.place.stop <= side
            assert span.place.stop - span.place.start == min(length, side) == len(span.share)
        assert rows.share.dtype == columns.share.dtype == np.float32
        covered[rows.place, columns.place] += rows.share[:, np.newaxis] * columns.share
    np.testing.assert_allclose(covered, 1, rtol=1e-5)


@pytest.mark.parametrize("band_bytes", [4 * CLASSES * 48 * 7, 1 << 22])
@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [
        ((150, 260), (97, 97), THIRD),
        ((64, 64), (32, 48), 0.5),
        ((70, 45), (32, 40), 0),
        ((40, 200), (64, 64), THIRD),  # lower than the tile
        ((200, 40), (64, 64), THIRD),  # narrower
        ((33, 41), (64, 72), THIRD),  # both
        ((150, 150), (33, 33), 0.8),
    ],
)
def test_logits_equal_a_plain_loop(
    size: Size, tile: Size, overlap: float, band_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, "BAND_BYTES", band_bytes)
    tensor, tiling = random_input(size), Tiling(tile, overlap)
    before = tensor.copy()
    seen = sliding_logits(tensor, tiling, toy_infer, classes=CLASSES)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, plain_loop(tensor, tiling), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(tensor, before)


@pytest.mark.parametrize("size", [(64, 100), (50, 40)])
def test_flip_is_the_mean_with_the_mirrored_image(size: Size) -> None:
    tensor, tiling = random_input(size), Tiling((48, 48))
    mirrored = np.ascontiguousarray(tensor[..., ::-1])
    expected = (plain_loop(tensor, tiling) + plain_loop(mirrored, tiling)[..., ::-1]) / 2
    seen = sliding_logits(tensor, tiling, toy_infer, classes=CLASSES, flip=True)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-5)
