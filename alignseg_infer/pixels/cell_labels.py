"""Labels of upsampled logits, without upsampling most of them.

A cell is the square between four neighbouring logits. Inside a cell, bilinear interpolation is a
convex combination of the four corners. A class that is the largest at all four corners is therefore
the largest everywhere in the cell. Only cells whose corners disagree are computed pixel by pixel,
about one cell in ten of a street scene.

In these cells, only classes that can win are computed. The mean of several classes is a lower bound
of their maximum. A class that lies, at every corner, below the mean of the classes that win at the
corners is therefore below the maximum everywhere in the cell.

The labels are exactly those of upsampling everything. Rounding can swap two values only if they
differ by less than `TIE` times the largest logit, and cells with such a pair are computed.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Labels

Indices: TypeAlias = NDArray[np.intp]

# Each of two lerps is off by up to 5 units in the last place of the largest logit, and the
# difference of two classes by twice as much. Such a unit is 2**-23.
TIE = 32 * 2.0**-23
_LEAST_TIE = np.float32(32 * 2.0**-149)  # floats below 2**-126 all have the same spacing
MOST_COMPUTED = 0.5  # share of the pixels; above it, upsampling everything is faster
THREADS = min(4, os.cpu_count() or 1)
_BLOCK = 1 << 16  # numbers per temporary array, so that it stays in the CPU's cache


class Axis(NamedTuple):
    """The two inputs that each output reads along one axis.

    Attributes:
        first: (outputs,) the input at or before the output.
        second: (outputs,) the input after `first`, or the last input.
        weight: (outputs,) float32, 0..1, the weight of `second`.
    """

    first: Indices
    second: Indices
    weight: Floats


class _Runs(NamedTuple):
    """The outputs in each cell along one axis, as a table. Short rows repeat their last output.

    Attributes:
        outputs: (cells, most) output numbers.
        weight: (cells, most) float32, the weight of each cell's second corner.
        empty: (cells,) whether the cell has no outputs.
    """

    outputs: Indices
    weight: Floats
    empty: NDArray[np.bool_]


def axis_weights(size: int, output: int) -> Axis:
    """Return what `output` outputs read from `size` inputs with ``align_corners=True``.

    Output i lies at input ``i*(size-1)/(output-1)``.
    """
    position = np.arange(output) * ((size - 1) / max(output - 1, 1))  # (outputs,)
    first = np.minimum(position.astype(np.intp), size - 1)
    weight = (position - first).astype(np.float32)
    return Axis(first, np.minimum(first + 1, size - 1), weight)


def argmax_into(labels: Labels, logits: Floats) -> Floats:
    """Write the argmax over the classes of (C, ...) into `labels` (...), and return the maximum."""
    labels.fill(0)
    best: Floats = logits[0].copy()  # (...)
    for label in range(1, len(logits)):
        # Labels only grow, so a maximum has the effect of a masked write and is many times faster.
        np.maximum(labels, np.multiply(logits[label] > best, label, dtype=labels.dtype), out=labels)
        np.maximum(best, logits[label], out=best)
    return best


def label_by_cells(logits: Floats, rows: Axis, columns: Axis, labels: Labels) -> bool:
    """Label upsampled logits.

    Args:
        logits: (C, h, w) float32, finite; differences between neighbours must be finite, too.
        rows: From h inputs to H outputs.
        columns: From w inputs to W outputs.
        labels: (H, W), is written to; on a tie the lower label.

    Returns:
        False, with nothing written, if most cells would have to be computed or each cell has too
        many pixels.
    """
    nodes, unsure = _find_unsure_cells(logits, labels.dtype)  # (h, w) each
    runs = _group_outputs(rows, logits.shape[1]), _group_outputs(columns, logits.shape[2])
    unsure[runs[0].empty] = False
    unsure[:, runs[1].empty] = False
    cells = np.flatnonzero(unsure)  # (cells,) positions in the flattened (h, w)
    per_cell = runs[0].outputs.shape[1] * runs[1].outputs.shape[1]
    if len(cells) * per_cell > MOST_COMPUTED * labels.size or per_cell > _BLOCK:
        return False
    wide = nodes.take(columns.first, axis=1)  # (h, W)
    np.take(wide, rows.first, axis=0, out=labels, mode="clip")  # (H, W)
    size = max(1, min(_BLOCK // per_cell, 4 * _BLOCK // len(logits)))
    blocks = [cells[start : start + size] for start in range(0, len(cells), size)]
    if len(blocks) > 1:
        with ThreadPoolExecutor(THREADS) as pool:  # no two cells share a pixel
            list(pool.map(lambda block: _label_cells(logits, nodes, block, runs, labels), blocks))
    elif blocks:
        _label_cells(logits, nodes, blocks[0], runs, labels)
    return True


def _group_outputs(axis: Axis, cells: int) -> _Runs:
    """Group the outputs along `axis` by the cell that they lie in."""
    starts = np.searchsorted(axis.first, np.arange(cells + 1))  # (cells + 1,)
    counts = np.diff(starts)  # (cells,)
    most = max(int(counts.max()), 1)
    last = np.maximum(starts[1:] - 1, 0)  # (cells,)
    outputs = starts[:-1, np.newaxis] + np.arange(most)  # (cells, most)
    outputs = np.minimum(outputs, last[:, np.newaxis])
    return _Runs(outputs, axis.weight[outputs], counts == 0)


def _find_unsure_cells(
    logits: Floats, dtype: np.dtype[np.unsignedinteger[Any]]
) -> tuple[Labels, NDArray[np.bool_]]:
    """Return the label of each input, and whether the cell to its lower right must be computed."""
    labels = np.empty(logits.shape[1:], dtype)  # (h, w)
    close = np.empty(logits.shape[1:], np.bool_)  # (h, w)
    band = max(1, _BLOCK // 4 // logits.shape[2])
    tie = _tie_distance(logits)
    for start in range(0, logits.shape[1], band):
        rows = slice(start, start + band)
        lead = _label_nodes(logits[:, rows], labels[rows])  # (band, w)
        np.less_equal(lead, tie, out=close[rows])
    # First compare each input with its right neighbour, then each row with the row below.
    unsure = close.copy()  # (h, w)
    unsure[:, :-1] |= (labels[:, :-1] != labels[:, 1:]) | close[:, 1:]
    unsure[:-1] |= unsure[1:] | (labels[:-1] != labels[1:])
    return labels, unsure


def _tie_distance(logits: Floats) -> np.float32:
    """Return how close two classes must be for rounding to decide their order."""
    return max(np.float32(TIE * max(logits.max(), -logits.min())), _LEAST_TIE)


def _label_nodes(logits: Floats, labels: Labels) -> Floats:
    """Write the argmax over classes into `labels`, and return its lead over the second best.

    Args:
        logits: (C, h, w).
        labels: (h, w), is written to.

    Returns:
        (h, w) best minus second best logit.
    """
    labels.fill(0)
    best = logits[0].copy()  # (h, w), as all arrays below
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
    lead: Floats = best - second
    return lead


def _label_cells(
    logits: Floats,
    nodes: Labels,
    cells: Indices,
    runs: tuple[_Runs, _Runs],
    labels: Labels,
) -> None:
    """Label all pixels of some cells.

    Args:
        logits: (C, h, w).
        nodes: (h, w) the label of each input.
        cells: (n,) flat index in (h, w) of each cell's first corner.
        runs: The outputs in each cell: at most R along rows, S along columns.
        labels: (H, W), is written to.
    """
    (height, width), (rows, columns) = nodes.shape, runs
    row, column = np.divmod(cells, width)  # (n,) each
    below, right = np.minimum(row + 1, height - 1) * width, np.minimum(column + 1, width - 1)
    corners = np.stack((cells, row * width + right, below + column, below + right))  # (4, n)
    flat = logits.reshape(len(logits), -1)  # (C, h*w)
    row_weight = rows.weight[row].T[:, np.newaxis]  # (R, 1, n)
    column_weight = columns.weight[column].T  # (S, n)
    best, found = np.empty(0, np.float32), np.empty(0, labels.dtype)  # (R, S, n) each, later
    for members, label in _find_candidates(flat, corners, nodes.ravel()[corners]):  # (m,) each
        places = label * flat.shape[1] + corners[:, members]  # (4, m)
        first, second, third, fourth = flat.ravel().take(places)  # (m,) each
        weight = column_weight[:, members]  # (S, m)
        upper = first + (second - first) * weight  # (S, m)
        lower = third + (fourth - third) * weight  # (S, m)
        values = upper + (lower - upper) * row_weight[..., members]  # (R, S, m)
        written = label.astype(labels.dtype)  # where() is slow with integers of two sizes
        if not best.size:  # the first round has one candidate for every cell: m = n
            best, found = values, np.broadcast_to(written, values.shape).copy()
            continue
        before = best[..., members]  # (R, S, m)
        higher = values > before
        found[..., members] = np.where(higher, written, found[..., members])
        best[..., members] = np.where(higher, values, before)
    output_rows = rows.outputs[row].T[:, np.newaxis]  # (R, 1, n)
    output_columns = columns.outputs[column].T  # (S, n)
    labels[output_rows, output_columns] = found  # (R, S, n)


def _find_candidates(
    flat: Floats, corners: Indices, winners: Labels
) -> Iterator[tuple[Indices, Indices]]:
    """Find the classes that can be the largest somewhere in each cell, in increasing order.

    Args:
        flat: (C, h*w) logits.
        corners: (4, n) flat indices.
        winners: (4, n) the largest class at each corner.

    Yields:
        The first candidate of every cell, then the second candidate of each cell that has two, and
        so on. Each round has the numbers of its cells, increasing, and one class per cell.
    """
    values = flat.take(corners, axis=1)  # (C, 4, n)
    every = np.arange(corners.shape[1])  # (n,)
    own = values[winners, :, every]  # (4, n, 4): each winner at all corners of its cell
    mean = (own * np.float32(0.25)).sum(axis=0).T  # (4, n)
    able = (values >= mean - _tie_distance(values)).any(axis=1)  # (C, n)
    cell, label = np.nonzero(able.T)  # (candidates,) each
    count = able.sum(axis=0)  # (n,)
    turn = np.arange(len(cell)) - (np.cumsum(count) - count)[cell]  # (candidates,)
    for number in range(count.max()):
        chosen = turn == number
        yield cell[chosen], label[chosen]
