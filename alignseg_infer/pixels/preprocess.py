"""From image to network input. This happens in one place and everybody calls it."""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.errors import OptionError, SizeError
from alignseg_infer.pixels.images import Image
from alignseg_infer.spec.model import (
    MAX_INPUT_SIDE,
    MIN_INPUT_SIDE,
    ChannelOrder,
    ExportSpec,
    InputSpec,
)

Size: TypeAlias = tuple[int, int]


def require_input_size(size: Size) -> None:
    """Raises SizeError if the network does not take inputs of `size` (height, width)."""
    if min(size) < MIN_INPUT_SIDE or max(size) > MAX_INPUT_SIDE:
        raise SizeError(
            f"the network input would be {size[0]}x{size[1]} (height x width)",
            f"{MIN_INPUT_SIDE} to {MAX_INPUT_SIDE} pixels per side",
            "another size, tile or scale, such as size=(512, 1024)",
        )


@dataclass(frozen=True)
class SizePolicy:
    """Which network input size an image gets.

    Attributes:
        fixed: Always this (height, width); the image is stretched to it.
        longest_side: Scale so that the longer side has this many pixels, aspect kept.

    With neither, images are taken at their own size.
    """

    fixed: Size | None = None
    longest_side: int | None = None

    def input_size(self, image_size: Size, scale: float = 1.0) -> Size:
        """The network input (height, width) for an image of (height, width), times `scale`.

        Raises:
            SizeError: It is below or above what the network takes.
        """
        height, width = self._chosen_size(image_size)
        size = (round(height * scale), round(width * scale))
        require_input_size(size)
        return size

    def _chosen_size(self, image_size: Size) -> Size:
        if self.fixed is not None:
            return self.fixed
        if self.longest_side is None:
            return image_size
        scale = self.longest_side / max(image_size)
        return round(image_size[0] * scale), round(image_size[1] * scale)


def size_policy(
    size: str | int | Size | None, export: ExportSpec | None, name: str = "size"
) -> SizePolicy:
    """The policy that `size` asks for, which a fixed-size model may restrict.

    Args:
        size: ``None`` for the model's own size if it is fixed, else the image's; ``"native"`` for
            the image's size; (height, width); or one number, the longest side.
        export: The model's export facts, if it was exported.
        name: Of the parameter, for messages.

    Raises:
        OptionError: `size` is none of these.
        SizeError: The model was exported for another fixed size.
    """
    fixed = export.size if export else None
    if size is None:
        return SizePolicy(fixed=fixed)
    policy = _policy_of(size, name)
    if fixed is not None and policy.fixed != fixed:
        raise SizeError(
            f"{name}={size!r} was asked for, but the model was exported for {fixed[0]}x{fixed[1]}",
            f"{name}={fixed}, or none",
            f"leave {name}= out, or export the checkpoint for any size",
        )
    return policy


def _policy_of(size: object, name: str) -> SizePolicy:
    if size == "native":
        return SizePolicy()
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return SizePolicy(longest_side=size)
    if isinstance(size, tuple) and len(size) == 2:
        height, width = size
        if isinstance(height, int) and isinstance(width, int) and min(size) > 0:
            return SizePolicy(fixed=(height, width))
    raise OptionError(
        f"{name}={size!r}",
        '"native", (height, width), or the longest side as one number',
        f"{name}=(512, 1024)",
    )


def preprocess(image: Image, size: Size, spec: InputSpec) -> NDArray[np.float32]:
    """The network input for one image.

    Resizes with OpenCV's INTER_LINEAR when sizes differ, brings channels into the spec's order,
    and computes ``(pixel - mean) / std``.

    Args:
        image: (H, W, 3) uint8, BGR, 0..255.
        size: Network input (height, width).
        spec: Channel order, mean and std.

    Returns:
        (1, 3, height, width) float32, C-contiguous.
    """
    if image.shape[:2] != size:
        resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        image = np.asarray(resized, np.uint8)
    planes = cv2.split(image)
    if spec.channel_order is ChannelOrder.RGB:
        planes = planes[::-1]
    tensor = np.empty((1, 3, *size), np.float32)
    for channel, plane in enumerate(planes):
        mean, std = np.float32(spec.mean[channel]), np.float32(spec.std[channel])
        np.subtract(plane, mean, out=tensor[0, channel], dtype=np.float32)
        if std != 1:
            tensor[0, channel] /= std
    return tensor
