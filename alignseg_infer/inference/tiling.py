"""A sliding window: where its tiles lie, and the mean of their logits.

As in the authors' ``predict_sliding`` (evaluate.py of github.com/speedinghzl/AlignSeg): tiles
overlap by a third, the last ones are moved back to the border, an image smaller than the tile is
padded below and to the right with zeros after normalisation, each tile's logits are upsampled to
the tile with ``align_corners=True``, and raw logits are averaged where tiles overlap.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple, TypeAlias

import numpy as np

from alignseg_infer.arrays import Size
from alignseg_infer.pixels.postprocess import Floats, upsample_in_bands

DEFAULT_TILE = 872  # the authors' on Cityscapes
DEFAULT_OVERLAP = 1 / 3

# Runs inputs (1, 3, H, W) of one size; gives the logits (C, h, w) of each, in the same order.
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
        share: (pixels,) float32, 1 over the number of tiles that cover each of them.
    """

    place: slice
    share: Floats


class Window(NamedTuple):
    """One tile: its rows and its columns."""

    rows: Span
    columns: Span


def tile_starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along one axis: every ``ceil(tile * (1 - overlap))`` pixels.

    Three tiles of 97 over 200 pixels have stride 65 and begin at 0, 65 and 103: the third is moved
    back from 130.

    Args:
        side: Pixels of the image.
        tile: Pixels of a tile.
        overlap: Share of a tile that the next one covers too.
    """
    # In floats 99 * (1 - 1/3) is 66.00000000000001, and its ceiling one too many.
    stride = max(1, ceil(round(tile * (1 - overlap), 6)))
    count = max(1, ceil((side - tile) / stride) + 1)
    return [max(0, min(index * stride, side - tile)) for index in range(count)]


def tile_windows(size: Size, tiling: Tiling) -> list[Window]:
    """The tiles of an image of `size` (height, width), row by row."""
    rows, columns = (
        _spans(side, tile, tiling.overlap) for side, tile in zip(size, tiling.tile, strict=True)
    )
    return [Window(row, column) for row in rows for column in columns]


def sliding_logits(
    tensor: Floats, tiling: Tiling, infer: Infer, *, classes: int, flip: bool = False
) -> Floats:
    """The mean of the logits of all tiles, at the size of the input.

    Tiles are cut as `infer` asks for them, and each output is added to one sum and dropped. With
    `flip`, the window slides over the mirrored image too; its logits are mirrored back and the two
    results averaged.

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


def _spans(side: int, tile: int, overlap: float) -> list[Span]:
    starts = tile_starts(side, tile, overlap)
    places = [slice(start, min(start + tile, side)) for start in starts]
    count = np.zeros(side, np.float32)
    for place in places:
        count[place] += 1
    return [Span(place, np.float32(1) / count[place]) for place in places]


def _cut(image: Floats, window: Window, tile: Size) -> Floats:
    """(1, 3, height, width) of `image`, filled up with zeros below and to the right."""
    part = image[..., window.rows.place, window.columns.place]
    if part.shape[2:] == tile:
        return part
    padded = np.zeros((*part.shape[:2], *tile), np.float32)
    padded[..., : part.shape[2], : part.shape[3]] = part
    return padded


def _add(total: Floats, logits: Floats, window: Window, tile: Size) -> None:
    """Adds the logits (C, h, w) of one tile to the part of `total` (C, H, W) it covers."""
    target = total[:, window.rows.place, window.columns.place]
    height, width = target.shape[1:]
    for rows, band in upsample_in_bands(logits, tile):
        if rows.start >= height:  # the rest is padding
            break
        kept = slice(rows.start, min(rows.stop, height))
        share = window.rows.share[kept, np.newaxis] * window.columns.share
        target[:, kept] += band[:, : kept.stop - kept.start, :width] * share
