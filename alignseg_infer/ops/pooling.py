"""Adaptive average pooling as two small matrix products, which export at any dynamic size."""

import torch
from torch import Tensor


def pooling_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """The matrix that averages `size` values into `bins`, as ``AdaptiveAvgPool`` does.

    Bin i averages values floor(i*size/bins) up to, not including, ceil((i + 1)*size/bins). For
    size 4 and 3 bins: values 0-1, 1-2 and 2-3.

    Args:
        size: Number of values.
        bins: Number of averages.
        like: Gives device and dtype.

    Returns:
        (bins, size); rows sum to 1.
    """
    index = torch.arange(bins, device=like.device).unsqueeze(1)
    start = (index * size) // bins
    stop = ((index + 1) * size + bins - 1) // bins
    value = torch.arange(size, device=like.device)
    inside = (value >= start) & (value < stop)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)


def adaptive_average_pool(feature: Tensor, bins: int) -> Tensor:
    """``torch.nn.functional.adaptive_avg_pool2d(feature, bins)``, written as matrix products.

    Two-dimensional adaptive averaging is separable: each bin is a rectangle.

    Args:
        feature: (N, C, h, w).
        bins: Output height and width.

    Returns:
        (N, C, bins, bins).
    """
    pool_rows = pooling_matrix(feature.shape[-2], bins, feature)
    pool_columns = pooling_matrix(feature.shape[-1], bins, feature)
    return pool_rows @ feature @ pool_columns.transpose(0, 1)
