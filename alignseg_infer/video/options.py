"""What a segmented video is to look like."""

import numbers
from dataclasses import dataclass
from typing import TypeGuard

from alignseg_infer.errors import OptionError

BEST_CRF, WORST_CRF = 0, 51
MOST_SECONDS = 1e9


@dataclass(frozen=True)
class VideoOptions:
    """How to segment and draw a video.

    Attributes:
        opacity: Of the classes' colours over the frame, 0..1.
        legend: Whether class names and colours stand below.
        side_by_side: Whether the frame itself stands to the left.
        smoothing: Weight of earlier frames' logits, 0 (none) to below 1.
        crf: Quality of the H.264 encoder, 0 (lossless, largest) to 51.
        audio: Whether the audio of a file is copied.
        max_frames: How many frames to write at most; None for all.
        seconds: From the first frame to the end, at most; None for all.

    Raises:
        OptionError: One has a value that makes no sense.
    """

    opacity: float = 0.5
    legend: bool = False
    side_by_side: bool = False
    smoothing: float = 0.0
    crf: int = 20
    audio: bool = True
    max_frames: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("legend", "side_by_side", "audio"):
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
    """Checks a length in seconds; None is one too.

    Raises:
        OptionError: It is no number, or not between 0 and `MOST_SECONDS`.
    """
    _require(
        seconds is None or (is_number(seconds) and 0 < seconds <= MOST_SECONDS),
        *("seconds", seconds, "more than 0, at most 1e9; none for all", "10"),
    )


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number, also one of numpy's, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _require(holds: bool, name: str, value: object, expected: str, example: str) -> None:
    if not holds:
        raise OptionError(f"{name}={value!r}", expected, f"{name}={example}")
