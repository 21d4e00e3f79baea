"""The AlignSeg network (arXiv 2003.00872), with the same state dict keys as the authors' code."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from alignseg_infer.models.backbone import BACKBONES, conv, residual_stage
from alignseg_infer.models.decoder import CAB, CAM, RRB
from alignseg_infer.models.norm import Norm
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.spec.model import NetworkSpec, NormKind


class Outputs(NamedTuple):
    """The network's outputs.

    Attributes:
        logits: (N, classes, h, w) at 1/4 of the input size.
        auxiliary: Logits of the auxiliary head, of the same shape; None if the head was dropped.
    """

    logits: Tensor
    auxiliary: Tensor | None


class AlignSeg(nn.Module):
    """Feature-aligned segmentation network.

    ``forward`` takes a normalised image (N, 3, H, W) and returns `Outputs`. Each strided
    convolution turns a side n into ceil(n/2), and the ceil-mode pooling into floor(n/2) + 1, so
    1024 x 2048 gives logits of 257 x 513. Sides do not have to be multiples of 32.

    Args:
        spec: Backbone, widths, class count and conventions.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        layout = BACKBONES[spec.backbone]
        norm, channels, base = spec.norm, spec.decoder_channels, base_channels(spec.width)
        self.conv1 = conv(3, base, 3, stride=2)
        self.bn1 = Norm(base, activation=False, kind=norm)
        self.conv2 = conv(base, base, 3)
        self.bn2 = Norm(base, activation=False, kind=norm)
        self.conv3 = conv(base, 2 * base, 3)
        self.bn3 = Norm(2 * base, activation=False, kind=norm)
        widths = [base * 2**stage * layout.expansion for stage in range(4)]
        self.layer1 = residual_stage(layout, 0, 2 * base, base, norm)
        self.layer2 = residual_stage(layout, 1, widths[0], base, norm)
        self.layer3 = residual_stage(layout, 2, widths[1], base, norm)
        self.layer4 = residual_stage(layout, 3, widths[2], base, norm)
        self.CAM = CAM(widths[3], channels, spec.convention, norm)
        self.RRB5a = RRB(channels, channels, norm)
        self.RRB4a = RRB(widths[3], channels, norm)
        self.RRB3a = RRB(widths[2], channels, norm)
        self.RRB2a = RRB(widths[1], channels, norm)
        self.RRB1a = RRB(widths[0], channels, norm)
        self.CAB5, self.RRB5b = CAB(channels, spec.convention, norm), RRB(channels, channels, norm)
        self.CAB4, self.RRB4b = CAB(channels, spec.convention, norm), RRB(channels, channels, norm)
        self.CAB3, self.RRB3b = CAB(channels, spec.convention, norm), RRB(channels, channels, norm)
        self.CAB2, self.RRB2b = CAB(channels, spec.convention, norm), RRB(channels, channels, norm)
        self.dsn: nn.Module | None = _make_head(channels, spec.num_classes, norm)
        self.head = _make_head(channels, spec.num_classes, norm)

    def forward(self, image: Tensor) -> Outputs:
        return self.forward_with_offsets(image)[0]

    def forward_with_offsets(self, image: Tensor) -> tuple[Outputs, dict[OffsetField, Tensor]]:
        """Return the outputs and the offset fields, (N, 2, h, w) each, dx then dy."""
        x = F.relu(self.bn1(self.conv1(image)))  # (N, 64, H/2, W/2), at width 1.0
        x = F.relu(self.bn2(self.conv2(x)))  # (N, 64, H/2, W/2)
        x = F.relu(self.bn3(self.conv3(x)))  # (N, 128, H/2, W/2)
        x1 = self.layer1(ceil_max_pool(x))  # 1/4 of the input size
        x2 = self.layer2(x1)  # 1/8
        x3 = self.layer3(x2)  # 1/16
        x4 = self.layer4(x3)  # 1/32
        d2, cab2 = self.CAB2(self.RRB1a(x1), self.RRB2a(x2))
        d3, cab3 = self.CAB3(self.RRB2b(d2), self.RRB3a(x3))
        d3 = self.RRB3b(d3)
        d4, cab4 = self.CAB4(d3, self.RRB4a(x4))
        d4 = self.RRB4b(d4)
        context, cam = self.CAM(x4)
        d5, cab5 = self.CAB5(d4, self.RRB5a(context))
        logits = self.head(self.RRB5b(d5))
        offsets = dict(zip(OffsetField, (*cam, *cab5, *cab4, *cab3, *cab2), strict=True))
        return Outputs(logits, None if self.dsn is None else self.dsn(d3)), offsets


def ceil_max_pool(x: Tensor) -> Tensor:
    """Max-pool non-negative values 3x3 with stride 2 and padding 1 in ceil mode.

    Ceil mode is the same as one more row and column of padding at the bottom and right. With this
    padding, the output size floor(n/2) + 1 has no case distinction, which would restrict a dynamic
    export to sizes that are multiples of 4.
    """
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, stride=2, padding=1)


def base_channels(width: float) -> int:
    """Return the channels of the first convolution at width factor `width`: 64 at 1.0."""
    return round(64 * width)


def _make_head(channels: int, num_classes: int, norm: NormKind) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        Norm(channels, activation=True, kind=norm),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, num_classes, 1),
    )
