"""Frames that are no video: the images of a folder, and a drive that is drawn."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from alignseg_infer.arrays import Image, Size
from alignseg_infer.datasets.image_sets import IMAGE_ENDINGS
from alignseg_infer.demo.streets import Street
from alignseg_infer.errors import ImageError, VideoError
from alignseg_infer.pixels.images import read_image
from alignseg_infer.video.frames import Frame, StreamFacts

STREET_SIZE = (256, 512)  # what the demo model was trained on
STREET_SECONDS = 4.0


class FolderSource:
    """The images of one folder in the order of their names, as `FrameSource` has it.

    Numbers in names count as numbers: ``2.png`` comes before ``10.png``. Images that cannot be
    read are counted and left out, others resized to the first one's size.

    Args:
        folder: The folder; those in it are not searched.
        rate: Images per second.

    Raises:
        VideoError: It holds no image that can be read.
    """

    def __init__(self, folder: Path, rate: Fraction) -> None:
        self.name = str(folder)
        self.damaged = 0
        self.reconnects = 0
        self.notes: list[str] = []
        self._stopped = False
        self._paths = [
            path
            for path in sorted(folder.iterdir(), key=_natural_order)
            if path.suffix.lower() in IMAGE_ENDINGS and path.is_file()
        ]
        first = next(
            (image for path in self._paths if (image := self._read(path)) is not None), None
        )
        if first is None:
            raise VideoError(
                f"{folder} holds {len(self._paths)} images, and none that can be read",
                f"files that end in {', '.join(IMAGE_ENDINGS)}",
                f"ls {folder}",
            )
        self.damaged = 0
        self.facts = StreamFacts(
            size=(first.shape[0], first.shape[1]),
            time_base=1 / rate,
            rate=rate,
            frames=len(self._paths),
        )

    def __iter__(self) -> Iterator[Frame]:
        step = self.facts.time_base
        resized = 0
        for number, path in enumerate(self._paths):
            if self._stopped:
                break
            image = self._read(path)
            if image is not None:
                resized += image.shape[:2] != self.facts.size
                yield Frame(resized_to(image, self.facts.size), number * step, step)
        if resized:
            self.notes.append(f"{resized} images were resized to the first one's size")

    def stop(self) -> None:
        """Ends the iteration after the present image."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, path: Path) -> Image | None:
        try:
            return read_image(path)
        except ImageError:
            self.damaged += 1
            return None


class StreetSource:
    """A drive along a drawn street, as `FrameSource` has it.

    Args:
        seed: Of the street; 0 to 3999 were trained on.
        rate: Frames per second.
        seconds: How long it takes.
    """

    def __init__(self, seed: int, rate: Fraction, seconds: float = STREET_SECONDS) -> None:
        self.name = f"drawn street {seed}"
        self.damaged = 0
        self.reconnects = 0
        self.notes: list[str] = []
        self._street = Street(seed)
        self._stopped = False
        frames = max(1, math.ceil(Fraction(seconds) * rate))
        self.facts = StreamFacts(size=STREET_SIZE, time_base=1 / rate, rate=rate, frames=frames)

    def __iter__(self) -> Iterator[Frame]:
        step = self.facts.time_base
        for number in range(self.facts.frames or 0):
            if self._stopped:
                return
            scene = self._street.scene(float(number * step), self.facts.size)
            yield Frame(scene.image, number * step, step)

    def stop(self) -> None:
        """Ends the iteration after the present frame."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is held."""


def resized_to(image: Image, size: Size) -> Image:
    """`image` at `size`, (height, width); itself if it has it."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split("([0-9]+)", path.name)
    numbers = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbers, path.name
