"""Masks as ``fiftyone.Segmentation``; FiftyOne is imported with this module."""

import numpy as np

from alignseg_infer.arrays import Labels
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.spec.model import ClassSpec

try:
    import fiftyone as fo
except ImportError as error:
    raise MissingDependencyError(
        "to_fiftyone() needs the package fiftyone, which is not installed",
        "fiftyone 1.0 or newer, in an environment whose OpenCV may be older than 5",
        "pip install 'fiftyone>=1'",
    ) from error


def mask_of(labels: Labels, classes: ClassSpec) -> fo.Segmentation:
    """Return the mask whose values are the labels, counted from 1; see `Segmentation.to_fiftyone`.

    Args:
        labels: (H, W). Labels that are no class, such as 255, become 0.
        classes: Their names.
    """
    count = len(classes.names)
    values = np.where(labels < count, labels.astype(np.uint16) + 1, 0)  # (H, W) uint16
    return fo.Segmentation(mask=values.astype(np.uint8 if count < 256 else np.uint16))


def targets_of(classes: ClassSpec) -> tuple[dict[int, str], fo.ColorScheme]:
    """Return names and colours of the mask's values; see `Segmentation.fiftyone_targets`."""
    colors = [
        {"intTarget": value, "color": f"#{bytes(color).hex()}"}
        for value, color in enumerate(classes.colors, 1)
    ]
    scheme = fo.ColorScheme(color_by="value", default_mask_targets_colors=colors)
    return dict(enumerate(classes.names, 1)), scheme
