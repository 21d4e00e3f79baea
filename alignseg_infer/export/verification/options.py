"""Options for comparing a model with its reference. Loads no runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignseg_infer.arrays import Image, Size
from alignseg_infer.choices import convert_choices
from alignseg_infer.datasets.image_sets import choose_images, spread_evenly
from alignseg_infer.datasets.labelled import Dataset, LabelledImages, find_labelled_images
from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.pixels.images import read_image

DEFAULT_IMAGES = 8


def require_share(min_agreement: float | None) -> None:
    """Raise OptionError unless `min_agreement` is None or from 0 to 1."""
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise OptionError(
            f"min_agreement={min_agreement:g}",
            "a share of the pixels from 0 to 1",
            "min_agreement=0.95",
        )


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """The images, sizes and device with which a model is compared with its reference.

    Attributes:
        images: A source, as `choose_images` takes it; or BGR images (H, W, 3) uint8. None for the
            images of the dataset, or, without one, for drawn streets, which show gross errors only.
        max_images: Maximum number of images to compare labels on, spread evenly over the source;
            images in memory are all used.
        size: Sizes (height, width) of the network's input, for an ``.onnx`` of any size. One image
            then runs as in a `Predictor` of that size. Engines run at the corners of their profile.
        device: Where the model runs; None for what the model or the runtime implies.
        runtime: What runs an ``.onnx``, as `Predictor` takes it.
        precision: What the runtime computes in, as `Predictor` takes it.
        dataset: Layout of a folder of labelled images, to compare mean IoU as well.
        root: The dataset's folder, or its address.
        split: ``train``, ``val`` or ``test``; None for ``val``. The layout ``folder`` has none.
        max_pixels: The largest number of pixels of an image file.
        min_agreement: Share of pixels that must get the same label, 0..1; None for 0.999 (fp32),
            0.995 (fp16) or 0.98 (int8).

    Raises:
        OptionError: A value cannot be used, or needs another one.
    """

    images: str | Path | Sequence[Image] | None = None
    max_images: int = DEFAULT_IMAGES
    size: tuple[Size, ...] = ()
    device: str | None = None
    runtime: str | None = None
    precision: str | None = None
    dataset: Dataset | None = None
    root: str | Path | None = None
    split: str | None = None
    max_pixels: int = MAX_PIXELS
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        convert_choices(self)
        require_share(self.min_agreement)
        together = self.dataset is not None, self.root is not None
        if any(together) != all(together) or (self.split is not None and not all(together)):
            raise OptionError(
                "only some of dataset=, root= and split= were given",
                "dataset= and root= together, and split= only with both",
                "dataset='folder' root=FOLDER",
            )

    def find_labelled(self) -> LabelledImages | None:
        """Find the labelled images; return None if there is no dataset."""
        if self.dataset is None or self.root is None:
            return None
        return find_labelled_images(self.dataset, self.root, self.split, max_pixels=self.max_pixels)

    def read_images(self, data: LabelledImages | None) -> Sequence[Image] | None:
        """Read the images to compare labels on; None for drawn streets."""
        if isinstance(self.images, str | Path):
            return list(choose_images(self.images, self.max_images, self.max_pixels).read())
        if self.images is None and data is not None:
            chosen = spread_evenly(len(data.pairs), self.max_images)
            return [read_image(data.pairs[index].image, self.max_pixels) for index in chosen]
        return self.images
