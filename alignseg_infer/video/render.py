"""What a frame of the output looks like."""

from collections.abc import Callable

import numpy as np

from alignseg_infer.backends import Backend
from alignseg_infer.drawing.masks import legend
from alignseg_infer.errors import OptionError
from alignseg_infer.offsets.displacement import offsets_of_image
from alignseg_infer.offsets.pictures import color_limit, direction_colors
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.images import Image
from alignseg_infer.pixels.preprocess import Size
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.spec.model import ClassSpec
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.pictures import resized_to


class Renderer:
    """Draws results: colours over the frame, others beside it, a legend below.

    Args:
        classes: Names and colours.
        options: What is wanted.
        view: Makes another picture of a frame, of the frame's size, for the right side.
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
        self._legend: Image | None = None
        self._view_shape: tuple[int, ...] | None = None

    def picture(self, result: Segmentation) -> Image:
        """(height, width, 3) uint8 BGR; the size depends on the result's only.

        Raises:
            OptionError: The view makes no picture, or one of another size than before.
        """
        pictures = [result.overlay(self._options.opacity)]
        if self._options.side_by_side:
            pictures.insert(0, result.image)
        if self._view is not None:
            pictures.append(self._viewed(self._view, result.image))
        picture = np.hstack(pictures)
        if not self._options.legend:
            return picture
        if self._legend is None or self._legend.shape[1] != picture.shape[1]:
            self._legend = legend(self._classes, picture.shape[1])
        return np.vstack((picture, self._legend))

    def _viewed(self, view: Callable[[Image], Image], image: Image) -> Image:
        fix = "call it with one frame: view(image).shape"
        try:
            seen = view(image)
        except OSError as error:  # it would be taken for one of the disk that is written to
            problem = f"the view of a frame failed: {error}"
            raise OptionError(problem, "a view that makes a picture", fix) from error
        shape, dtype = np.shape(seen), getattr(seen, "dtype", type(seen).__name__)
        expected = self._view_shape or (image.shape[0], shape[1] if len(shape) > 1 else 0, 3)
        if shape != expected or dtype != np.uint8:
            raise OptionError(
                f"the view of a frame is {dtype} of shape {shape}",
                f"uint8 of shape {expected}, the same for all frames",
                fix,
            )
        self._view_shape = shape
        return seen


class OffsetView:
    """Draws where a learned offset field points, in colours that all frames share.

    Colours are those of `offset_pictures`; the first frame's limit stays, so that a colour means
    the same length all along. The network runs once more for each frame.

    Args:
        backend: From `backends.open_backend`, of a model that shows its offsets.
        field: Which field.
        size: Network input size, as `Predictor` takes it.
    """

    def __init__(
        self, backend: Backend, field: OffsetField, size: str | int | Size | None = None
    ) -> None:
        self._backend, self._field, self._size = backend, field, size
        self._limit: float | None = None

    def __call__(self, image: Image) -> Image:
        """(H, W, 3) uint8 BGR, of the size of `image`.

        Raises:
            OptionError, ModelError: The model does not show its offsets.
        """
        displacement = offsets_of_image(self._backend, image, self._size).fields[self._field]
        if self._limit is None:
            self._limit = color_limit(displacement)
        size = (image.shape[0], image.shape[1])
        return resized_to(direction_colors(displacement.vectors, self._limit), size)
