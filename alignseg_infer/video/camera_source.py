"""Live frames from a webcam or a network stream, which may go away and come back."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Protocol

import cv2
import numpy as np

from alignseg_infer.arrays import Image
from alignseg_infer.errors import VideoError
from alignseg_infer.pixels.images import image_from_array
from alignseg_infer.video.frames import Frame, StreamFacts

logger = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 90_000)  # as in RTP; a live frame gets the time at which it arrived
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before an attempt; doubled after each one
ATTEMPTS = 8  # in a row; they take about a minute
TIMEOUT_MS = 4_000  # for opening, and for reading
LONGEST_CALL = 10.0  # seconds that `close` waits for such a call
FASTEST = 1000  # frames per second; higher rates that a camera claims are not believed


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used here."""

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Return whether frames can be read."""
        ...

    def read(self) -> tuple[bool, Any]:
        """Return whether there was a frame, and the frame."""
        ...

    def get(self, prop: int, /) -> float:
        """Return the value of a property."""
        ...

    def release(self) -> None:
        """Close the camera or stream."""
        ...


class CameraSource:
    """A `FrameSource` that gives live frames as they arrive.

    When no more frames arrive, the camera is opened again after half a second, one second, and so
    on up to half a minute.

    Args:
        name: A name to show to people.
        opener: Opens the camera or stream.
        attempts: How many attempts to open it again may fail in a row before it is an error.
        first_wait: Seconds before the first of these attempts.

    Raises:
        VideoError: The camera cannot be opened, or gives no frame.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], Capture],
        *,
        attempts: int = ATTEMPTS,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        self.name = name
        self.damaged = 0
        self.reconnects = 0
        self.notes: list[str] = []
        self._opener, self._attempts, self._first_wait = opener, attempts, first_wait
        self._stopped = threading.Event()
        self._using = threading.Lock()
        self._capture = opener()
        first = self._read()
        if first is None:
            self.close()
            raise VideoError(
                f"{name} cannot be opened, or gives no frame",
                "a camera that is connected and not in use, or the address of a running stream",
                f"ffplay {name}" if "://" in name else "ls /dev/video*, and close what uses it",
            )
        self._first = first
        said = self._capture.get(cv2.CAP_PROP_FPS)
        rate = Fraction(said).limit_denominator(1001) if 1 <= said <= FASTEST else None
        size = (first.shape[0], first.shape[1])
        self.facts = StreamFacts(size=size, time_base=TIME_BASE, rate=rate, live=True)

    def __iter__(self) -> Iterator[Frame]:
        begin, last = time.monotonic(), Fraction(-1)
        image: Image | None = self._first
        while not self._stopped.is_set():
            if image is None:
                image = self._reconnect()
                continue
            arrived = round((time.monotonic() - begin) / TIME_BASE) * TIME_BASE
            last = max(arrived, last + TIME_BASE)
            yield Frame(image, last)
            image = self._read()

    def stop(self) -> None:
        """End the iteration at the next frame, or at once if it is waiting to reconnect."""
        self._stopped.set()

    def close(self) -> None:
        """Release the camera, unless it hangs in a call: releasing it then would crash."""
        if self._using.acquire(timeout=LONGEST_CALL):
            self._capture.release()
            self._using.release()

    def _read(self) -> Image | None:
        with self._using:
            if not self._capture.isOpened():
                return None
            done, pixels = self._capture.read()
        return image_from_array(np.asarray(pixels)) if done and pixels is not None else None

    def _reconnect(self) -> Image | None:
        """Open the camera again and return its first frame; None if told to stop meanwhile."""
        wait = self._first_wait
        for attempt in range(1, self._attempts + 1):
            logger.warning(
                "%s gives no frame; trying again in %.1f s (attempt %d)", self.name, wait, attempt
            )
            if self._stopped.wait(wait):
                return None
            with self._using:
                self._capture.release()
                self._capture = self._opener()
            image = self._read()
            if image is not None:
                self.reconnects += 1
                return image
            wait = min(2 * wait, LONGEST_WAIT)
        raise VideoError(
            f"{self.name} no longer gives frames, after {self._attempts} attempts to open it again",
            "a camera or stream that stays connected, or comes back",
            "check the camera, its cable and the network",
        )


def open_webcam(index: int) -> CameraSource:
    """Open the webcam with this index.

    Raises:
        VideoError: There is no such webcam, or it gives no frame.
    """
    return CameraSource(f"webcam {index}", lambda: cv2.VideoCapture(index))


def open_stream(address: str) -> CameraSource:
    """Open a network stream, which OpenCV reads with FFmpeg.

    Raises:
        VideoError: The stream cannot be opened, or gives no frame.
    """
    timeouts = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS),
    ]
    shown = re.sub("(?<=://)[^/@]*@", "", address)  # without user and password
    return CameraSource(shown, lambda: cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts))
