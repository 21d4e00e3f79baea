"""The operations that TensorRT plugins compute, as operators of PyTorch: ``torch.ops.alignseg``.

On the CPU they are the definitions of `ops.sampling` and PyTorch's own upsampling, computed in
float32 or better and rounded once, as the plugins do. `torch.onnx` needs operators to keep each as
one node. A CUDA implementation can be registered with `torch.library.register_kernel`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from alignseg_infer.ops.sampling import offset_grid_sample as sample_as_defined
from alignseg_infer.spec import SamplingConvention


@torch.library.custom_op("alignseg::offset_grid_sample", mutates_args=(), device_types="cpu")
def offset_grid_sample(feature: Tensor, offset: Tensor, convention: str) -> Tensor:
    """`ops.sampling.offset_grid_sample`.

    Args:
        feature: (N, C, h, w) float32 or float16.
        offset: (N, 2, H, W) float32 or float16.
        convention: A `SamplingConvention`.

    Returns:
        (N, C, H, W) of the feature's dtype.
    """
    return sample_as_defined(feature, offset, SamplingConvention(convention))


@torch.library.custom_op("alignseg::aligned_add", mutates_args=(), device_types="cpu")
def aligned_add(
    high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor, convention: str
) -> Tensor:
    """``sample(upsample(high), high_offset) + sample(low, low_offset)``, rounded once.

    Args:
        high: (N, C, h, w), the coarse feature at its own size.
        low: (N, C, H, W), the fine feature.
        high_offset: (N, 2, H, W).
        low_offset: (N, 2, H, W).
        convention: A `SamplingConvention`.

    Returns:
        (N, C, H, W) of the features' dtype.
    """
    kind = SamplingConvention(convention)
    wide = sample_as_defined(_upsampled(high, low), high_offset, kind)
    fine = sample_as_defined(low.to(wide.dtype), low_offset, kind)
    return (wide + fine).to(low.dtype)


@torch.library.custom_op("alignseg::upsample_argmax", mutates_args=(), device_types="cpu")
def upsample_argmax(logits: Tensor, like: Tensor) -> Tensor:
    """The label of each pixel: argmax of the logits, upsampled with aligned corners.

    Args:
        logits: (N, C, h, w).
        like: (N, K, H, W), such as the image; only its size counts.

    Returns:
        (N, H, W) int32; on a tie the lower label.
    """
    return _upsampled(logits, like).argmax(1).to(torch.int32)


def _upsampled(x: Tensor, like: Tensor) -> Tensor:
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.interpolate(exact, size=like.shape[-2:], mode="bilinear", align_corners=True)


@offset_grid_sample.register_fake
def _(feature: Tensor, offset: Tensor, convention: str) -> Tensor:
    return feature.new_empty((*feature.shape[:2], *offset.shape[-2:]))


@aligned_add.register_fake
def _(
    high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor, convention: str
) -> Tensor:
    return low.new_empty(low.shape)


@upsample_argmax.register_fake
def _(logits: Tensor, like: Tensor) -> Tensor:
    return logits.new_empty((logits.shape[0], *like.shape[-2:]), dtype=torch.int32)
