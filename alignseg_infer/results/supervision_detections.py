"""A result as ``supervision.Detections``; supervision is loaded with this module."""

from typing import TYPE_CHECKING

import numpy as np

from alignseg_infer.errors import MissingDependencyError

try:
    import supervision as sv
except ImportError as error:
    raise MissingDependencyError(
        "to_supervision() needs the package supervision, which is not installed",
        "supervision 0.30 or newer, which brings no OpenCV of its own",
        "pip install 'supervision>=0.30'",
    ) from error

if TYPE_CHECKING:
    from alignseg_infer.results.segmentation import Segmentation


def detections_of(result: "Segmentation", *, regions: bool, min_area: int) -> sv.Detections:
    """One detection for each class or region; see `Segmentation.to_supervision`."""
    names = result.classes.names
    if regions:
        polygons = result.polygons(min_area=min_area)
        labels = [polygon.label for polygon in polygons]
        masks = [polygon.mask(result.size) for polygon in polygons]
    else:
        counts = result.pixel_counts()
        labels = [names.index(name) for name, count in counts.items() if count >= min_area]
        masks = [result.mask(label) for label in labels]
    stacked = np.array(masks, np.bool_).reshape(-1, *result.size)
    confidence = None
    if result.confidence is not None:
        confidence = np.array([result.confidence[mask].mean() for mask in masks], np.float32)
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(stacked).astype(np.float32),
        mask=stacked,
        confidence=confidence,
        class_id=np.array(labels, np.int64),
        data={"class_name": np.array([names[label] for label in labels])},
    )
