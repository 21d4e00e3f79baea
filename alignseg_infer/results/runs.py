"""Runs of equal labels, from which boxes and COCO's run lengths are made without per-class loops.

A run is a stretch of pixels of one label in an image read line by line: row by row, or, as COCO
does, column by column. A run may go on over the end of a line.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Labels

Positions: TypeAlias = NDArray[np.int64]


class Runs(NamedTuple):
    """All runs of one label.

    Attributes:
        starts: (R,) int64, rising: pixels before each run.
        ends: (R,) int64: pixels before what follows it.
    """

    starts: Positions
    ends: Positions


class Extent(NamedTuple):
    """Where a label occurs: first and last line, and first and last place within the lines."""

    first_line: int
    last_line: int
    first: int
    last: int


def runs_by_label(lines: Labels) -> dict[int, Runs]:
    """The runs of each label that occurs, lowest label first.

    Args:
        lines: (lines, places) labels. For runs along columns give the transposed labels.
    """
    flat = lines.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], changes))
    ends = np.concatenate((changes, [flat.size]))
    labels = flat[starts]
    order = np.argsort(labels, kind="stable")
    present, firsts = np.unique(labels[order], return_index=True)
    groups = np.split(order, firsts[1:])
    return {
        int(label): Runs(starts[group], ends[group])
        for label, group in zip(present, groups, strict=True)
    }


def extent_of(runs: Runs, places: int) -> Extent:
    """The smallest box around runs in lines of so many places."""
    first_lines, firsts = np.divmod(runs.starts, places)
    last_lines, lasts = np.divmod(runs.ends - 1, places)
    lines = int(first_lines[0]), int(last_lines[-1])
    if (first_lines != last_lines).any():  # the end of one line and the start of the next
        return Extent(*lines, 0, places - 1)
    return Extent(*lines, int(firsts.min()), int(lasts.max()))
