"""Decoder blocks of AlignSeg: RRB, CAM and CAB.

Names follow the authors' code, so that its state dict can be loaded. The paper calls CAB the
Aligned Feature Aggregation module and CAM the Aligned Context Modeling module.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignseg_infer.models.backbone import conv
from alignseg_infer.models.norm import Norm
from alignseg_infer.ops import plugin_ops
from alignseg_infer.ops.offset_fields import CONTEXT_BINS
from alignseg_infer.ops.resampling import adaptive_average_pool
from alignseg_infer.ops.sampling import offset_grid_sample
from alignseg_infer.spec.model import NormKind, Sampler, SamplingConvention


class Aligned(NamedTuple):
    """The outputs of CAM and CAB.

    Attributes:
        feature: (N, C, H, W).
        offsets: The offsets used for sampling, (N, 2, H, W) each. CAM has one; CAB has one for the
            coarse feature, then one for the fine feature.
    """

    feature: Tensor
    offsets: tuple[Tensor, ...]


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, h, w) bilinearly to `size` (H, W) with align_corners=True."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def size_of(x: Tensor) -> tuple[int, int]:
    """Return the (height, width) of (N, C, h, w)."""
    return x.shape[-2], x.shape[-1]


class OffsetSampler(nn.Module):
    """`ops.sampling.offset_grid_sample` as a module, with its options as attributes.

    Attributes:
        convention: Which formula.
        sampler: How sampling is written in an exported graph.
        fuse: Whether the sampler ``plugin`` fuses CAB's upsampling, sampling and sum into one
            operation.
    """

    def __init__(self, convention: SamplingConvention) -> None:
        super().__init__()
        self.convention = convention
        self.sampler = Sampler.NATIVE
        self.fuse = True

    @property
    def fuses(self) -> bool:
        """Whether to use `aligned_add` instead of two calls."""
        return self.fuse and self.sampler is Sampler.PLUGIN

    def forward(self, feature: Tensor, offset: Tensor) -> Tensor:
        if self.sampler is Sampler.PLUGIN:
            convention = self.convention.value
            sampled: Tensor = plugin_ops.offset_grid_sample(feature, offset, convention)
            return sampled
        return offset_grid_sample(feature, offset, self.convention, self.sampler)

    def aligned_add(
        self, high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor
    ) -> Tensor:
        """Add the upsampled `high` to `low`, both sampled at their offsets, in one operation."""
        offsets = high_offset, low_offset
        total: Tensor = plugin_ops.aligned_add(high, low, *offsets, self.convention.value)
        return total


class AdaptiveAveragePool(nn.Module):
    """Average pooling of (N, C, h, w) into 3 x 3 bins."""

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_average_pool(x, CONTEXT_BINS)


class RRB(nn.Module):
    """Residual refinement block, which also converts a feature to the decoder's channels.

    Args:
        inputs: Input channels.
        channels: Channels of the decoder.
        norm: How normalisation weights are used.
    """

    def __init__(self, inputs: int, channels: int, norm: NormKind) -> None:
        super().__init__()
        self.unify = conv(inputs, channels, 1)
        self.residual = nn.Sequential(
            conv(channels, channels // 4, 3),
            Norm(channels // 4, activation=True, kind=norm),
            conv(channels // 4, channels, 3),
        )
        self.norm = Norm(channels, activation=True, kind=norm)

    def forward(self, x: Tensor) -> Tensor:
        unified = self.unify(x)
        refined: Tensor = self.norm(unified + self.residual(unified))
        return refined


def offset_branch(channels: int, norm: NormKind) -> nn.Sequential:
    """Return layers that predict (N, 2, H, W) offsets from two concatenated features.

    Each feature has `channels` channels.
    """
    return nn.Sequential(
        conv(2 * channels, channels, 1),
        Norm(channels, activation=True, kind=norm),
        conv(channels, 2, 3),
    )


class CAM(nn.Module):
    """Context module: adds a 3 x 3 summary of the 1/32 stage to it, sampled at learned offsets.

    Args:
        inputs: Channels of the 1/32 stage.
        channels: Channels of the decoder.
        convention: Sampling convention.
        norm: How normalisation weights are used.
    """

    def __init__(
        self, inputs: int, channels: int, convention: SamplingConvention, norm: NormKind
    ) -> None:
        super().__init__()
        self.pool = nn.Sequential(AdaptiveAveragePool(), *_make_two_convs(inputs, channels, norm))
        self.adapt = nn.Sequential(*_make_two_convs(inputs, channels, norm))
        self.delta_gen = offset_branch(channels, norm)
        self.sample = OffsetSampler(convention)

    def forward(self, x: Tensor) -> Aligned:
        context = self.pool(x)  # (N, C, 3, 3)
        local = self.adapt(x)  # (N, C, h, w)
        both = torch.cat((local, upsample(context, size_of(x))), 1)  # (N, 2*C, h, w)
        offset = self.delta_gen(both)  # (N, 2, h, w)
        return Aligned(self.sample(context, offset) + local, (offset,))


def _make_two_convs(inputs: int, channels: int, norm: NormKind) -> list[nn.Module]:
    return [
        conv(inputs, inputs, 1),
        Norm(inputs, activation=True, kind=norm),
        conv(inputs, channels, 3),
        Norm(channels, activation=True, kind=norm),
    ]


class CAB(nn.Module):
    """Block that samples a coarse and a fine feature, each at its own offsets, and adds them.

    Args:
        channels: Channels of the decoder.
        convention: Sampling convention.
        norm: How normalisation weights are used.
    """

    def __init__(self, channels: int, convention: SamplingConvention, norm: NormKind) -> None:
        super().__init__()
        self.delta_gen1 = offset_branch(channels, norm)
        self.delta_gen2 = offset_branch(channels, norm)
        self.sample = OffsetSampler(convention)

    def forward(self, low: Tensor, high: Tensor) -> Aligned:
        wide = upsample(high, size_of(low))  # (N, C, H, W)
        both = torch.cat((low, wide), 1)  # (N, 2*C, H, W)
        offsets = self.delta_gen1(both), self.delta_gen2(both)  # (N, 2, H, W) each
        if self.sample.fuses:
            return Aligned(self.sample.aligned_add(high, low, *offsets), offsets)
        high_offset, low_offset = offsets
        aligned = self.sample(wide, high_offset) + self.sample(low, low_offset)
        return Aligned(aligned, offsets)
