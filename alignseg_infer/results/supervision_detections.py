"""Masks as ``supervision.Detections``; supervision is imported with this module."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Size
from alignseg_infer.errors import MissingDependencyError

try:
    import supervision as sv
except ImportError as error:
    raise MissingDependencyError(
        "to_supervision() needs the package supervision, which is not installed",
        "supervision 0.30 or newer, which does not install its own OpenCV",
        "pip install 'supervision>=0.30'",
    ) from error


def detections_of(
    masks: Sequence[NDArray[np.bool_]],
    labels: Sequence[int],
    names: Sequence[str],
    size: Size,
    confidence: Floats | None,
) -> sv.Detections:
    """Return one detection for each mask; see `Segmentation.to_supervision`.

    Args:
        masks: (H, W) bool each.
        labels: The class of each mask.
        names: Names of all classes, by label.
        size: (H, W) of the image.
        confidence: (H, W) float32 in 0..1, or None.
    """
    stacked = np.array(masks, np.bool_).reshape(-1, *size)  # (N, H, W), even if N is 0
    means = None
    if confidence is not None:
        means = np.array([confidence[mask].mean() for mask in masks], np.float32)
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(stacked).astype(np.float32),
        mask=stacked,
        confidence=means,
        class_id=np.array(labels, np.int64),
        data={"class_name": np.array([names[label] for label in labels])},
    )
