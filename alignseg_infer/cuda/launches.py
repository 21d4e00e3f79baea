"""Launches of the CUDA kernels for tensors in GPU memory."""

import math
from typing import NamedTuple

import numpy as np

from alignseg_infer.cuda.plans import (
    Launch,
    aligned_add_plan,
    is_aligned,
    offset_grid_sample_plan,
    preprocess_plan,
    upsample_argmax_plan,
)
from alignseg_infer.spec.model import ChannelOrder, InputSpec, SamplingConvention


class DeviceTensor(NamedTuple):
    """A dense array in GPU memory."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def part(self, index: int) -> "DeviceTensor":
        """Return ``self[index : index + 1]``."""
        shape = (1, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        return DeviceTensor(self.address + index * size, shape, self.dtype)


def offset_grid_sample_launch(
    feature: DeviceTensor,
    offset: DeviceTensor,
    output: DeviceTensor,
    convention: SamplingConvention,
    *,
    channels_last: bool = False,
) -> Launch:
    """Return the launch that samples `feature` where `offset` points; see `ops.sampling`.

    Args:
        feature: (N, C, h, w) float32 or float16.
        offset: (N, 2, H, W) float32 or float16, planar.
        output: (N, C, H, W) of the feature's dtype.
        convention: The model's sampling convention.
        channels_last: Whether feature and output are stored as (N, h, w, C).
    """
    plan = offset_grid_sample_plan(
        feature.shape, output.shape, (feature.dtype, offset.dtype), convention, channels_last
    )
    return plan.at(feature.address, offset.address, output.address)


def aligned_add_launch(
    features: tuple[DeviceTensor, DeviceTensor],
    offsets: tuple[DeviceTensor, DeviceTensor],
    output: DeviceTensor,
    convention: SamplingConvention,
    *,
    channels_last: bool = False,
) -> Launch:
    """Return the launch that aligns two features and adds them.

    It computes ``sample(upsample(high), high_offset) + sample(low, low_offset)`` in one pass.

    Args:
        features: ``high``, (N, C, h, w), and ``low``, (N, C, H, W); float32 or float16.
        offsets: ``high_offset`` and ``low_offset``, each (N, 2, H, W) float32 or float16, planar.
        output: (N, C, H, W) of the features' dtype.
        convention: The model's sampling convention.
        channels_last: Whether features and output are stored as (N, h, w, C).
    """
    (high, low), (high_offset, low_offset) = features, offsets
    addresses = high.address, low.address, output.address
    plan = aligned_add_plan(
        (high.shape, low.shape),
        (low.dtype, low_offset.dtype),
        convention,
        channels_last=channels_last,
        aligned=is_aligned(*addresses),
    )
    return plan.at(
        *(high.address, low.address, high_offset.address, low_offset.address, output.address)
    )


def upsample_argmax_launch(
    logits: DeviceTensor, labels: DeviceTensor, *, confidence: int = 0, not_finite: int = 0
) -> Launch:
    """Return the launch that upsamples logits, with aligned corners, and takes their argmax.

    Args:
        logits: (N, C, h, w) float32 or float16.
        labels: (N, H, W) uint8, uint16 or int32.
        confidence: Address for (N, H, W) uint8, ``round(255 * probability)``; 0 for none.
        not_finite: Address of an int32 that becomes 1 if a logit is NaN or infinite; 0 for none.
    """
    plan = upsample_argmax_plan(
        *(logits.shape, labels.shape, logits.dtype, labels.dtype, confidence != 0)
    )
    return plan.at(logits.address, labels.address, confidence, 0, 0, not_finite)


def preprocess_launch(image: DeviceTensor, target: DeviceTensor, spec: InputSpec) -> Launch:
    """Return the launch that prepares an image as `preprocess.preprocess` does.

    Args:
        image: (h, w, 3) uint8 BGR.
        target: (1, 3, H, W) float32 or float16.
        spec: Channel order, mean and std.
    """
    statistics = tuple(spec.mean), tuple(spec.std)
    swap = spec.channel_order is ChannelOrder.RGB
    plan = preprocess_plan(image.shape, target.shape, target.dtype, swap, statistics)
    return plan.at(image.address, target.address)
