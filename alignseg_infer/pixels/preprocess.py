"""From image to network input. All other code calls this module."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size, plain_value
from alignseg_infer.errors import OptionError, SizeError
from alignseg_infer.spec.forms import takes_uint8
from alignseg_infer.spec.model import (
    MAX_INPUT_SIDE,
    MIN_INPUT_SIDE,
    ChannelOrder,
    ExportSpec,
    ImageInput,
    InputSpec,
    ModelSpec,
)


def require_input_size(size: Size) -> None:
    """Raise SizeError unless the network accepts inputs of `size` (height, width)."""
    if min(size) < MIN_INPUT_SIDE or max(size) > MAX_INPUT_SIDE:
        raise SizeError(
            f"the network input would be {size[0]}x{size[1]} (height x width)",
            f"{MIN_INPUT_SIDE} to {MAX_INPUT_SIDE} pixels per side",
            "choose another size, tile or scale, such as size=(512, 1024)",
        )


@dataclass(frozen=True)
class SizePolicy:
    """How the network input size of an image is chosen.

    Attributes:
        fixed: Stretch every image to this (height, width).
        longest_side: Scale images so that the longer side has this many pixels, and keep the
            aspect ratio.

    With neither, images keep their own size.
    """

    fixed: Size | None = None
    longest_side: int | None = None

    def input_size(self, image_size: Size, scale: float = 1.0) -> Size:
        """Return the network input (height, width) for an image of `image_size`, times `scale`.

        Raises:
            SizeError: The result is smaller or larger than the network accepts.
        """
        height, width = self._choose_size(image_size)
        size = (round(height * scale), round(width * scale))
        require_input_size(size)
        return size

    def _choose_size(self, image_size: Size) -> Size:
        if self.fixed is not None:
            return self.fixed
        if self.longest_side is None:
            return image_size
        scale = self.longest_side / max(image_size)
        return round(image_size[0] * scale), round(image_size[1] * scale)


def size_policy(
    size: str | int | Size | None, export: ExportSpec | None, name: str = "size"
) -> SizePolicy:
    """Return the policy that `size` asks for, and check that the model allows it.

    Args:
        size: ``None`` for the model's own size if it is fixed, and the image's size otherwise;
            ``"native"`` for the image's size; (height, width); or one number, the longest side.
        export: The model's export facts, if it was exported.
        name: Of the parameter, for messages.

    Raises:
        OptionError: `size` is none of these.
        SizeError: The model was exported for another fixed size.
    """
    fixed = export.size if export else None
    if size is None:
        return SizePolicy(fixed=fixed)
    policy = _parse_size(plain_value(size), name)
    if fixed is not None and policy.fixed != fixed:
        raise SizeError(
            f"{name}={size!r} was requested, but the model was exported for {fixed[0]}x{fixed[1]}",
            f"{name}=None or {name}={fixed}",
            f"leave {name}= out, or export the checkpoint for any size",
        )
    return policy


def _parse_size(size: object, name: str) -> SizePolicy:
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


def network_input(image: Image, size: Size, spec: ModelSpec) -> NDArray[Any]:
    """Return what a model takes for one image: that of `preprocess`, or the image as uint8.

    Args:
        image: (H, W, 3) uint8, BGR, 0..255.
        size: Network input (height, width).
        spec: The model's facts.

    Returns:
        (1, 3, height, width), float32 and C-contiguous; or, if the graph normalises, uint8 with
        channels in the order that it takes, and in memory as (1, height, width, 3).
    """
    if not takes_uint8(spec):
        return preprocess(image, size, spec.input)
    image = _resize(image, size)
    if spec.export is not None and spec.export.image is ImageInput.UINT8_RGB:
        image = image[..., ::-1]
    return np.ascontiguousarray(image)[np.newaxis].transpose(0, 3, 1, 2)


def _resize(image: Image, size: Size) -> Image:
    if image.shape[:2] == size:
        return image
    resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def preprocess(image: Image, size: Size, spec: InputSpec) -> NDArray[np.float32]:
    """Return the network input for one image.

    The image is resized with OpenCV's INTER_LINEAR if its size differs, its channels are put into
    the spec's order, and ``(pixel - mean) / std`` is computed.

    Args:
        image: (H, W, 3) uint8, BGR, 0..255.
        size: Network input (height, width).
        spec: Channel order, mean and std.

    Returns:
        (1, 3, height, width) float32, C-contiguous.
    """
    planes = cv2.split(_resize(image, size))  # three of (height, width)
    if spec.channel_order is ChannelOrder.RGB:
        planes = planes[::-1]
    tensor = np.empty((1, 3, *size), np.float32)  # (1, 3, height, width)
    for channel, plane in enumerate(planes):
        mean, std = np.float32(spec.mean[channel]), np.float32(spec.std[channel])
        np.subtract(plane, mean, out=tensor[0, channel], dtype=np.float32)
        if std != 1:
            tensor[0, channel] /= std
    return tensor
