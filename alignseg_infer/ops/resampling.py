"""Adaptive average pooling and bilinear upsampling, each as two small matrix products.

Both are separable and can be exported with any dynamic size. In ONNX Runtime on a CPU, the size
decides whether products or Resize upsample faster, because the work of the products grows with the
cube of the side. To 65x129 with 512 channels, products took 0.5 times (from 9x17) to 1.9 times
(from 33x65) as long as Resize; from 129x257 to 257x513 they took 3.7 times as long (AMD EPYC with
AVX-512 VNNI and BF16, two threads, other work running, paired medians). A whole network with
ResNet-101 takes equally long with both on that machine: with Resize 0.98 to 1.03 times as long at
256x512 in three runs, and 1.00 times at 512x1024, where rounds varied by 5 %.
"""

import torch
from torch import Tensor


def pooling_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """Return the matrix that averages `size` values into `bins`, as ``AdaptiveAvgPool`` does.

    Bin i averages the values from floor(i*size/bins) up to, but not including,
    ceil((i + 1)*size/bins). For size 4 and 3 bins: values 0-1, 1-2 and 2-3.

    Args:
        size: Number of values.
        bins: Number of averages.
        like: Determines device and dtype.

    Returns:
        (bins, size); rows sum to 1.
    """
    index = torch.arange(bins, device=like.device).unsqueeze(1)  # (bins, 1)
    value = torch.arange(size, device=like.device)  # (size,)
    # value >= floor(index*size/bins) and value < ceil((index + 1)*size/bins), without a division:
    # TensorRT for RTX 1.7.1 fails ("host_instr.cpp: CHECK(0)") when it computes integer divisions
    # of a size that a profile fixes.
    after_start = (value + 1) * bins > index * size  # (bins, size)
    before_stop = value * bins < (index + 1) * size  # (bins, size)
    inside = (after_start & before_stop).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def adaptive_average_pool(feature: Tensor, bins: int) -> Tensor:
    """Return ``adaptive_avg_pool2d(feature, bins)``, computed as matrix products.

    Two-dimensional adaptive averaging is separable because each bin is a rectangle.

    Args:
        feature: (N, C, h, w).
        bins: Output height and width.

    Returns:
        (N, C, bins, bins).
    """
    pool_rows = pooling_matrix(feature.shape[-2], bins, feature)  # (bins, h)
    pool_columns = pooling_matrix(feature.shape[-1], bins, feature)  # (bins, w)
    return pool_rows @ feature @ pool_columns.transpose(0, 1)


def interpolation_matrix(size: int, output: int, like: Tensor) -> Tensor:
    """Return the matrix of linear interpolation from `size` to `output` values, corners aligned.

    Output i reads position ``i*(size - 1)/(output - 1)``. Its row has the weights of the one or two
    values next to that position. From 2 to 3 values: (1, 0), (1/2, 1/2), (0, 1).

    Args:
        size: Number of values.
        output: Number of interpolated values.
        like: Determines device and dtype; positions have at least float32 precision.

    Returns:
        (output, size); rows sum to 1.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    position = torch.arange(output, device=like.device).to(exact) * (
        (size - 1) / max(output - 1, 1)
    )
    # (output, 1) - (size,) = (output, size)
    distance = position.unsqueeze(1) - torch.arange(size, device=like.device).to(exact)
    return (1 - distance.abs()).clamp(min=0).to(like.dtype)


def upsample_by_matrices(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``interpolate(x, size, mode="bilinear", align_corners=True)`` by matrix products.

    Args:
        x: (N, C, h, w).
        size: Output (height, width).

    Returns:
        (N, C, height, width).
    """
    rows = interpolation_matrix(x.shape[-2], size[0], x)  # (height, h)
    columns = interpolation_matrix(x.shape[-1], size[1], x)  # (width, w)
    return rows @ (x @ columns.transpose(0, 1))
