"""What a segmented video is to look like."""

from dataclasses import dataclass

from alignseg_infer.errors import OptionError

BEST_CRF, WORST_CRF = 0, 51


@dataclass(frozen=True)
class VideoOptions:
    """How to segment and draw a video.

    Attributes:
        overlay: Opacity of the classes' colours over the frame, 0..1.
        legend: Whether class names and colours stand below.
        side_by_side: Whether the frame itself stands to the left.
        smoothing: Weight of earlier frames' logits, 0 (none) to below 1.
        crf: Quality of the H.264 encoder, 0 (lossless, largest) to 51.
        audio: Whether the audio of a file is copied.
        frames: Ends after so many; None for all.
        seconds: Ends so many seconds after the first frame; None for all.

    Raises:
        OptionError: One has a value that makes no sense.
    """

    overlay: float = 0.5
    legend: bool = False
    side_by_side: bool = False
    smoothing: float = 0.0
    crf: int = 20
    audio: bool = True
    frames: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.overlay <= 1, "overlay", self.overlay, "0 to 1", "0.5")
        _require(0 <= self.smoothing < 1, "smoothing", self.smoothing, "0 to below 1", "0.5")
        _require(
            BEST_CRF <= self.crf <= WORST_CRF, "crf", self.crf, f"{BEST_CRF} to {WORST_CRF}", "20"
        )
        _require(self.frames is None or self.frames > 0, "frames", self.frames, "1 or more", "250")
        _require(
            self.seconds is None or self.seconds > 0,
            "seconds",
            self.seconds,
            "more than 0",
            "10",
        )


def _require(holds: bool, name: str, value: object, expected: str, example: str) -> None:
    if not holds:
        raise OptionError(f"{name}={value}", expected, f"{name}={example}, or --{name} {example}")
