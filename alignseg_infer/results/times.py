"""The time that each stage of an image took."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds spent on one image; for a batch, its time divided by the number of images.

    With a sliding window, several scales or flipping, each stage is the sum of its parts.

    Attributes:
        load: Reading and decoding a file, or checking an array.
        preprocess: Resizing and normalising.
        infer: The network.
        postprocess: Labels from logits, including cutting tiles and averaging.
    """

    load: float
    preprocess: float
    infer: float
    postprocess: float

    @property
    def total(self) -> float:
        """Sum of all stages."""
        return self.load + self.preprocess + self.infer + self.postprocess


class StageClock:
    """A clock that adds up the milliseconds of each stage of one image."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(("load", "preprocess", "infer", "postprocess"), 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        now = time.perf_counter()
        self._spent[stage] += 1e3 * (now - self._last)
        self._last = now

    def times(self) -> StageTimes:
        """Return the times of all laps so far."""
        return StageTimes(**self._spent)
