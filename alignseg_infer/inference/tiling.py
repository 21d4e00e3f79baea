"""A sliding window: where its tiles lie, and the mean of their logits.

The window works like the authors' ``predict_sliding`` (evaluate.py of
github.com/speedinghzl/AlignSeg). Tiles overlap by a third, and the last ones are moved back to the
border. An image smaller than the tile is padded below and to the right with zeros, after
normalisation. Each tile's logits are upsampled to the tile with ``align_corners=True``, and raw
logits are averaged where tiles overlap.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple, TypeAlias

import numpy as np

from alignseg_infer.arrays import Floats, Size
from alignseg_infer.pixels.postprocess import upsample_in_bands

DEFAULT_TILE = 872  # the authors' on Cityscapes
DEFAULT_OVERLAP = 1 / 3

# Runs inputs (1, 3, H, W) of one size, and yields the logits (C, h, w) of each, in the same order.
Infer: TypeAlias = Callable[[Iterable[Floats]], Iterator[Floats]]


@dataclass(frozen=True)
class Tiling:
    """A sliding window.

    Attributes:
        tile: (height, width) of the network input.
        overlap: Share of a tile, 0 to below 1, that the next one covers too.
    """

    tile: Size
    overlap: float = DEFAULT_OVERLAP


class Span(NamedTuple):
    """One tile along one axis.

    Attributes:
        place: The pixels of the image it covers.
        share: (pixels,) float32, for each pixel 1 over the number of tiles that cover it.
    """

    place: slice
    share: Floats


class Window(NamedTuple):
    """One tile: its rows and its columns."""

    rows: Span
    columns: Span


def tile_starts(side: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin along one axis: every ``ceil(tile * (1 - overlap))`` pixels.

    For example, three tiles of 97 over 200 pixels have stride 65 and begin at 0, 65 and 103: the
    third is moved back from 130.

    Args:
        side: Pixels of the image.
        tile: Pixels of a tile.
        overlap: Share of a tile that the next one covers too.
    """
    # In floats 99 * (1 - 1/3) is 66.00000000000001, whose ceiling is one too large.
    stride = max(1, ceil(round(tile * (1 - overlap), 6)))
    count = max(1, ceil((side - tile) / stride) + 1)
    return [max(0, min(index * stride, side - tile)) for index in range(count)]


def tile_windows(size: Size, tiling: Tiling) -> list[Window]:
    """Return the tiles of an image of `size` (height, width), row by row."""
    rows, columns = (
        _list_spans(side, tile, tiling.overlap)
        for side, tile in zip(size, tiling.tile, strict=True)
    )
    return [Window(row, column) for row in rows for column in columns]


def sliding_logits(
    tensor: Floats, tiling: Tiling, infer: Infer, *, classes: int, flip: bool = False
) -> Floats:
    """Return the mean of the logits of all tiles, at the size of the input.

    Tiles are cut when `infer` asks for them, and each output is added to one sum and then dropped.
    With `flip`, the window also slides over the mirrored image; its logits are mirrored back, and
    the two results are averaged.

    Args:
        tensor: (1, 3, H, W) float32, the normalised image.
        tiling: Tile and overlap.
        infer: Runs the network on tiles (1, 3, height, width).
        classes: C, the number of classes.
        flip: Whether to average with the mirrored image.

    Returns:
        (C, H, W) float32.
    """
    height, width = tensor.shape[2:]
    total = np.zeros((classes, height, width), np.float32)
    views = [(tensor, total)]
    if flip:
        views.append((tensor[..., ::-1], total[..., ::-1]))  # the same sum, seen from the right
    windows = tile_windows((height, width), tiling)
    jobs = [(image, target, window) for image, target in views for window in windows]
    outputs = infer(_cut(image, window, tiling.tile) for image, _, window in jobs)
    for (_, target, window), logits in zip(jobs, outputs, strict=True):
        _add(target, logits * np.float32(1 / len(views)), window, tiling.tile)
    return total


def _list_spans(side: int, tile: int, overlap: float) -> list[Span]:
    starts = tile_starts(side, tile, overlap)
    places = [slice(start, min(start + tile, side)) for start in starts]
    count = np.zeros(side, np.float32)
    for place in places:
        count[place] += 1
    return [Span(place, np.float32(1) / count[place]) for place in places]


def _cut(image: Floats, window: Window, tile: Size) -> Floats:
    """Cut one tile (1, 3, height, width) from `image`, padded with zeros below and at the right."""
    part = image[..., window.rows.place, window.columns.place]  # (1, 3, rows, columns)
    if part.shape[2:] == tile:
        return part
    padded = np.zeros((*part.shape[:2], *tile), np.float32)  # (1, 3, height, width)
    padded[..., : part.shape[2], : part.shape[3]] = part
    return padded


def _add(total: Floats, logits: Floats, window: Window, tile: Size) -> None:
    """Add the logits (C, h, w) of one tile to the part of `total` (C, H, W) that it covers."""
    target = total[:, window.rows.place, window.columns.place]  # (C, rows, columns)
    height, width = target.shape[1:]
    for rows, band in upsample_in_bands(logits, tile):
        if rows.start >= height:  # the rest is padding
            break
        kept = slice(rows.start, min(rows.stop, height))
        share = window.rows.share[kept, np.newaxis] * window.columns.share  # (rows, columns)
        target[:, kept] += band[:, : kept.stop - kept.start, :width] * share
