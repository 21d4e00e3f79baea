"""How long each stage of an image took."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds spent on one image; for a batch, the batch's time divided by its images.

    With a sliding window, scales or flip, each stage is the sum of all its parts.

    Attributes:
        load: Reading and decoding a file; for an array, checking it.
        preprocess: Resizing and normalising.
        infer: The network.
        postprocess: Logits to labels; cutting tiles and averaging too.
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
    """Adds up the milliseconds of each stage of one image."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(("load", "preprocess", "infer", "postprocess"), 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """What passed since the last lap was spent on `stage`."""
        now = time.perf_counter()
        self._spent[stage] += 1e3 * (now - self._last)
        self._last = now

    def times(self) -> StageTimes:
        """All laps so far."""
        return StageTimes(**self._spent)
