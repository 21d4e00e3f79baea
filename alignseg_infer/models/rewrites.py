"""Exact rewrites for inference: the same function with less work.

* The auxiliary head is removed.
* A normalisation after a convolution becomes part of the convolution. The normalisation in RRB
  follows a sum and becomes part of both summands.
* A 1x1 convolution commutes with bilinear upsampling, whose weights sum to one. The first
  convolution of an offset branch, over ``concat(low, up(high))``, is therefore
  ``W_l*low + up(W_h*high)``, and ``W_h`` works at the coarse size. CAB's two branches share one
  convolution of this kind.
* Upsampling becomes two matrix products, or stays one operator where products are slower; see
  `Upsampling`.
* A 3x3 convolution to few channels becomes a 1x1 convolution to nine times as many channels, one
  per tap, followed by a 3x3 convolution of zeros and ones, which shifts and adds these maps. The
  offsets have two channels, which runtimes pad to 8 or 16; eighteen channels waste less.
* RRB's 1x1 ``unify`` has no activation. Unless it reduces the channels, the 3x3 convolution after
  it is composed with it into one convolution that reads the block's input.
"""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.backbone import ResidualBlock
from alignseg_infer.models.decoder import CAB, CAM, RRB, Aligned, size_of, upsample
from alignseg_infer.models.norm import LEAKY_SLOPE, Norm
from alignseg_infer.ops.plugin_ops import add_upsampled
from alignseg_infer.ops.resampling import upsample_by_matrices
from alignseg_infer.spec.model import Upsampling

_M = TypeVar("_M", bound=nn.Module)

# Dividing by a smaller scale would put factors above 1000 into a convolution, which float16 graphs
# cannot represent well. A norm with a smaller scale stays a separate layer.
SMALLEST_FOLDED_SCALE = 1e-3

_UPSAMPLERS: dict[Upsampling, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    Upsampling.MATRICES: upsample_by_matrices,
    Upsampling.RESIZE: upsample,
}


def rewrite_for_inference(
    model: AlignSeg, upsampling: Upsampling = Upsampling.MATRICES
) -> AlignSeg:
    """Return a copy of `model`, in evaluation mode, with all exact rewrites applied.

    The copy's state dict no longer has the keys of a checkpoint.

    Args:
        model: The network as in its checkpoint.
        upsampling: How the copy upsamples.
    """
    model = without_auxiliary_head(model)
    for block in model.modules():
        if isinstance(block, ResidualBlock):
            _fold_named_pairs(block)
    _fold_named_pairs(model)
    for name, block in list(model.named_children()):
        if isinstance(block, RRB) and FoldedRRB.can_fold(block):
            setattr(model, name, FoldedRRB(block))
        elif isinstance(block, CAM):
            setattr(model, name, SplitCAM(block, upsampling))
        elif isinstance(block, CAB):
            setattr(model, name, SplitCAB(block, upsampling))
    for sequence in list(model.modules()):
        if isinstance(sequence, nn.Sequential):
            _fold_sequence(sequence)
    return model


def without_auxiliary_head(model: AlignSeg) -> AlignSeg:
    """Return a copy of `model`, in evaluation mode, that computes only `logits`."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model.dsn = None
    return model


class FoldedRRB(nn.Module):
    """`decoder.RRB` with its norm of scale s folded: ``act(s*u + s*residual(u) + shift)``.

    ``s*u`` comes from scaling `unify`. The residual's first convolution is composed with the
    unscaled `unify` and reads the block's input. Where that would make it wider, it reads ``s*u``
    instead and divides by s.

    Args:
        block: The block to fold. Its norm must be foldable; see `can_fold`.
    """

    def __init__(self, block: RRB) -> None:
        super().__init__()
        scale, shift = block.norm.affine()  # (C,) each
        column = scale.reshape(-1, 1, 1, 1)  # (C, 1, 1, 1)
        inner = fold_norm(
            _require_type(block.residual[0], nn.Conv2d), _require_type(block.residual[1], Norm)
        )
        self.reads_input = _reads_no_more_than_unify(block)
        if self.reads_input:
            unify = block.unify.weight[..., 0, 0]  # (C, inputs)
            weight = torch.einsum("omyx,mi->oiyx", inner.weight, unify)  # (C/4, inputs, 3, 3)
        else:
            weight = inner.weight / scale.reshape(1, -1, 1, 1)  # (C/4, C, 3, 3)
        self.unify = _conv_from(block.unify.weight * column, None)
        self.inner = _conv_from(weight, inner.bias)
        self.outer = _conv_from(_require_type(block.residual[2], nn.Conv2d).weight * column, shift)

    @staticmethod
    def can_fold(block: RRB) -> bool:
        """Return whether all factors stay small enough for float16."""
        scale, _ = block.norm.affine()
        return _reads_no_more_than_unify(block) or float(scale.abs().min()) >= SMALLEST_FOLDED_SCALE

    def forward(self, x: Tensor) -> Tensor:
        unified = self.unify(x)
        hidden = F.leaky_relu(self.inner(x if self.reads_input else unified), LEAKY_SLOPE)
        return F.leaky_relu(unified + self.outer(hidden), LEAKY_SLOPE)


def _reads_no_more_than_unify(block: RRB) -> bool:
    """Return whether the block's input has at most as many channels as the output of `unify`."""
    return block.unify.in_channels <= block.unify.out_channels


class SplitOffsets(nn.Module):
    """Offset branches over ``concat(low, up(high))``, with their first convolution split.

    Args:
        branches: Branches from `decoder.offset_branch`; their offsets are concatenated.
        upsampling: How ``up`` is computed.

    Attributes:
        fuse: Whether upsampling and sum are one operation of `ops.plugin_ops`. This is for PyTorch
            on a GPU, whose own upsampling is slow with channels last (docs/gpu-results.md).
    """

    def __init__(self, branches: list[nn.Sequential], upsampling: Upsampling) -> None:
        super().__init__()
        self.upsample = _UPSAMPLERS[upsampling]
        self.fuse = False
        first = [
            fold_norm(_require_type(branch[0], nn.Conv2d), _require_type(branch[1], Norm))
            for branch in branches
        ]
        weight = torch.cat([layer.weight for layer in first])  # (branches*C, 2*C, 1, 1)
        channels = weight.shape[1] // 2
        bias = torch.cat([_bias_of(layer) for layer in first])
        self.project_low = _conv_from(weight[:, :channels], bias)
        self.project_high = _conv_from(weight[:, channels:], None)
        last = [_require_type(branch[2], nn.Conv2d) for branch in branches]
        self.offset_taps = _make_tap_convolution(last)
        self.offsets = _make_tap_sum(2 * len(branches), like=weight)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        low, high = self.project_low(low), self.project_high(high)
        # (N, branches*C, H, W)
        hidden = add_upsampled(low, high) if self.fuse else low + self.upsample(high, size_of(low))
        offsets: Tensor = self.offsets(self.offset_taps(F.leaky_relu(hidden, LEAKY_SLOPE)))
        return offsets


class SplitCAB(nn.Module):
    """`decoder.CAB` with split offset branches."""

    def __init__(self, block: CAB, upsampling: Upsampling) -> None:
        super().__init__()
        self.upsample = _UPSAMPLERS[upsampling]
        self.delta_gen = SplitOffsets([block.delta_gen1, block.delta_gen2], upsampling)
        self.sample = block.sample

    def forward(self, low: Tensor, high: Tensor) -> Aligned:
        offsets = self.delta_gen(low, high)  # (N, 4, H, W)
        high_offset, low_offset = offsets[:, :2], offsets[:, 2:]
        if self.sample.fuses:
            aligned = self.sample.aligned_add(high, low, high_offset, low_offset)
        else:
            wide = self.upsample(high, size_of(low))
            aligned = self.sample(wide, high_offset) + self.sample(low, low_offset)
        return Aligned(aligned, (high_offset, low_offset))


class SplitCAM(nn.Module):
    """`decoder.CAM` with a split offset branch."""

    def __init__(self, block: CAM, upsampling: Upsampling) -> None:
        super().__init__()
        self.pool = block.pool
        self.adapt = block.adapt
        self.delta_gen = SplitOffsets([block.delta_gen], upsampling)
        self.sample = block.sample

    def forward(self, x: Tensor) -> Aligned:
        context, local = self.pool(x), self.adapt(x)
        offset = self.delta_gen(local, context)
        return Aligned(self.sample(context, offset) + local, (offset,))


def fold_norm(layer: nn.Conv2d, norm: Norm) -> nn.Conv2d:
    """Return the convolution that computes `layer` followed by `norm` without its activation."""
    scale, shift = norm.affine()  # (outputs,) each
    weight = layer.weight * scale.reshape(-1, 1, 1, 1)  # (outputs, inputs, kernel, kernel)
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return _conv_from(weight, bias, stride=layer.stride[0])


def _make_tap_convolution(layers: list[nn.Conv2d]) -> nn.Conv2d:
    """Return the 1x1 convolution to one map per output channel and 3x3 tap; one group per layer."""
    # (2, C, 3, 3) to (2, 3, 3, C) to (18, C)
    weights = [layer.weight.permute(0, 2, 3, 1).flatten(0, 2) for layer in layers]
    return _conv_from(torch.cat(weights)[..., None, None], None, groups=len(layers))


def _make_tap_sum(outputs: int, like: Tensor) -> nn.Conv2d:
    """Return the 3x3 convolution that shifts and adds the maps of `_make_tap_convolution`.

    Args:
        outputs: Number of output channels.
        like: Determines device and dtype.
    """
    taps = torch.eye(9).to(like).reshape(9, 3, 3)
    weight = torch.einsum("oi,tyx->oityx", torch.eye(outputs).to(like), taps)
    return _conv_from(weight.flatten(1, 2), None)  # (outputs, outputs*9, 3, 3)


def _conv_from(weight: Tensor, bias: Tensor | None, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    outputs, inputs, kernel, _ = weight.shape
    layer = nn.Conv2d(
        inputs * groups, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias is not None
    )
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _bias_of(layer: nn.Conv2d) -> Tensor:
    if layer.bias is None:
        return layer.weight.new_zeros(layer.out_channels)
    return layer.bias


def _activation_of(norm: Norm) -> nn.Module:
    return nn.LeakyReLU(LEAKY_SLOPE) if norm.activation else nn.Identity()


def _fold_named_pairs(block: nn.Module) -> None:
    """Fold bn1, bn2, ... into conv1, conv2, ..."""
    for index in (1, 2, 3):
        layer, norm = getattr(block, f"conv{index}", None), getattr(block, f"bn{index}", None)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, Norm):
            setattr(block, f"conv{index}", fold_norm(layer, norm))
            setattr(block, f"bn{index}", _activation_of(norm))


def _fold_sequence(sequence: nn.Sequential) -> None:
    """Fold each norm into the convolution right before it."""
    for index in range(1, len(sequence)):
        layer, norm = sequence[index - 1], sequence[index]
        if isinstance(layer, nn.Conv2d) and isinstance(norm, Norm):
            sequence[index - 1] = fold_norm(layer, norm)
            sequence[index] = _activation_of(norm)


def _require_type(module: nn.Module, kind: type[_M]) -> _M:
    if not isinstance(module, kind):
        raise TypeError(f"{type(module).__name__} is not {kind.__name__}")
    return module
