"""What shows a video while it is segmented, and when its frames are due."""

import time
from fractions import Fraction
from typing import Protocol

from alignseg_infer.arrays import Image
from alignseg_infer.backports import StrEnum


class Show(StrEnum):
    """Where a video is shown."""

    AUTO = "auto"
    WINDOW = "window"
    BROWSER = "browser"


class Display(Protocol):
    """Shows pictures, one after the other. All calls come from one thread."""

    where: str
    """What to tell people about where it is."""

    def show(self, picture: Image, due: Fraction | None) -> bool:
        """Show the next picture.

        Args:
            picture: (H, W, 3) uint8 BGR.
            due: Seconds since the video began, before which it should not be shown; None if it
                should be shown at once.

        Returns:
            Whether to go on: False if someone asked for the end.
        """
        ...

    def close(self) -> None:
        """End the display."""
        ...


class Pace:
    """Tells how long to wait for the time of a frame. The first one is due at once."""

    def __init__(self) -> None:
        self._begin: float | None = None

    def seconds_until(self, due: Fraction | None) -> float:
        """Return the seconds from now on, 0 or more."""
        if due is None:
            return 0.0
        now = time.monotonic()
        if self._begin is None:
            self._begin = now - float(due)
        return max(0.0, self._begin + float(due) - now)
