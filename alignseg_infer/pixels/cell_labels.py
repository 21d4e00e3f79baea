"""Labels of upsampled logits, without upsampling most of them.

Between four neighbouring logits, a cell, bilinear interpolation is a convex combination. So a class
that is the largest at all four corners is the largest everywhere in the cell, and only cells whose
corners disagree are computed pixel by pixel, about one in ten of a street. There, a class counts
only if it can win: the mean of some classes is a lower bound of their maximum, so one that is below
the mean of the corners' own classes at each corner is below the maximum everywhere in the cell.

Pixels are the same, to the bit, as if everything had been upsampled: by their rounding, two values
come no closer than `TIE` times the largest logit, and cells with less between their classes are
computed.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Labels

Indices: TypeAlias = NDArray[np.intp]

# Two lerps err by 5 units in the last place each, of numbers as large as the largest logit; two
# classes by twice that. 2**-23 is such a unit.
TIE = 32 * 2.0**-23
_LEAST_TIE = np.float32(32 * 2.0**-149)  # below 2**-126, floats are as far apart everywhere
MOST_COMPUTED = 0.5  # share of the pixels; with more, upsampling all is faster
_THREADS = min(4, os.cpu_count() or 1)
_BLOCK = 1 << 16  # numbers per temporary array, which stay in the CPU's cache


class Axis(NamedTuple):
    """What each output reads along one axis.

    Attributes:
        first: (outputs,) the input before or at it.
        second: (outputs,) the next input, or the last.
        weight: (outputs,) float32, 0..1, of the second.
    """

    first: Indices
    second: Indices
    weight: Floats


class _Runs(NamedTuple):
    """The outputs in each cell along one axis, as a table with the last one repeated.

    Attributes:
        outputs: (cells, most) output numbers.
        weight: (cells, most) float32, of each cell's second corner.
        empty: (cells,) whether there are no outputs.
    """

    outputs: Indices
    weight: Floats
    empty: NDArray[np.bool_]


def axis_weights(size: int, output: int) -> Axis:
    """Which of `size` inputs each of `output` outputs reads, and how, with ``align_corners=True``.

    Output i lies at input ``i*(size-1)/(output-1)``.
    """
    position = np.arange(output) * ((size - 1) / max(output - 1, 1))
    first = np.minimum(position.astype(np.intp), size - 1)
    weight = (position - first).astype(np.float32)
    return Axis(first, np.minimum(first + 1, size - 1), weight)


def argmax_into(labels: Labels, logits: Floats) -> Floats:
    """Writes the argmax over classes of (C, ...) into `labels` (...), and returns the maximum."""
    labels.fill(0)
    best: Floats = logits[0].copy()
    for label in range(1, len(logits)):
        # Labels only grow, so a maximum does what a masked write would, many times faster.
        np.maximum(labels, np.multiply(logits[label] > best, label, dtype=labels.dtype), out=labels)
        np.maximum(best, logits[label], out=best)
    return best


def labels_by_cells(logits: Floats, rows: Axis, columns: Axis, labels: Labels) -> bool:
    """Labels upsampled logits.

    Args:
        logits: (C, h, w) float32, finite; differences between neighbours are, too.
        rows: From h inputs to H outputs.
        columns: From w inputs to W outputs.
        labels: (H, W), is written to; on a tie the lower label.

    Returns:
        False, with nothing written, if most cells would have to be computed, or there are too many
        pixels in each.
    """
    nodes, unsure = _unsure_cells(logits, labels.dtype)
    runs = _runs(rows, logits.shape[1]), _runs(columns, logits.shape[2])
    unsure[runs[0].empty] = False
    unsure[:, runs[1].empty] = False
    cells = np.flatnonzero(unsure)
    per_cell = runs[0].outputs.shape[1] * runs[1].outputs.shape[1]
    if len(cells) * per_cell > MOST_COMPUTED * labels.size or per_cell > _BLOCK:
        return False
    np.take(nodes.take(columns.first, axis=1), rows.first, axis=0, out=labels, mode="clip")
    blocks = list(_blocks(cells, per_cell, len(logits)))
    if len(blocks) > 1:
        with ThreadPoolExecutor(_THREADS) as pool:  # no two cells have a pixel in common
            list(pool.map(lambda block: _compute(logits, nodes, block, runs, labels), blocks))
    elif blocks:
        _compute(logits, nodes, blocks[0], runs, labels)
    return True


def _blocks(cells: Indices, per_cell: int, classes: int) -> Iterator[Indices]:
    size = max(1, min(_BLOCK // per_cell, 4 * _BLOCK // classes))
    return (cells[start : start + size] for start in range(0, len(cells), size))


def _runs(axis: Axis, cells: int) -> _Runs:
    starts = np.searchsorted(axis.first, np.arange(cells + 1))
    counts = np.diff(starts)
    most = max(int(counts.max()), 1)
    last = np.maximum(starts[1:] - 1, 0)
    outputs = np.minimum(starts[:-1, np.newaxis] + np.arange(most), last[:, np.newaxis])
    return _Runs(outputs, axis.weight[outputs], counts == 0)


def _unsure_cells(
    logits: Floats, dtype: np.dtype[np.unsignedinteger[Any]]
) -> tuple[Labels, NDArray[np.bool_]]:
    """The label of each input, and whether the cell right and below of it must be computed."""
    labels = np.empty(logits.shape[1:], dtype)
    close = np.empty(logits.shape[1:], np.bool_)
    band = max(1, _BLOCK // 4 // logits.shape[2])
    least = _closest(logits)
    for start in range(0, logits.shape[1], band):
        rows = slice(start, start + band)
        second = _two_best(logits[:, rows], labels[rows])
        np.less_equal(second, least, out=close[rows])
    unsure = close.copy()
    unsure[:, :-1] |= (labels[:, :-1] != labels[:, 1:]) | close[:, 1:]
    # Two rows of cells alike in themselves, and to each other.
    unsure[:-1] |= unsure[1:] | (labels[:-1] != labels[1:])
    return labels, unsure


def _closest(logits: Floats) -> np.float32:
    """How close two classes may come without their order depending on rounding."""
    return max(np.float32(TIE * max(logits.max(), -logits.min())), _LEAST_TIE)


def _two_best(logits: Floats, labels: Labels) -> Floats:
    """Writes the argmax over classes into `labels`; returns how far behind the second best is."""
    labels.fill(0)
    best = logits[0].copy()
    second = np.full_like(best, -np.inf)
    lower, scratch = np.empty_like(best), np.empty_like(labels)
    higher = np.empty(best.shape, np.bool_)
    for label in range(1, len(logits)):
        values = logits[label]
        np.greater(values, best, out=higher)
        np.multiply(higher, label, out=scratch, dtype=labels.dtype)
        np.maximum(labels, scratch, out=labels)
        np.minimum(values, best, out=lower)
        np.maximum(second, lower, out=second)
        np.maximum(best, values, out=best)
    ahead: Floats = best - second
    return ahead


def _compute(
    logits: Floats,
    nodes: Labels,
    cells: Indices,
    runs: tuple[_Runs, _Runs],
    labels: Labels,
) -> None:
    """Labels all pixels of some cells, which are given by the flat index of their first corner."""
    (height, width), (rows, columns) = nodes.shape, runs
    row, column = np.divmod(cells, width)
    below, right = np.minimum(row + 1, height - 1) * width, np.minimum(column + 1, width - 1)
    corners = np.stack((cells, row * width + right, below + column, below + right))
    flat = logits.reshape(len(logits), -1)
    row_weight = rows.weight[row].T[:, np.newaxis]  # (R, 1, n)
    column_weight = columns.weight[column].T  # (S, n)
    best, found = np.empty(0, np.float32), np.empty(0, labels.dtype)
    for members, label in _candidates(flat, corners, nodes.ravel()[corners]):
        places = label * flat.shape[1] + corners[:, members]
        first, second, third, fourth = flat.ravel().take(places)
        weight = column_weight[:, members]
        upper, lower = first + (second - first) * weight, third + (fourth - third) * weight
        values = upper + (lower - upper) * row_weight[..., members]
        written = label.astype(labels.dtype)  # where() of whole numbers of two sizes is slow
        if not best.size:  # the first candidates, one of each cell
            best, found = values, np.broadcast_to(written, values.shape).copy()
            continue
        before = best[..., members]
        higher = values > before
        found[..., members] = np.where(higher, written, found[..., members])
        best[..., members] = np.where(higher, values, before)
    labels[rows.outputs[row].T[:, np.newaxis], columns.outputs[column].T] = found


def _candidates(
    flat: Floats, corners: Indices, winners: Labels
) -> Iterator[tuple[Indices, Indices]]:
    """The classes that can be the largest somewhere in each cell, in increasing order.

    Args:
        flat: (C, h*w) logits.
        corners: (4, n) flat indices.
        winners: (4, n) the largest class at each corner.

    Yields:
        Once for the first candidate of each cell, then for the second of those that have two, and
        so on: the numbers of these cells, increasing, and a class for each.
    """
    values = flat.take(corners, axis=1)  # (C, 4, n)
    every = np.arange(corners.shape[1])
    mean = (values[winners, :, every] * np.float32(0.25)).sum(axis=0).T  # (4, n)
    able = (values >= mean - _closest(values)).any(axis=1)
    cell, label = np.nonzero(able.T)
    count = able.sum(axis=0)
    turn = np.arange(len(cell)) - (np.cumsum(count) - count)[cell]
    for number in range(count.max()):
        chosen = turn == number
        yield cell[chosen], label[chosen]
