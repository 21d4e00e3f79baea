"""Options for segmenting and drawing a video."""

import numbers
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeGuard

from alignseg_infer.errors import OptionError

BEST_CRF, WORST_CRF = 0, 51
MOST_SECONDS = 1e9


@dataclass(frozen=True)
class VideoOptions:
    """How to segment and draw a video.

    Attributes:
        opacity: Opacity of the classes' colours over the frame, 0..1.
        outline: Whether to draw a white line where classes meet.
        legend: Whether to show a legend below the frame, with the share of each class. Classes that
            are not in the frame are pale.
        side_by_side: Whether to show the original frame on the left.
        smoothing: Weight of the logits of earlier frames, from 0 (none) to below 1.
        crf: Quality setting of the H.264 encoder, 0 (lossless, largest) to 51.
        audio: Whether to copy the audio of a file.
        max_frames: Stop after this many frames; None for all.
        seconds: Stop this many seconds after the first frame; None for all.

    Raises:
        OptionError: A value is of the wrong type or out of range.
    """

    opacity: float = 0.5
    outline: bool = False
    legend: bool = False
    side_by_side: bool = False
    smoothing: float = 0.0
    crf: int = 20
    audio: bool = True
    max_frames: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("outline", "legend", "side_by_side", "audio"):
            value = getattr(self, name)
            _require(isinstance(value, bool), name, value, "True or False", "True")
        _require(
            is_number(self.opacity) and 0 <= self.opacity <= 1,
            *("opacity", self.opacity, "0 to 1", "0.5"),
        )
        _require(
            is_number(self.smoothing) and 0 <= self.smoothing < 1,
            *("smoothing", self.smoothing, "0 to below 1", "0.5"),
        )
        _require(
            _is_whole(self.crf) and BEST_CRF <= self.crf <= WORST_CRF,
            *("crf", self.crf, f"a whole number, {BEST_CRF} to {WORST_CRF}", "20"),
        )
        _require(
            self.max_frames is None or (_is_whole(self.max_frames) and self.max_frames > 0),
            *("max_frames", self.max_frames, "a whole number, 1 or more", "250"),
        )
        require_seconds(self.seconds)


def require_seconds(seconds: object) -> None:
    """Raise OptionError unless `seconds` is None or a usable length.

    Raises:
        OptionError: It is not a number above 0 and up to `MOST_SECONDS`.
    """
    _require(
        seconds is None or (is_number(seconds) and 0 < seconds <= MOST_SECONDS),
        *("seconds", seconds, "more than 0 and at most 1e9; None for all", "10"),
    )


def exact_seconds(seconds: float | Fraction) -> Fraction:
    """Return the length that was meant: 2/5 for 0.4, which as a float is a little more."""
    return Fraction(seconds).limit_denominator(1_000_000)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether `value` is a real number, numpy's included, and not a bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _require(holds: bool, name: str, value: object, expected: str, example: str) -> None:
    if not holds:
        raise OptionError(f"{name}={value!r}", expected, f"{name}={example}")
