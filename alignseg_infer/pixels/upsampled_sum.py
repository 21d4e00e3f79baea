"""Adding upsampled logits to a sum, each output times its share.

Upsampling is linear along rows and along columns, and so is a share that is a product of one factor
per row and one per column. Both become one small matrix for each `_BLOCK` outputs along an axis,
which reads the few inputs near them. A class is then two products of stacks of such matrices and
one addition to the sum.

A tile of 872x872 with 19 classes, from logits of 219x219, takes 14 ms in two threads and 20 ms in
one. Upsampling in bands, times the share, plus the sum took 33 ms (medians of 12 interleaved
rounds; minima 11, 18 and 31; two cores of an AMD EPYC with AVX-512).
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from alignseg_infer.arrays import Floats
from alignseg_infer.pixels.cell_labels import THREADS, Axis, Indices

_BLOCK = 16  # outputs per matrix; 8 and 32 were slower
# So many blocks of rows and of columns are computed at a time. The arrays of a thread then take
# 1.3 MB for a tile of 872x872, and most of that stays in the cache of its core.
_ROW_BLOCKS = 4
_COLUMN_BLOCKS = 64


class Lerp(NamedTuple):
    """Weighted linear interpolation along one axis, in blocks of outputs.

    Attributes:
        inputs: (blocks, m) numbers of the inputs that each block reads.
        weights: (blocks, outputs per block, m) float32; those after the last output are 0.
        outputs: Number of outputs.
    """

    inputs: Indices
    weights: Floats
    outputs: int


def weighted_lerp(axis: Axis, share: Floats | float = 1.0) -> Lerp:
    """Return the interpolation along `axis`, with outputs times `share`.

    Args:
        axis: What each output reads, with increasing inputs.
        share: One factor for each output, or for all.
    """
    outputs = len(axis.first)
    starts = np.arange(0, outputs, _BLOCK)
    stops = np.minimum(starts + _BLOCK, outputs)
    most = int((axis.second[stops - 1] - axis.first[starts]).max()) + 1
    begin = np.minimum(axis.first[starts], axis.second[-1] + 1 - most)  # (blocks,)
    weights = np.zeros((len(starts) * _BLOCK, most), np.float32)
    output, block_begin = np.arange(outputs), np.repeat(begin, _BLOCK)[:outputs]
    weights[output, axis.first - block_begin] = (1 - axis.weight) * share
    weights[output, axis.second - block_begin] += axis.weight * share  # second may be first
    blocks = weights.reshape(len(starts), _BLOCK, most)
    return Lerp(begin[:, np.newaxis] + np.arange(most), blocks, outputs)


def add_upsampled(total: Floats, logits: Floats, rows: Lerp, columns: Lerp) -> None:
    """Add upsampled logits to `total`.

    Each class is computed by itself, so the sum does not depend on the number of threads.

    Args:
        total: (C, H, W) float32, is written to.
        logits: (C, h, w) float32.
        rows: From h inputs to H outputs.
        columns: From w inputs to W outputs.
    """
    across = np.ascontiguousarray(columns.weights.swapaxes(1, 2))  # (blocks, m, outputs per block)

    def add(label: int) -> None:
        for start in range(0, len(across), _COLUMN_BLOCKS):
            blocks, first = slice(start, start + _COLUMN_BLOCKS), start * _BLOCK
            near = logits[label].take(columns.inputs[blocks], axis=1)  # (h, blocks, m)
            strip = total[label, :, first : min(first + _COLUMN_BLOCKS * _BLOCK, columns.outputs)]
            _add_strip(strip, near, across[blocks], rows)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(add, range(len(logits))))


def _add_strip(total: Floats, near: Floats, across: Floats, rows: Lerp) -> None:
    """Add one class in one strip of columns.

    Args:
        total: (H, W) of the strip, is written to.
        near: (h, blocks, m) logits that each block of columns reads.
        across: (blocks, m, outputs per block) their weights.
        rows: From h inputs to H outputs.
    """
    width, count = len(across) * _BLOCK, min(_ROW_BLOCKS, len(rows.weights))
    wide = np.empty((len(near), width), np.float32)
    read = np.empty((count, rows.inputs.shape[1], width), np.float32)
    tall = np.empty((count, _BLOCK, width), np.float32)
    in_blocks = wide.reshape(len(near), -1, _BLOCK).swapaxes(0, 1)  # (blocks, h, outputs per block)
    np.matmul(near.swapaxes(0, 1), across, out=in_blocks)
    for start in range(0, len(rows.weights), count):
        weights = rows.weights[start : start + count]  # (n, outputs per block, m)
        inputs = rows.inputs[start : start + count]  # (n, m)
        # The mode "raise" would need a copy.
        wide.take(inputs, axis=0, out=read[: len(inputs)], mode="clip")  # (n, m, width)
        np.matmul(weights, read[: len(inputs)], out=tall[: len(inputs)])
        target = total[start * _BLOCK : (start + count) * _BLOCK]  # (outputs, W)
        np.add(target, tall.reshape(-1, width)[: len(target), : target.shape[1]], out=target)
