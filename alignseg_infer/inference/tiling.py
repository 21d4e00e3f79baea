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
from alignseg_infer.pixels.cell_labels import Axis, axis_weights
from alignseg_infer.pixels.upsampled_sum import Lerp, add_upsampled, weighted_lerp

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
        padding: What an image smaller than a tile is padded with, in each channel: zeros in a
            normalised image, and the mean, as a whole number, in an image that is not.
    """

    tile: Size
    overlap: float = DEFAULT_OVERLAP
    padding: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Span(NamedTuple):
    """One tile along one axis.

    Attributes:
        place: The pixels of the image it covers.
        share: (pixels,) float32, for each pixel 1 over the number of tiles that cover it.
        kept: The pixels of the tile that lie in the image; the others are padding.
    """

    place: slice
    share: Floats
    kept: slice


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
        tensor: (1, 3, H, W), the network's input: float32, or uint8 if the graph takes it.
        tiling: Tile and overlap.
        infer: Runs the network on tiles (1, 3, height, width).
        classes: C, the number of classes.
        flip: Whether to average with the mirrored image.

    Returns:
        (C, H, W) float32.
    """
    height, width = tensor.shape[2:]
    total = np.zeros((classes, height, width), np.float32)
    views = (tensor, tensor[..., ::-1]) if flip else (tensor,)
    windows = tile_windows((height, width), tiling)
    jobs = [(view, window) for view in views for window in windows]
    outputs = infer(_cut(view, window, tiling) for view, window in jobs)
    for (view, window), logits in zip(jobs, outputs, strict=True):
        seen, place = logits, window
        if view is not tensor:
            seen, place = logits[..., ::-1], _mirror(window, width, tiling.tile)
        _add(total, seen, place, tiling.tile, weight=1 / len(views))
    return total


def _list_spans(side: int, tile: int, overlap: float) -> list[Span]:
    starts = tile_starts(side, tile, overlap)
    places = [slice(start, min(start + tile, side)) for start in starts]
    count = np.zeros(side, np.float32)
    for place in places:
        count[place] += 1
    return [
        Span(place, np.float32(1) / count[place], slice(place.stop - place.start))
        for place in places
    ]


def _mirror(window: Window, width: int, tile: Size) -> Window:
    """Return a window of the mirrored image as one of the image, which is `width` pixels wide."""
    place, share, kept = window.columns
    mirrored = slice(width - place.stop, width - place.start)
    columns = Span(mirrored, share[::-1], slice(tile[1] - kept.stop, tile[1]))
    return Window(window.rows, columns)


def _cut(image: Floats, window: Window, tiling: Tiling) -> Floats:
    """Cut one tile (1, 3, height, width) from `image`, padded below and at the right."""
    part = image[..., window.rows.place, window.columns.place]  # (1, 3, rows, columns)
    if part.shape[2:] == tiling.tile:
        return part
    padded = np.empty((*part.shape[:2], *tiling.tile), part.dtype)  # (1, 3, height, width)
    padded[:] = np.array(tiling.padding, part.dtype)[:, np.newaxis, np.newaxis]
    padded[..., : part.shape[2], : part.shape[3]] = part
    return padded


def _add(total: Floats, logits: Floats, window: Window, tile: Size, *, weight: float) -> None:
    """Add `weight` times the logits (C, h, w) of one tile to what it covers of (C, H, W)."""
    target = total[:, window.rows.place, window.columns.place]  # (C, rows, columns)
    rows = _upsample_kept(logits.shape[1], tile[0], window.rows)
    columns = _upsample_kept(logits.shape[2], tile[1], window.columns, weight)
    add_upsampled(target, logits, rows, columns)


def _upsample_kept(size: int, tile: int, span: Span, weight: float = 1.0) -> Lerp:
    """Return the interpolation of `size` logits to the pixels of a tile that lie in the image."""
    first, second, weights = axis_weights(size, tile)
    axis = Axis(first[span.kept], second[span.kept], weights[span.kept])
    return weighted_lerp(axis, span.share * np.float32(weight))
