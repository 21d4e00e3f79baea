"""What the backends have in common: the protocols that a loaded model follows."""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.errors import OptionError
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.postprocess import Scores
from alignseg_infer.spec.model import ModelSpec


class Backend(Protocol):
    """A loaded model. Calls may come from several threads at once.

    Attributes:
        spec: The model's facts.
        name: What runs it and where, e.g. ``onnxruntime (CPUExecutionProvider)``.
    """

    spec: ModelSpec
    name: str

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """Runs the network.

        Args:
            batch: (N, 3, H, W) float32, normalised.

        Returns:
            Logits (N, C, h, w) float32, or labels (N, H, W) uint8/uint16, as ``spec.export`` says.
        """
        ...


@runtime_checkable
class OffsetBackend(Backend, Protocol):
    """A backend that also shows the learned offsets. Predicting does not need it."""

    def offsets(self, batch: NDArray[np.float32]) -> dict[OffsetField, NDArray[np.float32]]:
        """Runs the network for its offset fields.

        Args:
            batch: (N, 3, H, W) float32, normalised.

        Returns:
            The nine fields in the order of `OffsetField`, each (N, 2, h, w) float32, dx then dy,
            in the unit of the model's sampling convention.

        Raises:
            ModelFileError: The model was exported without them.
        """
        ...


@runtime_checkable
class LimitedBackend(Backend, Protocol):
    """A backend that takes only some batch sizes.

    Attributes:
        batch_limits: The smallest and the largest.
    """

    batch_limits: tuple[int, int]


class LabelledBatch(NamedTuple):
    """What a backend made of some images.

    Attributes:
        scores: Labels and confidence of each.
        preprocess: Milliseconds for all of them, sending them to the device included.
        infer: Milliseconds in the network.
        postprocess: Milliseconds for labels, fetching them included.
    """

    scores: list[Scores]
    preprocess: float
    infer: float
    postprocess: float


@runtime_checkable
class ImageBackend(Backend, Protocol):
    """A backend that can prepare images and label pixels on its GPU, too."""

    def load_kernels(self) -> None:
        """Makes `segment` possible. A second call does nothing.

        Raises:
            MissingDependencyError: What compiles kernels is not installed.
            CudaError: They do not compile or load, or give wrong results on this GPU.
            OptionError: This model is not one whose pixels can be labelled there.
        """
        ...

    def segment(
        self, images: Sequence[Image], input_size: Size, *, confidence: bool
    ) -> LabelledBatch:
        """Labels images, each at its own size.

        Args:
            images: (H, W, 3) uint8 BGR, of any sizes; no more than a batch.
            input_size: Network input (height, width) for all of them.
            confidence: Whether the result gets the probability of each label, in steps of 1/255.

        Raises:
            ModelError: The logits are not finite.
            SizeError: The model does not take this size or so many images.
            CudaError: The GPU fails, or has too little memory left.
        """
        ...


def parse_device(device: str) -> tuple[str, int]:
    """Splits ``cuda:1`` into ``("cuda", 1)``.

    Raises:
        OptionError: It is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if device in ("auto", "cpu", "cuda"):
        return device, 0
    if isinstance(device, str) and re.fullmatch(r"cuda:\d{1,3}", device):
        return "cuda", int(device.removeprefix("cuda:"))
    raise OptionError(f"device={device!r}", "cpu, cuda, cuda:N or auto", "--device cpu")
