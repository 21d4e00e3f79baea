"""Offset grid sampling: bilinear sampling at learned offsets, which aligns AlignSeg's features.

An output of H x W is sampled from a feature of h x w. Output pixel (x, y) with offset (dx, dy)
reads the feature at this source x (for y, swap the letters):

==================== ===================================== =====================================
convention           source x                              origin
==================== ===================================== =====================================
``release-2021-12``  ``x*w/(W-1) + dx/2 - 1/2``            the authors' code since 2021-12-29
``release-2021-05``  ``x*w/(W-1) + dx*w/(2*h) - 1/2``      their first release: swapped divisors
``standard``         ``(x + dx)*(w-1)/(W-1)``              their advice for new training
==================== ===================================== =====================================

Pixel centres have integer coordinates, interpolation is bilinear, and the feature is zero outside.
Worked number: w = 3, W = 5, x = 2, dx = 1 gives 2*3/4 + 1/2 - 1/2 = 1.5 in ``release-2021-12``
and (2 + 1)*2/4 = 1.5 in ``standard``. If W = 1, x/(W-1) counts as 0.

Coordinates have at least float32 precision, whatever the type of the features: a float16 coordinate
would be off by up to 1/16 pixel at width 513.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from alignseg_infer.ops.offset_fields import axis_terms
from alignseg_infer.spec.model import Sampler, SamplingConvention


def source_pixels(
    offset: Tensor, feature_size: tuple[int, int], convention: SamplingConvention
) -> tuple[Tensor, Tensor]:
    """Return where each output pixel reads the feature.

    Args:
        offset: (N, 2, H, W), channel 0 along x, channel 1 along y.
        feature_size: (h, w) of the feature.
        convention: Which formula.

    Returns:
        Source y and x, each (N, H, W) in feature pixels; float64 if `offset` is, else float32.
    """
    rows, columns = offset.shape[-2:]
    height, width = feature_size
    along_y = axis_terms(convention, height, rows, width)
    along_x = axis_terms(convention, width, columns, height)
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    position_y = _list_positions(rows, offset).unsqueeze(1) * along_y.step + along_y.shift  # (H, 1)
    position_x = _list_positions(columns, offset) * along_x.step + along_x.shift  # (W,)
    source_y = offset[:, 1] * along_y.gain + position_y
    source_x = offset[:, 0] * along_x.gain + position_x
    return source_y, source_x  # (N, H, W) each


def offset_grid_sample(
    feature: Tensor,
    offset: Tensor,
    convention: SamplingConvention,
    sampler: Sampler = Sampler.NATIVE,
) -> Tensor:
    """Sample `feature` at the positions that `offset` points to.

    Args:
        feature: (N, C, h, w) float32 or float16.
        offset: (N, 2, H, W), channel 0 along x, channel 1 along y; its unit depends on the
            convention.
        convention: Which formula; see the module's docstring.
        sampler: ``native`` or ``gather``; both compute the same numbers. The third kind is
            `ops.plugin_ops`, which uses this function.

    Returns:
        (N, C, H, W) of the feature's dtype.
    """
    if sampler is Sampler.GATHER:
        return _sample_by_gather(feature, offset, convention)
    return _sample_by_grid(feature, offset, convention)


def _list_positions(count: int, like: Tensor) -> Tensor:
    # With linspace, the exporter would silently bake the traced size into a dynamic graph.
    return torch.arange(count, device=like.device).to(like.dtype)


def _sample_by_grid(feature: Tensor, offset: Tensor, convention: SamplingConvention) -> Tensor:
    height, width = feature.shape[-2:]
    y, x = source_pixels(offset, (height, width), convention)  # (N, H, W) each
    # align_corners=False normalises pixel p of n as (2p + 1)/n - 1.
    x, y = x * (2 / width) + (1 / width - 1), y * (2 / height) + (1 / height - 1)
    grid = torch.stack((x, y), -1)  # (N, H, W, 2)
    # (N, C, H, W)
    sampled = F.grid_sample(feature.to(grid.dtype), grid, mode="bilinear", align_corners=False)
    return sampled.to(feature.dtype)


def _sample_by_gather(feature: Tensor, offset: Tensor, convention: SamplingConvention) -> Tensor:
    batch, channels, height, width = feature.shape
    y, x = source_pixels(offset, (height, width), convention)  # (N, H, W) each
    rows = _find_neighbours(y, height)
    columns = _find_neighbours(x, width)
    # Pixels become the rows of one table, so that each corner is a gather of whole rows.
    table = feature.permute(0, 2, 3, 1).reshape(-1, channels)  # (N*h*w, C)
    first = torch.arange(batch, device=feature.device).reshape(-1, 1, 1)  # (N, 1, 1)
    first = first * (height * width)
    sampled = None
    for row, row_weight in rows:  # (N, H, W) each
        for column, column_weight in columns:
            weight = (row_weight * column_weight).unsqueeze(-1).to(feature.dtype)  # (N, H, W, 1)
            corner = F.embedding(first + row * width + column, table) * weight  # (N, H, W, C)
            sampled = corner if sampled is None else sampled + corner
    assert sampled is not None
    return sampled.permute(0, 3, 1, 2)  # (N, C, H, W)


def _find_neighbours(source: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the two pixels beside each source position along one axis, with their weights.

    Pixels outside the feature get weight 0 and a valid index. Positions are clamped to one pixel
    outside, where all weights are 0, so that no offset can overflow an integer. NaN counts as
    outside.
    """
    limit = torch.ones_like(source[:1, :1, :1]) * size
    source = torch.minimum(source.clamp(min=-1.0), limit)
    below = source.floor()
    corners = []
    for pixel, weight in ((below, below + 1 - source), (below + 1, source - below)):
        inside = (pixel >= 0) & (pixel <= limit - 1)
        index = torch.where(inside, pixel, 0.0).long()
        corners.append((index, torch.where(inside, weight, 0.0)))
    return corners
