"""Deep-stem ResNet without dilation: the AlignSeg encoder."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from alignseg_infer.models.norm import Norm
from alignseg_infer.spec.model import NormKind


class BackboneLayout(NamedTuple):
    """Residual blocks per stage, and whether they are bottlenecks."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def expansion(self) -> int:
        """Output channels of a block per channel of its 3x3 convolution."""
        return 4 if self.bottleneck else 1


BACKBONES = {
    "resnet18": BackboneLayout((2, 2, 2, 2), bottleneck=False),
    "resnet34": BackboneLayout((3, 4, 6, 3), bottleneck=False),
    "resnet50": BackboneLayout((3, 4, 6, 3), bottleneck=True),
    "resnet101": BackboneLayout((3, 4, 23, 3), bottleneck=True),
}


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size, apart from its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class ResidualBlock(nn.Module):
    """A residual block; subclasses define the convolutions of its branch."""

    downsample: nn.Module | None

    def shortcut(self, x: Tensor) -> Tensor:
        """Return what is added to the branch: `x`, projected if the shapes differ."""
        return x if self.downsample is None else self.downsample(x)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions, as in ResNet-18 and ResNet-34."""

    def __init__(self, inputs: int, planes: int, stride: int, norm: NormKind) -> None:
        super().__init__()
        self.conv1 = conv(inputs, planes, 3, stride)
        self.bn1 = Norm(planes, activation=False, kind=norm)
        self.conv2 = conv(planes, planes, 3)
        self.bn2 = Norm(planes, activation=False, kind=norm)
        self.downsample = _make_projection(inputs, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(branch)) + self.shortcut(x))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 (strided) and 1x1 convolutions, as in ResNet-50 and ResNet-101."""

    def __init__(self, inputs: int, planes: int, stride: int, norm: NormKind) -> None:
        super().__init__()
        self.conv1 = conv(inputs, planes, 1)
        self.bn1 = Norm(planes, activation=False, kind=norm)
        self.conv2 = conv(planes, planes, 3, stride)
        self.bn2 = Norm(planes, activation=False, kind=norm)
        self.conv3 = conv(planes, planes * 4, 1)
        self.bn3 = Norm(planes * 4, activation=False, kind=norm)
        self.downsample = _make_projection(inputs, planes * 4, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        return F.relu(self.bn3(self.conv3(branch)) + self.shortcut(x))


def _make_projection(
    inputs: int, outputs: int, stride: int, norm: NormKind
) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(
        conv(inputs, outputs, 1, stride), Norm(outputs, activation=False, kind=norm)
    )


def residual_stage(
    layout: BackboneLayout, stage: int, inputs: int, base: int, norm: NormKind
) -> nn.Sequential:
    """Return stage 0..3 of the backbone. Its first block is strided, except in stage 0.

    Args:
        layout: Which ResNet.
        stage: 0 to 3.
        inputs: Input channels.
        base: Channels of the 3x3 convolutions of stage 0, 64 in a full-width ResNet.
        norm: How normalisation weights are used.
    """
    block = Bottleneck if layout.bottleneck else BasicBlock
    planes = base * 2**stage
    stride = 1 if stage == 0 else 2
    blocks = [block(inputs, planes, stride, norm)]
    for _ in range(layout.blocks[stage] - 1):
        blocks.append(block(planes * layout.expansion, planes, 1, norm))
    return nn.Sequential(*blocks)
