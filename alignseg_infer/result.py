"""What a segmented image is."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alignseg_infer.errors import OptionError
from alignseg_infer.files import written_atomically
from alignseg_infer.images import Image, encoded_image
from alignseg_infer.postprocess import Floats, Labels
from alignseg_infer.preprocess import Size
from alignseg_infer.spec import ChannelOrder, ClassSpec
from alignseg_infer.visualize import blend, colorize


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


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One segmented image.

    Attributes:
        labels: (H, W) uint8 (uint16 above 256 classes), at the image's own size.
        image: (H, W, 3) uint8 BGR, the image that was segmented.
        classes: Names and colours by label.
        input_size: (height, width) the network saw: of a sliding window, the tile; of several
            scales, the largest.
        backend: What ran the network, e.g. ``onnxruntime (CPUExecutionProvider)``.
        times: Milliseconds per stage.
        confidence: (H, W) float32 in 0..1, probability of the label; None if not asked for.
        probabilities: (C, H, W) float32; None if not asked for.
    """

    labels: Labels
    image: Image = field(repr=False)
    classes: ClassSpec
    input_size: Size
    backend: str
    times: StageTimes
    confidence: Floats | None = None
    probabilities: Floats | None = None

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = list(self.class_share().items())[:3]
        seen = ", ".join(f"{name} {share:.0%}" for name, share in shares)
        return f"Segmentation({height}x{width}: {seen}; {self.times.total:.0f} ms, {self.backend})"

    def color(self, order: str = ChannelOrder.BGR) -> Image:
        """(H, W, 3) uint8, each pixel in its class's colour.

        Args:
            order: ``"bgr"`` (for OpenCV) or ``"rgb"``.

        Raises:
            OptionError: Another order.
        """
        return colorize(self.labels, self.classes, _channel_order(order))

    def overlay(self, alpha: float = 0.5, order: str = ChannelOrder.BGR) -> Image:
        """(H, W, 3) uint8, the colours over the image.

        Args:
            alpha: Opacity of the colours, 0..1.
            order: ``"bgr"`` (for OpenCV) or ``"rgb"``.

        Raises:
            OptionError: `alpha` or `order` cannot be used.
        """
        mixed = blend(self.image, self.color(), alpha)
        if _channel_order(order) is ChannelOrder.RGB:
            return np.ascontiguousarray(mixed[..., ::-1])
        return mixed

    def class_share(self) -> dict[str, float]:
        """Share of the pixels (0..1) by class name, largest first; absent classes are left out."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes.names))
        order = np.argsort(-counts, kind="stable")
        present = [int(label) for label in order if counts[label]]
        return {
            self.classes.names[label]: float(counts[label] / self.labels.size) for label in present
        }

    def save(self, stem: str | Path, alpha: float = 0.5) -> list[Path]:
        """Writes ``STEM_labels.png``, ``STEM_color.png`` and ``STEM_overlay.jpg``.

        The labels PNG has one channel with the label of each pixel (8 or 16 bit).

        Args:
            stem: Path without ending, e.g. ``out/street``; its folder is made if need be.
            alpha: Opacity of the colours in the overlay.

        Returns:
            The paths written.

        Raises:
            OutputError: They cannot be written.
        """
        paths = saved_paths(stem)
        pictures = (self.labels, self.color(), self.overlay(alpha))
        encoded = {
            path: encoded_image(pixels, path.suffix)
            for path, pixels in zip(paths, pictures, strict=True)
        }
        for path, content in encoded.items():
            with written_atomically(path) as temporary:
                temporary.write_bytes(content)
        return paths


def saved_paths(stem: str | Path) -> list[Path]:
    """What `Segmentation.save` writes: labels, colours and overlay.

    Raises:
        OptionError: `stem` names a folder.
    """
    stem, text = Path(stem), str(stem)
    if not stem.name or text.endswith(("/", "\\")):
        raise OptionError(
            f"save({text!r}) names a folder",
            "a path without ending, to which _labels.png and others are added",
            f"save({str(stem / 'street')!r})",
        )
    endings = ("labels.png", "color.png", "overlay.jpg")
    return [stem.with_name(f"{stem.name}_{ending}") for ending in endings]


def _channel_order(order: str) -> ChannelOrder:
    if order not in list(ChannelOrder):
        raise OptionError(f"order={order!r}", '"bgr" or "rgb"', 'order="rgb" for matplotlib')
    return ChannelOrder(order)
