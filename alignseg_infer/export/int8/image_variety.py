"""Says before a calibration whether its images are enough, and different enough."""

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.datasets.image_sets import CalibrationImages

FEWEST = 16
THUMBNAIL = (16, 16)
# Mean difference of two thumbnails, 0..255. Frames of a fixed camera differ by less.
LEAST_DIFFERENCE = 4.0


def describe_lack(images: CalibrationImages) -> str | None:
    """Return what images to calibrate with lack, or None.

    Raises:
        DatasetError: They cannot be read.
    """
    count = len(images.digests)
    different = count_different(images)
    if different >= FEWEST:
        return None
    copies = ""
    if different < count:
        copies = f", since {count - different} of them are nearly the same as others"
    noun = "image" if different == 1 else "images"
    return (
        f"{images.name}: only {different} different {noun} to calibrate with{copies}; about 100 "
        "from all the places and lights that the model will see give ranges that hold for others"
    )


def count_different(images: CalibrationImages) -> int:
    """Count the images that are not nearly the same as an earlier one, up to `FEWEST`."""
    kept: list[NDArray[np.float32]] = []
    for image in images.read():
        small = cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        if all(np.abs(small - other).mean() >= LEAST_DIFFERENCE for other in kept):
            kept.append(small)
        if len(kept) == FEWEST:
            break
    return len(kept)
