"""A window of OpenCV that shows a video."""

import time
from fractions import Fraction

import cv2
import numpy as np

from alignseg_infer.arrays import Image
from alignseg_infer.video.display import Pace

TITLE = "alignseg"
END_KEYS = (ord("q"), 27)  # 27 is Escape
LONGEST_LOOK = 0.05  # seconds between two looks at the keys


class Window:
    """A `Display` that is a window. The key q, Escape, or closing it ends the video."""

    where = "a window; q ends it"

    def __init__(self) -> None:
        self._pace = Pace()
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        self._is_sized = False

    def show(self, picture: Image, due: Fraction | None) -> bool:
        """Show the next picture; return whether to go on."""
        wait = self._pace.seconds_until(due)
        until = time.monotonic() + wait
        if not self._is_sized:
            cv2.resizeWindow(TITLE, picture.shape[1], picture.shape[0])
            self._is_sized = True
        while (rest := until - time.monotonic()) > 0:
            if not self._goes_on(min(rest, LONGEST_LOOK)):
                return False
        cv2.imshow(TITLE, picture)
        return self._goes_on(0.001)

    def close(self) -> None:
        """Close the window."""
        cv2.destroyAllWindows()

    def _goes_on(self, seconds: float) -> bool:
        """Let the window work for a moment; return whether nobody closed it or typed q."""
        if cv2.waitKey(max(1, round(1e3 * seconds))) & 0xFF in END_KEYS:
            return False
        return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1


def main() -> None:
    """Open a window on trial."""
    window = Window()
    window.show(np.zeros((8, 8, 3), np.uint8), None)
    window.close()
