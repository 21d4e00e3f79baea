"""Frames of animated WebP files, which FFmpeg does not decode."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from alignseg_infer.errors import MissingDependencyError, VideoError
from alignseg_infer.packages import OPENCV, installed_of
from alignseg_infer.pixels.encoded import MAX_PIXELS, require_pixels
from alignseg_infer.pixels.header import size_of
from alignseg_infer.pixels.images import image_from_array
from alignseg_infer.video.frames import Frame, StreamFacts

TIME_BASE = Fraction(1, 1000)  # of the format
FRAMES_AT_ONCE = 32  # in memory; OpenCV decodes from the beginning for each call
HEAD_BYTES = 64  # hold the size
ANIMATED = 0x02  # bit of the flags in the VP8X chunk


def is_animated_webp(path: Path) -> bool:
    """Return whether the file is a WebP with several frames."""
    try:
        if not path.is_file():  # what is read from a pipe is gone
            return False
        with path.open("rb") as file:
            head = file.read(21)
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return False
    if len(head) < 21:
        return False
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & ANIMATED)


class WebpSource:
    """A `FrameSource` that reads an animated WebP file once, however often it should be repeated.

    Args:
        path: The file.
        max_pixels: The largest number of pixels of a frame.

    Raises:
        ImageError: The frames have more pixels.
        VideoError: The file cannot be decoded.
        MissingDependencyError: OpenCV is too old to decode it.
    """

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.name = str(path)
        self.damaged = 0
        self.reconnects = 0
        self.notes: list[str] = []
        self._path = path
        self._stopped = False
        if not hasattr(cv2, "imreadanimation"):
            raise MissingDependencyError(
                f"OpenCV {cv2.__version__} cannot read {path}, an animated WebP file",
                "OpenCV 4.11 or newer",
                f"pip install -U {(installed_of(OPENCV) or [OPENCV.default])[0]}, or make a GIF, "
                "APNG or AVIF file of it",
            )
        with path.open("rb") as file:
            size = size_of(file.read(HEAD_BYTES))
        if size is not None:
            require_pixels(size, max_pixels, path)
        first = next(self._read(count=1), None)
        if first is None:
            raise VideoError(
                f"no frame of {path} can be decoded",
                "a complete animated WebP file",
                "copy or download it again",
            )
        height, width = first.image.shape[:2]
        self.facts = StreamFacts(size=(height, width), time_base=TIME_BASE)

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._read():
            if self._stopped:
                return
            yield frame

    def stop(self) -> None:
        """End the iteration after the current frame."""
        self._stopped = True

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _read(self, count: int = FRAMES_AT_ONCE) -> Iterator[Frame]:
        begin, time = 0, Fraction(0)
        while True:
            done, animation = self._decode(begin, count)
            for pixels, shown in zip(animation.frames, animation.durations, strict=True):
                duration = max(1, int(shown)) * TIME_BASE
                yield Frame(image_from_array(np.asarray(pixels)), time, duration)
                time += duration
            begin += len(animation.frames)
            if not done or len(animation.frames) < count:
                return

    def _decode(self, begin: int, count: int) -> tuple[bool, Any]:
        return cv2.imreadanimation(str(self._path), start=begin, count=count)
