"""What a frame of the output looks like."""

import numpy as np

from alignseg_infer.images import Image
from alignseg_infer.result import Segmentation
from alignseg_infer.spec import ClassSpec
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.visualize import legend


class Renderer:
    """Draws results: colours over the frame, the frame beside it, a legend below.

    Args:
        classes: Names and colours.
        options: What is wanted.
    """

    def __init__(self, classes: ClassSpec, options: VideoOptions) -> None:
        self._classes = classes
        self._options = options
        self._legend: Image | None = None

    def picture(self, result: Segmentation) -> Image:
        """(height, width, 3) uint8 BGR; the size depends on the result's only."""
        picture = result.overlay(self._options.overlay)
        if self._options.side_by_side:
            picture = np.hstack((result.image, picture))
        if not self._options.legend:
            return picture
        if self._legend is None or self._legend.shape[1] != picture.shape[1]:
            self._legend = legend(self._classes, picture.shape[1])
        return np.vstack((picture, self._legend))
