"""Frames that do not come from a video: images of a folder, and a drawn drive."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from alignseg_infer.arrays import Image
from alignseg_infer.datasets.image_paths import IMAGE_ENDINGS
from alignseg_infer.demo.streets import Street
from alignseg_infer.errors import ImageError, VideoError
from alignseg_infer.files.reading import find_files
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.pixels.images import read_image
from alignseg_infer.video.frames import Frame, StreamFacts
from alignseg_infer.video.options import exact_seconds

STREET_SIZE = (256, 512)  # what the demo model was trained on
STREET_SECONDS = 4.0


class FolderSource:
    """A `FrameSource` that reads the images of one folder in the order of their names.

    Numbers in names are compared as numbers: ``2.png`` comes before ``10.png``. Images that cannot
    be read are counted and left out.

    Args:
        folder: The folder. Its subfolders are not searched.
        rate: Images per second.
        max_pixels: The largest number of pixels of an image; larger ones are left out.

    Raises:
        VideoError: The folder holds no image that can be read.
    """

    def __init__(self, folder: Path, rate: Fraction, max_pixels: int = MAX_PIXELS) -> None:
        self.name = str(folder)
        self._max_pixels = max_pixels
        self.damaged = 0
        self.reconnects = 0
        self.notes: list[str] = []
        self._stopped = False
        paths = find_files(folder, IMAGE_ENDINGS, VideoError, deep=False)
        self._paths = sorted(paths, key=_natural_order)
        self._first_error: ImageError | None = None
        first = next(
            (image for path in self._paths if (image := self._read(path)) is not None), None
        )
        if first is None:
            error = self._first_error
            raise VideoError(
                f"{folder} holds {len(self._paths)} images, of which none can be read"
                + (f"; the first: {error.problem}" if error else ""),
                f"image files that end in {', '.join(IMAGE_ENDINGS)}",
                error.fix if error else f"ls {folder}",
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
        for number, path in enumerate(self._paths):
            if self._stopped:
                break
            image = self._read(path)
            if image is not None:
                yield Frame(image, number * step, step)
        if self._first_error:
            self.notes.append(f"the first image left out: {self._first_error.problem}")

    def stop(self) -> None:
        """End the iteration after the current image."""
        self._stopped = True

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _read(self, path: Path) -> Image | None:
        try:
            return read_image(path, self._max_pixels)
        except ImageError as error:
            self.damaged += 1
            self._first_error = self._first_error or error
            return None


class StreetSource:
    """A `FrameSource` that draws a drive along a street.

    Args:
        seed: Seed of the street. The demo model was trained on 0 to 3999.
        rate: Frames per second.
        seconds: How long the drive takes.
    """

    def __init__(self, seed: int, rate: Fraction, seconds: float = STREET_SECONDS) -> None:
        self.name = f"drawn street {seed}"
        self.damaged = 0
        self.reconnects = 0
        self.notes: list[str] = []
        self._street = Street(seed)
        self._stopped = False
        frames = max(1, math.ceil(exact_seconds(seconds) * rate))
        self.facts = StreamFacts(size=STREET_SIZE, time_base=1 / rate, rate=rate, frames=frames)

    def __iter__(self) -> Iterator[Frame]:
        step = self.facts.time_base
        for number in range(self.facts.frames or 0):
            if self._stopped:
                return
            scene = self._street.scene(float(number * step), self.facts.size)
            yield Frame(scene.image, number * step, step)

    def stop(self) -> None:
        """End the iteration after the current frame."""
        self._stopped = True

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split("([0-9]+)", path.name)
    numbers = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbers, path.name
