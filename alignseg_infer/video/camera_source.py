"""Live frames of a webcam or a network stream, which may go away and come back."""

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
from alignseg_infer.video.pictures import resized_to

logger = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 90_000)  # as in RTP; live frames have the time they arrived at
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a new attempt; doubled after each
ATTEMPTS = 8  # one after the other; about a minute
TIMEOUT_MS = 4_000  # of opening and of reading
LONGEST_CALL = 10.0  # seconds that `close` waits for one of these
FASTEST = 1000  # frames per second that are believed


class Capture(Protocol):
    """What is used of ``cv2.VideoCapture``."""

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Whether it gives frames."""
        ...

    def read(self) -> tuple[bool, Any]:
        """Whether there was a frame, and the frame."""
        ...

    def get(self, prop: int, /) -> float:
        """A property."""
        ...

    def release(self) -> None:
        """Closes it."""
        ...


class CameraSource:
    """Frames as they arrive, as `FrameSource` has it.

    When no frame comes any more, it is opened again after half a second, a second, and so on up to
    half a minute; frames that come back with another size are resized to the first one's.

    Args:
        name: For people.
        opener: Opens it.
        attempts: Ends with an error after so many that failed one after the other.
        first_wait: Seconds before the first of them.

    Raises:
        VideoError: It cannot be opened, or gives no frame.
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
                "a camera that is there and free, or the address of a stream that runs",
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
                image = self._reconnected()
                continue
            arrived = round((time.monotonic() - begin) / TIME_BASE) * TIME_BASE
            last = max(arrived, last + TIME_BASE)
            yield Frame(resized_to(image, self.facts.size), last)
            image = self._read()

    def stop(self) -> None:
        """Ends the iteration at the next frame, or while it waits to connect again."""
        self._stopped.set()

    def close(self) -> None:
        """Lets go of the camera, unless it hangs in a call: to free it there would crash."""
        if self._using.acquire(timeout=LONGEST_CALL):
            self._capture.release()
            self._using.release()

    def _read(self) -> Image | None:
        with self._using:
            if not self._capture.isOpened():
                return None
            done, pixels = self._capture.read()
        return image_from_array(np.asarray(pixels)) if done and pixels is not None else None

    def _reconnected(self) -> Image | None:
        """The first frame after a new attempt succeeded; None if it was told to stop."""
        wait = self._first_wait
        for attempt in range(1, self._attempts + 1):
            logger.warning("%s gives no frame; attempt %d in %.1f s", self.name, attempt, wait)
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
            f"{self.name} gives no frame any more, after {self._attempts} attempts",
            "a camera or stream that stays, or comes back",
            "look at the camera, its cable and the network",
        )


def webcam_source(index: int) -> CameraSource:
    """The webcam number `index`.

    Raises:
        VideoError: It is not there, or gives no frame.
    """
    return CameraSource(f"webcam {index}", lambda: cv2.VideoCapture(index))


def stream_source(address: str) -> CameraSource:
    """A network stream, read by OpenCV's FFmpeg.

    Raises:
        VideoError: It cannot be opened, or gives no frame.
    """
    timeouts = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS),
    ]
    shown = re.sub("(?<=://)[^/@]*@", "", address)  # without user and password
    return CameraSource(shown, lambda: cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts))
