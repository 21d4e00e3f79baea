"""Labels as ``rerun.SegmentationImage``; Rerun is imported with this module."""

import numpy as np

from alignseg_infer.arrays import Labels
from alignseg_infer.datasets.class_tables import IGNORED
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.spec.model import ClassSpec

try:
    import rerun as rr
except ImportError as error:
    raise MissingDependencyError(
        "to_rerun() needs the package rerun-sdk, which is not installed",
        "rerun-sdk 0.20 or newer",
        "pip install 'rerun-sdk>=0.20'",
    ) from error

TRANSPARENT = (0, 0, 0, 0)


def segmentation_image(
    labels: Labels, classes: ClassSpec
) -> tuple[rr.SegmentationImage, rr.AnnotationContext]:
    """Return the labels, and the names and colours of the classes; see `Segmentation.to_rerun`.

    Args:
        labels: (H, W). Those without a class, such as 255, are void and transparent.
        classes: Their names and colours.
    """
    infos = [
        rr.AnnotationInfo(id=label, label=name, color=color)
        for label, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
    ]
    unnamed = {*np.unique(labels[labels >= len(infos)]).tolist()}
    unnamed |= {IGNORED} if len(infos) <= IGNORED else set()
    for label in sorted(unnamed):
        infos.append(rr.AnnotationInfo(id=label, label="void", color=TRANSPARENT))
    return rr.SegmentationImage(labels), rr.AnnotationContext(infos)
