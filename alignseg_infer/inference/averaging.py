"""Averaging raw logits: over a sliding window, several scales, and the mirrored image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np

from alignseg_infer.choices import choose
from alignseg_infer.errors import OptionError, SizeError
from alignseg_infer.inference.tiling import (
    DEFAULT_OVERLAP,
    DEFAULT_TILE,
    Infer,
    Tiling,
    sliding_logits,
)
from alignseg_infer.pixels.postprocess import Floats, upsampled_bands
from alignseg_infer.pixels.preprocess import Size, require_input_size
from alignseg_infer.spec.model import MAX_INPUT_SIDE, MIN_INPUT_SIDE, ModelSpec, OutputKind

MAX_SCALE = MAX_INPUT_SIDE // MIN_INPUT_SIDE  # above it no image fits

Prepare: TypeAlias = Callable[[Size], Floats]  # the network input (1, 3, H, W) at a size (H, W)


class Mode(StrEnum):
    """How the network sees an image: ``whole``, or in tiles of a sliding window (``slide``)."""

    WHOLE = "whole"
    SLIDE = "slide"


@dataclass(frozen=True)
class Averaging:
    """What the logits of an image are the mean of.

    Attributes:
        classes: C, the number of classes.
        tiling: The sliding window; None when images are taken whole.
        scales: Factors on the input size.
        flip: Whether the mirrored image takes part too.
    """

    classes: int
    tiling: Tiling | None
    scales: tuple[float, ...]
    flip: bool

    def logits(
        self, input_sizes: Sequence[Size], size: Size, prepare: Prepare, infer: Infer
    ) -> Floats:
        """The mean logits of one image.

        Beside one batch of tiles this holds one input (3, H, W) and, with a sliding window, one sum
        (C, H, W), both float32 and of the scale in hand; with several scales also one sum
        (C, height, width). Nothing grows with the number of scales, nor with that of tiles but a
        list of their places. Inputs of one tile are run whole, with `flip` in one batch if it has
        room for two.

        Args:
            input_sizes: (H, W) of the input at each scale.
            size: (height, width) of the image.
            prepare: Makes the network input of a size.
            infer: Runs the network.

        Returns:
            (C, height, width) float32 for several scales; for one of any size, to be upsampled to
            `size` with ``align_corners=True``.
        """
        if len(input_sizes) == 1:
            return self._at_one_scale(prepare(input_sizes[0]), infer)
        total = np.zeros((self.classes, *size), np.float32)
        for input_size in input_sizes:
            _add_upsampled(total, self._at_one_scale(prepare(input_size), infer))
        total /= len(input_sizes)
        return total

    def _at_one_scale(self, tensor: Floats, infer: Infer) -> Floats:
        if self.tiling and tensor.shape[2:] != self.tiling.tile:  # an image of one tile is whole
            return sliding_logits(tensor, self.tiling, infer, classes=self.classes, flip=self.flip)
        if not self.flip:
            return next(infer([tensor]))
        plain, mirrored = infer([tensor, tensor[..., ::-1]])
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
    """What is to be averaged; None when one output of the network is the result.

    Args:
        spec: The model's facts.
        mode: ``"whole"`` or ``"slide"``.
        tile: Side of a square tile, or (height, width); None for the model's size if it is fixed,
            else 872. Only with ``"slide"``.
        overlap: Share of a tile that the next one covers too. Only with ``"slide"``.
        scales: Factors on the input size.
        flip: Whether to average with the mirrored image.

    Raises:
        OptionError: An argument makes no sense, alone or with this model.
        SizeError: The tile is not one that the network, or this export of it, takes.
    """
    _require_choices(mode, overlap, scales, flip)
    fixed = spec.export.size if spec.export else None
    tiling = None
    if mode == Mode.SLIDE:
        tiling = Tiling(_tile_size(tile, fixed), overlap)
    else:
        _require_no_window(tile, overlap)
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


def require_logits(spec: ModelSpec, asked: str) -> None:
    """Raises OptionError if the model returns labels; `asked` begins the message."""
    if spec.export and spec.export.output is OutputKind.LABELS:
        raise OptionError(
            f"{asked} asked of a model that returns labels",
            "a model that was exported to return logits",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx --output logits",
        )


def _add_upsampled(total: Floats, logits: Floats) -> None:
    for rows, band in upsampled_bands(logits, (total.shape[1], total.shape[2])):
        total[:, rows] += band


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
            'tile and overlap with mode="slide"',
            f"mode='slide' with {given}",
        )


def _tile_size(tile: object, fixed: Size | None) -> Size:
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
