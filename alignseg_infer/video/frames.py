"""What all sources of frames have in common: frames, facts and the protocol."""

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
        image: (H, W, 3) uint8 BGR, upright. Its size may differ from that of the frame before. A
            source may give the same array again with the next frame: whoever keeps a frame copies
            it, as `segment_video` does.
        time: Seconds since the video began, a multiple of the source's time base; strictly
            increasing.
        duration: Seconds for which it is shown; None if unknown.
    """

    image: Image = field(repr=False)
    time: Fraction
    duration: Fraction | None = None


@dataclass(frozen=True)
class StreamFacts:
    """What is known about a source before its first frame.

    Attributes:
        size: (height, width) of the first frame, upright.
        time_base: Seconds. The times of all frames are multiples of it.
        rate: Average number of frames per second; None if unknown.
        frames: How many frames there will be, according to the header; None if unknown.
        live: Whether frames keep arriving even if nobody takes them.
        pixel_aspect: Width of a pixel divided by its height.
    """

    size: Size
    time_base: Fraction
    rate: Fraction | None = None
    frames: int | None = None
    live: bool = False
    pixel_aspect: Fraction = Fraction(1)


class SizeChanges:
    """Counts how often the frames of a source change their size."""

    def __init__(self) -> None:
        self._count = 0
        self._last: Size | None = None
        self._first_change = ""

    def see(self, frame: Frame) -> None:
        """Take note of the next frame."""
        size = (frame.image.shape[0], frame.image.shape[1])
        last, self._last = self._last or size, size
        if size == last:
            return
        self._count += 1
        if self._count == 1:
            sizes = f"{last[0]}x{last[1]} to {size[0]}x{size[1]} (height x width)"
            self._first_change = f"from {sizes} at {float(frame.time):.2f} s"

    @property
    def notes(self) -> list[str]:
        """A sentence that says when the size changed, if it did."""
        if not self._count:
            return []
        times = f"{self._count} times, first " if self._count > 1 else ""
        return [
            f"the frame size changed {times}{self._first_change}; each frame was segmented as it "
            "is, and fitted into the first size with black bars"
        ]


class FrameSource(Protocol):
    """Something that can be iterated over once, for its frames.

    Attributes:
        name: A name to show to people.
        facts: Size, rate and more.
        damaged: How many frames so far could not be decoded and were left out.
        reconnects: How often a live source was lost and found again.
        notes: Sentences about anything else that was unusual.
    """

    name: str
    facts: StreamFacts
    damaged: int
    reconnects: int
    notes: list[str]

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in the order in which they are shown.

        Raises:
            VideoError: The source cannot be read any further.
        """
        ...

    def stop(self) -> None:
        """End the iteration soon; may be called from another thread."""
        ...

    def close(self) -> None:
        """Free what the source holds, once nobody iterates over it."""
        ...
