"""Drawing the frames of the output."""

from collections.abc import Callable

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
from alignseg_infer.video.pictures import resize_to


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
        self._view_shape: tuple[int, ...] | None = None

    def draw(self, result: Segmentation) -> Image:
        """Return the output frame, (height, width, 3) uint8 BGR.

        Its size depends only on the size of the result.

        Raises:
            OptionError: The view returns something else than a picture, or changes its size.
        """
        overlay = result.overlay(self._options.opacity, outline=self._options.outline)
        pictures = [overlay]
        if self._options.side_by_side:
            pictures.insert(0, result.image)
        if self._view is not None:
            pictures.append(self._call_view(self._view, result.image))
        picture = np.hstack(pictures)
        if not self._options.legend:
            return picture
        shares = dict.fromkeys(self._classes.names, 0.0) | result.class_share()
        return np.vstack((picture, draw_legend(self._classes, picture.shape[1], shares)))

    def _call_view(self, view: Callable[[Image], Image], image: Image) -> Image:
        fix = "call it with one frame: view(image).shape"
        try:
            seen = view(image)
        except OSError as error:  # otherwise it would look like an error of the output disk
            problem = f"the view of a frame failed: {error}"
            raise OptionError(problem, "a view that returns a picture", fix) from error
        shape, dtype = np.shape(seen), getattr(seen, "dtype", type(seen).__name__)
        expected = self._view_shape or (image.shape[0], shape[1] if len(shape) > 1 else 0, 3)
        if shape != expected or dtype != np.uint8:
            raise OptionError(
                f"the view of a frame is {dtype} of shape {shape}",
                f"uint8 of shape {expected}, as for every other frame",
                fix,
            )
        self._view_shape = shape
        return seen


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
        size = (image.shape[0], image.shape[1])
        return resize_to(direction_colors(displacement.vectors, self._limit), size)
