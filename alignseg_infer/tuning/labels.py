"""Whether a candidate labels images as the reference does, and whether images can tell that."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignseg_infer.arrays import Image, Labels
from alignseg_infer.errors import DatasetError
from alignseg_infer.predictor import Predictor
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.spec.verification import WORST_IMAGE_FACTOR

FEWEST_IMAGES = 4  # one image may be unusual
LEAST_SIDE = 64  # pixels; smaller images have too few of them to tell 99.9 % from 99 %


@dataclass(frozen=True)
class Agreement:
    """How many pixels get the same label.

    Attributes:
        share: Of all pixels, 0..1.
        worst: In the image with the fewest, 0..1.
    """

    share: float
    worst: float

    def passes(self, bound: float) -> bool:
        """Return whether enough pixels agree, in all images together and in the worst one."""
        return self.share >= bound and self.worst >= 1 - WORST_IMAGE_FACTOR * (1 - bound)


def require_judging(images: Sequence[Image], where: str) -> None:
    """Check that images are enough to judge labels on.

    Raises:
        DatasetError: They are too few, or too small.
    """
    if len(images) < FEWEST_IMAGES:
        raise DatasetError(
            f"{where}: {len(images)} image{'s' if len(images) != 1 else ''}",
            f"at least {FEWEST_IMAGES}, so that one unusual image does not decide",
            f"images=FOLDER with more images, or max_images={FEWEST_IMAGES} or more",
        )
    smallest = min((image.shape[:2] for image in images), key=min)
    if min(smallest) < LEAST_SIDE:
        raise DatasetError(
            f"{where}: the smallest image has {smallest[0]}x{smallest[1]} pixels",
            f"images of at least {LEAST_SIDE}x{LEAST_SIDE} pixels, like those that the model sees",
            "images=FOLDER with larger images",
        )


def require_variety(labels: Sequence[Labels], names: Sequence[str], bound: float) -> None:
    """Check that a model which gives all pixels one label would not pass.

    Args:
        labels: What the reference says, for each image.
        names: Names of the classes.
        bound: The smallest share of equal labels that lets a candidate pass.

    Raises:
        DatasetError: It would.
    """
    counts = sum(np.bincount(each.ravel(), minlength=len(names)) for each in labels)
    most = int(np.argmax(counts))
    share = float(np.max(counts) / np.sum(counts))
    name = names[most] if most < len(names) else "no class"
    if share >= bound:
        raise DatasetError(
            f"the model labels {share:.2%} of all pixels as {name!r}, so that one that says "
            "nothing else would pass",
            f"images of which less than {bound:.1%} is of one class",
            "images=FOLDER with images like those that the model was trained on",
        )


def label_all(predictor: Predictor, images: Sequence[Image]) -> list[Segmentation]:
    """Return the results of all images, in batches as the predictor takes them."""
    return list(predictor(list(images)))


def compare(results: Sequence[Segmentation], reference: Sequence[Labels]) -> Agreement:
    """Return how many pixels get the same label as in the reference."""
    equal = [
        (int(np.count_nonzero(result.labels == labels)), labels.size)
        for result, labels in zip(results, reference, strict=True)
    ]
    total = sum(size for _, size in equal)
    return Agreement(
        share=sum(count for count, _ in equal) / total,
        worst=min(count / size for count, size in equal),
    )
