"""The operations that TensorRT plugins compute, as PyTorch operators: ``torch.ops.alignseg``.

On the CPU they use the definitions of `ops.sampling` and PyTorch's own upsampling, compute in
float32 and round once, as the plugins do. They are operators so that `torch.onnx` keeps each of
them as one node. `backends.torch_kernels` registers a CUDA implementation.

CPU, CUDA and tracing agree: they refuse the same inputs (`plugin_checks`, an OptionError) and
return the same shape, type and strides. Features may be contiguous or channels last, and the output
is stored like the feature (like `low` in `aligned_add`). Features that are neither count as
contiguous and are copied. Offsets that are not contiguous are copied, too. Empty outputs are
returned without computing anything.

The operators are for inference and have no gradient: a backward pass through one, or compiling one
for it, raises OptionError. To train, use `ops.sampling`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alignseg_infer.errors import OptionError
from alignseg_infer.ops.plugin_checks import convention_of, output_shape
from alignseg_infer.ops.sampling import offset_grid_sample as sample_as_defined
from alignseg_infer.spec.model import SamplingConvention
from alignseg_infer.spec.plugin_contract import ALIGNED_ADD, OFFSET_GRID_SAMPLE, UPSAMPLE_ARGMAX


@torch.library.custom_op("alignseg::offset_grid_sample", mutates_args=(), device_types="cpu")
def offset_grid_sample(feature: Tensor, offset: Tensor, convention: str) -> Tensor:
    """Sample a feature at learned offsets, as `ops.sampling.offset_grid_sample` defines it.

    Args:
        feature: (N, C, h, w) float32 or float16.
        offset: (N, 2, H, W) float32 or float16.
        convention: A `SamplingConvention`.

    Returns:
        (N, C, H, W) of the feature's dtype and memory format.

    Raises:
        OptionError: Shapes, types, devices or the convention do not fit.
    """
    output = new_sampled(feature, offset, convention)
    if output.numel() == 0:
        return output
    kind = convention_of(OFFSET_GRID_SAMPLE, convention)
    return output.copy_(sample_as_defined(feature, offset, kind))


@torch.library.custom_op("alignseg::aligned_add", mutates_args=(), device_types="cpu")
def aligned_add(
    high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor, convention: str
) -> Tensor:
    """Return ``sample(upsample(high), high_offset) + sample(low, low_offset)``, rounded once.

    Args:
        high: (N, C, h, w) float32 or float16, the coarse feature at its own size.
        low: (N, C, H, W) of the same dtype, the fine feature.
        high_offset: (N, 2, H, W) float32 or float16.
        low_offset: (N, 2, H, W) of the same dtype.
        convention: A `SamplingConvention`.

    Returns:
        (N, C, H, W) of the features' dtype and of `low`'s memory format.

    Raises:
        OptionError: Shapes, types, devices or the convention do not fit.
    """
    output = new_aligned(high, low, high_offset, low_offset, convention)
    if output.numel() == 0:
        return output
    kind = convention_of(ALIGNED_ADD, convention)
    wide = sample_as_defined(_upsample(high, low), high_offset, kind)  # (N, C, H, W)
    fine = sample_as_defined(low.to(wide.dtype), low_offset, kind)  # (N, C, H, W)
    return torch.add(wide, fine, out=output)


def add_upsampled(low: Tensor, high: Tensor) -> Tensor:
    """Return ``low + upsample(high)`` in one pass: `aligned_add` with offsets of zero.

    Args:
        low: (N, C, H, W) float32 or float16.
        high: (N, C, h, w) of the same dtype; upsampled bilinearly with aligned corners.

    Returns:
        (N, C, H, W) of their dtype and of `low`'s memory format.

    Raises:
        OptionError: Shapes, types or devices do not fit.
    """
    zeros = low.new_zeros(low.shape[0], 2, *low.shape[-2:])  # (N, 2, H, W)
    total: Tensor = aligned_add(high, low, zeros, zeros, SamplingConvention.STANDARD.value)
    return total


@torch.library.custom_op("alignseg::upsample_argmax", mutates_args=(), device_types="cpu")
def upsample_argmax(logits: Tensor, like: Tensor) -> Tensor:
    """Return the label of each pixel: the argmax of the logits, upsampled with aligned corners.

    Args:
        logits: (N, C, h, w) float32 or float16.
        like: (N, K, H, W) float32 or float16, such as the image; only its size is used.

    Returns:
        (N, H, W) int32, contiguous; on a tie the lower label.

    Raises:
        OptionError: Shapes, types or devices do not fit.
    """
    output = new_labels(logits, like)
    return output if output.numel() == 0 else output.copy_(_upsample(logits, like).argmax(1))


def new_sampled(feature: Tensor, offset: Tensor, convention: str) -> Tensor:
    """Check the arguments of `offset_grid_sample` and allocate its output, also for tracing."""
    convention_of(OFFSET_GRID_SAMPLE, convention)
    shape = output_shape(OFFSET_GRID_SAMPLE, (feature, offset))
    stored = memory_format(feature)
    return torch.empty(shape, dtype=feature.dtype, device=feature.device, memory_format=stored)


def new_aligned(
    high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor, convention: str
) -> Tensor:
    """Check the arguments of `aligned_add` and allocate its output, also for tracing."""
    convention_of(ALIGNED_ADD, convention)
    output_shape(ALIGNED_ADD, (high, low, high_offset, low_offset))  # the shape of low
    return torch.empty_like(low, memory_format=memory_format(low))


def new_labels(logits: Tensor, like: Tensor) -> Tensor:
    """Check the arguments of `upsample_argmax` and allocate its output, also for tracing."""
    shape = output_shape(UPSAMPLE_ARGMAX, (logits, like))
    return torch.empty(shape, dtype=torch.int32, device=logits.device)


def memory_format(feature: Tensor) -> torch.memory_format:
    """Return ``channels_last`` if `feature` is stored that way and is not also contiguous."""
    if feature.is_contiguous() or not feature.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x.float(), size=like.shape[-2:], mode="bilinear", align_corners=True)


def _refuse_gradient(context: Any, gradient: Tensor) -> None:
    raise OptionError(
        "the operators of torch.ops.alignseg have no gradient",
        "inference without gradients",
        "with torch.inference_mode(): ...; to train, use alignseg_infer.ops.sampling",
    )


offset_grid_sample.register_fake(new_sampled)
aligned_add.register_fake(new_aligned)
upsample_argmax.register_fake(new_labels)
offset_grid_sample.register_autograd(_refuse_gradient)
aligned_add.register_autograd(_refuse_gradient)
