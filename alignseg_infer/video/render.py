"""Drawing the frames of the output."""

from collections.abc import Callable

import cv2
import numpy as np

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backend import Backend
from alignseg_infer.drawing.masks import draw_legend
from alignseg_infer.errors import OptionError
from alignseg_infer.offsets.displacement import offsets_of_image
from alignseg_infer.offsets.pictures import color_limit, direction_colors
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.spec.model import ClassSpec
from alignseg_infer.video.options import VideoOptions


class Renderer:
    """Draws results: class colours over the frame, other pictures beside it, a legend below.

    Args:
        classes: Names and colours of the classes.
        options: What to draw.
        view: Makes another picture of a frame, with the same height, to show on the right.
    """

    def __init__(
        self,
        classes: ClassSpec,
        options: VideoOptions,
        view: Callable[[Image], Image] | None = None,
    ) -> None:
        self._classes = classes
        self._options = options
        self._view = view
        self._size: Size | None = None  # of the first frame
        self._view_size: Size | None = None

    def draw(self, result: Segmentation) -> Image:
        """Return the output frame, (height, width, 3) uint8 BGR.

        All output frames have the same size. If a result has another size than the first one, its
        pictures are fitted in with black bars.

        Raises:
            OptionError: The view returns something else than a picture, or changes its size.
        """
        overlay = result.overlay(self._options.opacity, outline=self._options.outline)
        self._size = self._size or (overlay.shape[0], overlay.shape[1])
        pictures = [fit_into(overlay, self._size)]
        if self._options.side_by_side:
            pictures.insert(0, fit_into(result.image, self._size))
        if self._view is not None:
            pictures.append(self._call_view(self._view, result.image, self._size))
        picture = np.hstack(pictures)
        if not self._options.legend:
            return picture
        shares = dict.fromkeys(self._classes.names, 0.0) | result.class_share()
        return np.vstack((picture, draw_legend(self._classes, picture.shape[1], shares)))

    def _call_view(self, view: Callable[[Image], Image], image: Image, first: Size) -> Image:
        fix = "call it with one frame: view(image).shape"
        try:
            seen = view(image)
        except OSError as error:  # otherwise it would look like an error of the output disk
            problem = f"the view of a frame failed: {error}"
            raise OptionError(problem, "a view that returns a picture", fix) from error
        shape, dtype = np.shape(seen), getattr(seen, "dtype", type(seen).__name__)
        height, width = image.shape[0], shape[1] if len(shape) > 1 else 0
        if self._view_size and image.shape[:2] == first:
            width = self._view_size[1]
        expected = (height, width, 3)
        if shape != expected or dtype != np.uint8:
            raise OptionError(
                f"the view of a frame is {dtype} of shape {shape}",
                f"uint8 of shape {expected}, as for every other frame",
                fix,
            )
        self._view_size = self._view_size or (height, width)
        return fit_into(seen, self._view_size)


class OffsetView:
    """Draws where a learned offset field points, with the same colours for all frames.

    The colours are those of `offsets.pictures`. The limit of the first frame is kept, so that a
    colour always means the same length. The network runs once more for each frame.

    Args:
        backend: From `backends.open_backend`, for a model that outputs its offsets.
        field: Which field.
        size: Input size of the network, given as for `Predictor`.
    """

    def __init__(
        self, backend: Backend, field: OffsetField, size: str | int | Size | None = None
    ) -> None:
        self._backend, self._field, self._size = backend, field, size
        self._limit: float | None = None

    def __call__(self, image: Image) -> Image:
        """Return the picture, (H, W, 3) uint8 BGR, with the size of `image`.

        Raises:
            OptionError, ModelError: The model does not output its offsets.
        """
        displacement = offsets_of_image(self._backend, image, self._size).fields[self._field]
        if self._limit is None:
            self._limit = color_limit(displacement)
        colors = direction_colors(displacement.vectors, self._limit)
        return resize_to(colors, (image.shape[0], image.shape[1]))


def resize_to(image: Image, size: Size) -> Image:
    """Resize `image` to `size`, (height, width); return it as it is if it has that size."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def fit_into(image: Image, size: Size) -> Image:
    """Resize `image` as far as it fits into `size`, and fill the rest with black bars.

    Args:
        image: (H, W, 3) uint8 BGR.
        size: (height, width).
    """
    if image.shape[:2] == size:
        return image
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    fitted[top : top + height, left : left + width] = cv2.resize(
        image, (width, height), interpolation=kind
    )
    return fitted
