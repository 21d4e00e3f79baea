"""Learned offsets as displacements in pixels.

An offset (dx, dy) moves the position at which an output pixel reads its feature. The displacement
is this movement, converted from pixels of the sampled feature (h, w) to pixels of the network input
(input_h, input_w), which the feature covers:

    displacement x = dx * gain * input_w / w        (for y, swap the letters)

The gain is the number of feature pixels in one unit of dx. It depends on the convention, for a
field of (H, W):

==================== ==================== ==============================================
convention           gain along x         displacement x
==================== ==================== ==============================================
``release-2021-12``  ``1/2``              ``dx * input_w / (2*w)``
``release-2021-05``  ``w/(2*h)``          ``dx * input_w / (2*h)``: swapped divisors
``standard``         ``(w-1)/(W-1)``      ``dx * input_w/w * (w-1)/(W-1)``
==================== ==================== ==============================================

The fields of CAB sample features of their own size, w = W, at stride input_w / W, about 4. Worked
number: an input 512 pixels wide has W = 129. There, dx = 2 moves by 2 * 1/2 * 512/129 = 3.97 pixels
in ``release-2021-12``, and by 2 * 512/129 = 7.94 pixels in ``standard``.

The field of CAM samples the 3 x 3 context map, w = 3. Each of its values averages about a third of
the image's width and height, so a displacement of input_w / 3 moves by one value. For the same
input, the field has W = 17, and dx = 2 moves by 1 value, 170.7 pixels, in ``release-2021-12``. This
field shows which part of the image's summary a pixel reads. It does not align details.

A positive displacement points right or down.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backend import Backend, OffsetBackend
from alignseg_infer.errors import ModelError, OptionError
from alignseg_infer.ops.offset_fields import OffsetField, axis_terms
from alignseg_infer.pixels.network_output import require_offsets
from alignseg_infer.pixels.preprocess import network_input, size_policy
from alignseg_infer.spec.model import SamplingConvention

Vectors = NDArray[np.float32]

HIGH_PERCENTILE = 95


class Magnitudes(NamedTuple):
    """How far a field moves its pixels, in pixels of the network input.

    Attributes:
        median: Median over all pixels.
        high: 95th percentile: 95 % of the pixels move at most this far.
        largest: Maximum over all pixels.
    """

    median: float
    high: float
    largest: float


@dataclass(frozen=True, eq=False)
class Displacement:
    """One offset field of one image, in pixels of the network input.

    Attributes:
        field: Which of the nine fields.
        vectors: (H, W, 2) float32 at the field's own size, x then y.

    Raises:
        ModelError: A vector is not finite.
    """

    field: OffsetField
    vectors: Vectors

    def __post_init__(self) -> None:
        bad = int(np.count_nonzero(~np.isfinite(self.vectors)))
        if bad:
            raise ModelError(
                f"the offset field {self.field} has {bad} NaN or infinite values",
                "finite offsets",
                "check the weights: alignseg inspect CHECKPOINT",
            )

    @property
    def magnitudes(self) -> Magnitudes:
        """Median, 95th percentile and maximum of the vectors' lengths."""
        lengths = np.hypot(self.vectors[..., 0], self.vectors[..., 1])
        return Magnitudes(*np.percentile(lengths, (50, HIGH_PERCENTILE, 100)).tolist())


class ImageOffsets(NamedTuple):
    """What `offsets_of_image` returns.

    Attributes:
        image: (input_h, input_w, 3) uint8 BGR, the image at the size the network saw.
        fields: The nine displacements, by field, in the order of `OffsetField`.
    """

    image: Image
    fields: dict[OffsetField, Displacement]


def offsets_of_image(
    backend: Backend, image: Image, size: str | int | Size | None = None
) -> ImageOffsets:
    """Run the network on one image and return its offsets.

    Args:
        backend: From `backends.open_backend`.
        image: (H, W, 3) uint8 BGR.
        size: Network input size, as `Predictor` takes it.

    Raises:
        OptionError: `backend` has no method ``offsets``, or `size` is invalid.
        ModelError: The model was exported without its offsets, or they are not finite.
        SizeError: The network does not accept an input of this size.
    """
    if not isinstance(backend, OffsetBackend):
        raise OptionError(
            f"the backend {backend.name} does not return offsets",
            "a checkpoint, or an ONNX file exported with its offsets",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx --with-offsets",
        )
    spec = backend.spec
    chosen = size_policy(size, spec.export).input_size((image.shape[0], image.shape[1]))
    copies = (spec.export and spec.export.batch) or 1  # fill a fixed batch with copies
    tensor = network_input(image, chosen, spec).repeat(copies, axis=0)  # (copies, 3, h, w)
    convention = spec.network.convention
    fields = {}
    for field, offset in backend.offsets(tensor).items():
        require_offsets(tensor.shape, field, offset)
        moved = displacement(offset[0], field, chosen, convention)
        fields[field] = Displacement(field, moved)
    resized = cv2.resize(image, (chosen[1], chosen[0]), interpolation=cv2.INTER_AREA)
    return ImageOffsets(np.asarray(resized, np.uint8), fields)


def displacement(
    offset: Vectors, field: OffsetField, input_size: Size, convention: SamplingConvention
) -> Vectors:
    """Convert offsets to displacements; the module's docstring has the formula.

    Args:
        offset: (2, H, W) float32, dx then dy.
        field: Which field it is, which determines the feature that it samples.
        input_size: (height, width) of the network input.
        convention: The model's sampling convention.

    Returns:
        (H, W, 2) float32, x then y, in pixels of the network input.
    """
    rows, columns = offset.shape[1:]
    height, width = field.sampled_size((rows, columns))
    gain_x = axis_terms(convention, width, columns, height).gain * input_size[1] / width
    gain_y = axis_terms(convention, height, rows, width).gain * input_size[0] / height
    return np.stack((offset[0] * gain_x, offset[1] * gain_y), -1).astype(np.float32)
