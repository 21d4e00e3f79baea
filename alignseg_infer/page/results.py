"""The latest results of the page, each under a name that cannot be guessed."""

import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from alignseg_infer.arrays import Image
from alignseg_infer.offsets.displacement import ImageOffsets
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.results.segmentation import Segmentation

MOST_BYTES = 1 << 30  # of all results together, of which the newest is kept in any case
MOST_RESULTS = 64


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that was segmented.

    Attributes:
        result: The labels, without the confidence, which takes four bytes per pixel.
        sure: (H, W) uint8, the confidence as 0..255; None if the model returns labels.
        model: The name of the model that segmented it.
        find_offsets: Runs the network once more, for its offsets.
    """

    result: Segmentation
    sure: Image | None
    model: str
    find_offsets: Callable[[Image], ImageOffsets]
    _computing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        sure = 0 if self.sure is None else self.sure.nbytes
        return self.result.image.nbytes + self.result.labels.nbytes + sure

    @cached_property
    def _offsets(self) -> ImageOffsets:
        return self.find_offsets(self.result.image)

    def offsets(self) -> ImageOffsets:
        """Return where the network's offsets point; it runs once more at the first call.

        Raises:
            AlignSegError: As `offsets_of_image` does.
        """
        with self._computing:
            return self._offsets

    def pixels_png(self) -> bytes:
        """Return a PNG of three channels: label, label / 256, and confidence as 0..255."""
        labels = self.result.labels
        sure = np.zeros(labels.shape, np.uint8) if self.sure is None else self.sure
        high = (labels >> 8).astype(np.uint8) if labels.itemsize > 1 else np.zeros_like(sure)
        return encode_image(np.dstack((sure, high, labels.astype(np.uint8))), ".png")

    def facts(self) -> dict[str, Any]:
        """Return what the page shows in words, as JSON values."""
        summary, classes = self.result.to_dict(), self.result.classes
        shares = self.result.class_share()
        table = zip(classes.names, classes.colors, strict=True)
        return {
            "model": self.model,
            "sure": self.sure is not None,
            "classes": [
                {"name": name, "color": color, "share": shares.get(name, 0)}
                for name, color in table
            ],
            **{key: summary[key] for key in ("width", "height", "input_size", "backend")},
            "times": summary["times_ms"],
        }

    def forget(self) -> None:
        """Do nothing: it is in memory only."""


@dataclass(frozen=True)
class Clip:
    """A video that was segmented; it lies in a folder of its own."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return self.path.stat().st_size

    def forget(self) -> None:
        """Remove the file."""
        shutil.rmtree(self.path.parent, ignore_errors=True)


Item: TypeAlias = Picture | Clip


class Results:
    """Keeps the latest results, and forgets the oldest if there are too many or too large ones."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, item: Item) -> str:
        """Keep a result, and return the name under which it can be found."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._items[name] = item
            while len(self._items) > 1 and self._is_too_much():
                self._items.popitem(last=False)[1].forget()
        return name

    def find(self, name: str) -> Item | None:
        """Return the result with this name; None if it is no longer kept."""
        with self._lock:
            return self._items.get(name)

    def _is_too_much(self) -> bool:
        sizes = sum(item.size for item in self._items.values())
        return sizes > MOST_BYTES or len(self._items) > MOST_RESULTS
