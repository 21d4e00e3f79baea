"""Runs of equal labels, to compute boxes and COCO's run lengths without a loop over classes.

A run is a sequence of pixels with one label in an image that is read line by line: row by row, or
column by column as in COCO. A run may continue past the end of a line.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Labels

Positions: TypeAlias = NDArray[np.int64]


class Runs(NamedTuple):
    """All runs of one label.

    Attributes:
        starts: (R,) int64, increasing: number of pixels before each run.
        ends: (R,) int64: number of pixels up to the end of each run.
    """

    starts: Positions
    ends: Positions


class Extent(NamedTuple):
    """The first and last line of a label, and its first and last place within the lines."""

    first_line: int
    last_line: int
    first: int
    last: int


def runs_by_label(lines: Labels) -> dict[int, Runs]:
    """Return the runs of each label that occurs, lowest label first.

    Args:
        lines: (lines, places) labels. For runs along columns, pass the transposed labels.
    """
    flat = lines.ravel()  # (pixels,)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1  # (runs - 1,)
    starts = np.concatenate(([0], changes))  # (runs,)
    ends = np.concatenate((changes, [flat.size]))  # (runs,)
    labels = flat[starts]  # (runs,)
    order = np.argsort(labels, kind="stable")  # (runs,)
    present, firsts = np.unique(labels[order], return_index=True)  # (present,) each
    groups = np.split(order, firsts[1:])
    return {
        int(label): Runs(starts[group], ends[group])
        for label, group in zip(present, groups, strict=True)
    }


def extent_of(runs: Runs, places: int) -> Extent:
    """Return the smallest box around `runs` in lines of length `places`."""
    first_lines, firsts = np.divmod(runs.starts, places)
    last_lines, lasts = np.divmod(runs.ends - 1, places)
    lines = int(first_lines[0]), int(last_lines[-1])
    if (first_lines != last_lines).any():  # the run covers the end of one line and the next start
        return Extent(*lines, 0, places - 1)
    return Extent(*lines, int(firsts.min()), int(lasts.max()))
