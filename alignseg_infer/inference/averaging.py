"""Averaging raw logits: over a sliding window, several scales, and the mirrored image.

Of a model that returns probabilities, these are averaged instead.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from alignseg_infer.arrays import Floats, Size, plain_value
from alignseg_infer.backports import StrEnum
from alignseg_infer.choices import choose
from alignseg_infer.errors import OptionError, SizeError
from alignseg_infer.inference.tiling import (
    DEFAULT_OVERLAP,
    DEFAULT_TILE,
    Infer,
    Tiling,
    sliding_logits,
)
from alignseg_infer.pixels.cell_labels import axis_weights
from alignseg_infer.pixels.preprocess import require_input_size
from alignseg_infer.pixels.upsampled_sum import add_upsampled, weighted_lerp
from alignseg_infer.spec.model import (
    MAX_INPUT_SIDE,
    MIN_INPUT_SIDE,
    ChannelOrder,
    ImageInput,
    ModelSpec,
    OutputKind,
)

MAX_SCALE = MAX_INPUT_SIDE // MIN_INPUT_SIDE  # no image fits a larger scale

Prepare: TypeAlias = Callable[[Size], Floats]  # the network input (1, 3, H, W) at a size (H, W)


class Mode(StrEnum):
    """How the network sees an image: ``whole``, or in the tiles of a sliding window (``slide``)."""

    WHOLE = "whole"
    SLIDE = "slide"


@dataclass(frozen=True)
class Averaging:
    """The network outputs whose mean is the logits of an image.

    Attributes:
        classes: C, the number of classes.
        tiling: The sliding window; None if the network sees whole images.
        scales: Factors on the input size.
        flip: Whether to include the mirrored image.
    """

    classes: int
    tiling: Tiling | None
    scales: tuple[float, ...]
    flip: bool

    def mean_logits(
        self, input_sizes: Sequence[Size], size: Size, prepare: Prepare, infer: Infer
    ) -> Floats:
        """Return the mean logits of one image.

        Besides one batch of tiles, memory holds one input (3, H, W) and, with a sliding window, one
        sum (C, H, W), both float32 and at the current scale. Several scales need another sum,
        (C, height, width). Memory does not grow with the number of scales; with the number of
        tiles, only a list of their places grows. An input no larger than one tile is run whole,
        with `flip` as one batch if a batch has room for two.

        Args:
            input_sizes: (H, W) of the input at each scale.
            size: (height, width) of the image.
            prepare: Makes the network input of a size.
            infer: Runs the network.

        Returns:
            (C, height, width) float32 for several scales. For one scale (C, h, w) float32, for the
            caller to upsample to `size` with ``align_corners=True``.
        """
        if len(input_sizes) == 1:
            return self._average_one_scale(prepare(input_sizes[0]), infer)
        total = np.zeros((self.classes, *size), np.float32)
        for input_size in input_sizes:
            logits = self._average_one_scale(prepare(input_size), infer)
            rows = weighted_lerp(axis_weights(logits.shape[1], size[0]), 1 / len(input_sizes))
            columns = weighted_lerp(axis_weights(logits.shape[2], size[1]))
            add_upsampled(total, logits, rows, columns)
        return total

    def _average_one_scale(self, tensor: Floats, infer: Infer) -> Floats:
        if self.tiling and tensor.shape[2:] != self.tiling.tile:  # one tile is run whole below
            return sliding_logits(tensor, self.tiling, infer, classes=self.classes, flip=self.flip)
        if not self.flip:
            return next(infer([tensor]))  # (C, h, w)
        plain, mirrored = infer([tensor, tensor[..., ::-1]])  # each (C, h, w)
        mean: Floats = (plain + mirrored[..., ::-1]) * np.float32(0.5)
        return mean


def averaging_for(
    spec: ModelSpec,
    *,
    mode: str,
    tile: int | Size | None,
    overlap: float,
    scales: Sequence[float],
    flip: bool,
) -> Averaging | None:
    """Return what to average, or None if one output of the network is the result.

    Args:
        spec: The model's facts.
        mode: ``"whole"`` or ``"slide"``.
        tile: Side of a square tile, or (height, width); None for the model's size if it is fixed,
            else 872. Only with ``"slide"``.
        overlap: Share of a tile that the next one covers too. Only with ``"slide"``.
        scales: Factors on the input size.
        flip: Whether to average with the mirrored image.

    Raises:
        OptionError: An argument makes no sense, or does not fit this model.
        SizeError: The network, or this export of it, does not take tiles of this size.
    """
    overlap, scales, flip = map(plain_value, (overlap, scales, flip))
    fixed = spec.export.size if spec.export else None
    chosen = choose_tile(fixed, mode=mode, tile=tile, overlap=overlap, scales=scales, flip=flip)
    tiling = Tiling(chosen, overlap, _padding_of(spec)) if chosen else None
    averaging = Averaging(spec.network.num_classes, tiling, tuple(scales), flip)
    if averaging == Averaging(averaging.classes, None, (1.0,), flip=False):
        return None
    require_logits(spec, "a sliding window, scales or flip were")
    if fixed and not tiling and averaging.scales != (1.0,):
        raise OptionError(
            f"scales={scales!r}, but the model was exported for {fixed[0]}x{fixed[1]}",
            "a model of any size, or a sliding window",
            "mode='slide', or export the checkpoint for any size",
        )
    return averaging


def _padding_of(spec: ModelSpec) -> tuple[float, float, float]:
    """Return what the network's input is padded with: about 0 after normalisation."""
    export = spec.export
    if export is None or export.image is ImageInput.FLOAT32:
        return (0.0, 0.0, 0.0)
    is_rgb = export.image is ImageInput.UINT8_RGB
    same = is_rgb == (spec.input.channel_order is ChannelOrder.RGB)
    first, second, third = spec.input.mean if same else spec.input.reversed().mean
    return (float(round(first)), float(round(second)), float(round(third)))


def choose_tile(
    fixed: Size | None,
    *,
    mode: str,
    tile: int | Size | None,
    overlap: float,
    scales: Sequence[float],
    flip: bool,
) -> Size | None:
    """Check what to average, and return the tile of the sliding window; None without a window.

    Args:
        fixed: The model's size, if it is fixed.
        mode: As in `averaging_for`, like all that follow.
        tile: See there.
        overlap: See there.
        scales: See there.
        flip: See there.

    Raises:
        OptionError: An argument makes no sense.
        SizeError: The network, or this export of it, does not take tiles of this size.
    """
    tile, overlap, scales, flip = map(plain_value, (tile, overlap, scales, flip))
    _require_choices(mode, overlap, scales, flip)
    if mode == Mode.SLIDE:
        return _parse_tile(tile, fixed)
    _require_no_window(tile, overlap)
    return None


def require_logits(spec: ModelSpec, asked: str) -> None:
    """Raise OptionError if the model returns labels; `asked` begins the message."""
    if spec.export and spec.export.output is OutputKind.LABELS:
        raise OptionError(
            f"{asked} asked for, but the model returns labels",
            "a model that was exported to return logits or probabilities",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx --output logits",
        )


def _require_choices(mode: str, overlap: float, scales: Sequence[float], flip: bool) -> None:
    choose(Mode, mode, "mode")
    if not (_is_number(overlap) and 0 <= overlap < 1):
        raise OptionError(f"overlap={overlap!r}", "a share from 0 to below 1", "overlap=1/3")
    is_sequence = isinstance(scales, tuple | list) and len(scales) > 0
    if not (is_sequence and all(_is_number(s) and 0 < s <= MAX_SCALE for s in scales)):
        raise OptionError(
            f"scales={scales!r}",
            f"one or more numbers above 0, at most {MAX_SCALE}",
            "scales=(0.75, 1.0, 1.25)",
        )
    if type(flip) is not bool:
        raise OptionError(f"flip={flip!r}", "True or False", "flip=True")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _require_no_window(tile: int | Size | None, overlap: float) -> None:
    given = f"tile={tile!r}" if tile is not None else f"overlap={overlap!r}"
    if tile is not None or overlap != DEFAULT_OVERLAP:
        raise OptionError(
            f"{given} was given without a sliding window",
            'tile and overlap only with mode="slide"',
            f"mode='slide' with {given}",
        )


def _parse_tile(tile: object, fixed: Size | None) -> Size:
    if tile is None:
        return fixed or (DEFAULT_TILE, DEFAULT_TILE)
    height, width = tile if isinstance(tile, tuple) and len(tile) == 2 else (tile, tile)
    if type(height) is not int or type(width) is not int:
        raise OptionError(f"tile={tile!r}", "one number or (height, width)", "tile=872")
    size = (height, width)
    if fixed is not None and size != fixed:
        raise SizeError(
            f"tile={tile!r} was asked for, but the model was exported for {fixed[0]}x{fixed[1]}",
            f"tile={fixed}, or none",
            "leave tile= out, or export the checkpoint for any size",
        )
    require_input_size(size)
    return size
