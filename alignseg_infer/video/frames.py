"""What all sources of frames have in common."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from alignseg_infer.arrays import Image, Size

DEFAULT_RATE = Fraction(25)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Attributes:
        image: (H, W, 3) uint8 BGR, upright.
        time: Seconds since the video began, a multiple of the source's time base; strictly
            increasing.
        duration: Seconds it is shown; None where that is not known.
    """

    image: Image = field(repr=False)
    time: Fraction
    duration: Fraction | None = None


@dataclass(frozen=True)
class StreamFacts:
    """What is known of a source before its first frame.

    Attributes:
        size: (height, width) of its upright frames.
        time_base: Seconds; all times of frames are multiples of it.
        rate: Frames per second, on average; None where that is not known.
        frames: How many there will be, as its header says; None where that is not known.
        live: Whether frames come whether or not somebody takes them.
        pixel_aspect: Width over height of a pixel.
    """

    size: Size
    time_base: Fraction
    rate: Fraction | None = None
    frames: int | None = None
    live: bool = False
    pixel_aspect: Fraction = Fraction(1)


class FrameSource(Protocol):
    """Gives frames, once.

    Attributes:
        name: For people.
        facts: Size, rate and more.
        damaged: Frames that could not be decoded so far, and were left out.
        reconnects: How often a live source was lost and came back.
        notes: What else was unusual, in sentences.
    """

    name: str
    facts: StreamFacts
    damaged: int
    reconnects: int
    notes: list[str]

    def __iter__(self) -> Iterator[Frame]:
        """The frames, in the order they are shown.

        Raises:
            VideoError: It cannot be read any further.
        """
        ...

    def stop(self) -> None:
        """Ends the iteration soon; may be called from another thread."""
        ...

    def close(self) -> None:
        """Frees what it holds, once nobody iterates."""
        ...
