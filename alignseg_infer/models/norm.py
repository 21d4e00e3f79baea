"""InPlaceABN's normalisation with its activation, written with plain PyTorch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignseg_infer.spec.model import NormKind

EPSILON = 1e-5
LEAKY_SLOPE = 0.01


class Norm(nn.Module):
    """Batch normalisation followed by a leaky ReLU, or by nothing.

    InPlaceABN computes ``act((x - mean)/sqrt(var + eps) * (|weight| + eps) + bias)`` with eps 1e-5
    (mapillary/inplace_abn, ``src/inplace_abn_kernels``). It ignores the sign of the stored weight,
    so folding the layer like an ordinary BatchNorm would flip channels.

    Args:
        channels: Number of channels.
        activation: Whether a leaky ReLU of slope 0.01 follows.
        kind: Whether the weight is used as in InPlaceABN or as in BatchNorm.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, *, activation: bool, kind: NormKind) -> None:
        super().__init__()
        self.activation = activation
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def effective_weight(self) -> Tensor:
        """Return the factor on the normalised value, (channels,)."""
        if self.kind is NormKind.INPLACE_ABN:
            return self.weight.abs() + EPSILON
        return self.weight

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the layer's scale and shift at inference, (channels,) each."""
        scale = self.effective_weight() / torch.sqrt(self.running_var + EPSILON)
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        normalized = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.effective_weight(),
            self.bias,
            training=self.training,
            eps=EPSILON,
        )
        return F.leaky_relu(normalized, LEAKY_SLOPE) if self.activation else normalized
