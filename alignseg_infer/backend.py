"""The protocols that backends (loaded models) implement, and what goes wrong with them."""

import ctypes
import os
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.errors import (
    AlignSegError,
    ModelError,
    OptionError,
    OutOfMemoryError,
    ProcessError,
)
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.postprocess import Scores
from alignseg_infer.spec.model import ModelSpec


class Backend(Protocol):
    """A loaded model. Several threads may call it at once.

    Attributes:
        spec: The model's facts.
        name: What runs the model and where, e.g. ``onnxruntime (CPUExecutionProvider)``.
    """

    spec: ModelSpec
    name: str

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """Run the network.

        Args:
            batch: (N, 3, H, W) float32, normalised; or uint8, if ``spec.export.image`` says that
                the graph takes it, with channels in the order that it names.

        Returns:
            Logits or probabilities (N, C, h, w) float32, or labels (N, H, W) uint8/uint16, as
            ``spec.export.output`` says, whatever the layout and number format of the graph.
        """
        ...


@runtime_checkable
class OffsetBackend(Backend, Protocol):
    """A backend that can also return the learned offsets. Prediction does not need this."""

    def offsets(self, batch: NDArray[np.float32]) -> dict[OffsetField, NDArray[np.float32]]:
        """Run the network and return its offset fields.

        Args:
            batch: (N, 3, H, W) float32, normalised.

        Returns:
            The nine fields in the order of `OffsetField`, each (N, 2, h, w) float32, dx then dy,
            in the unit of the model's sampling convention.

        Raises:
            ModelFileError: The model was exported without its offset fields.
        """
        ...


@runtime_checkable
class LimitedBackend(Backend, Protocol):
    """A backend that accepts only some batch sizes.

    Attributes:
        batch_limits: The smallest and the largest batch size.
    """

    batch_limits: tuple[int, int]


class LabelledBatch(NamedTuple):
    """The results of a batch of images, and the time that each stage took.

    Attributes:
        scores: Labels and confidence of each image.
        preprocess: Milliseconds to prepare all images, including the copy to the device.
        infer: Milliseconds in the network.
        postprocess: Milliseconds to label pixels, including the copy from the device.
    """

    scores: list[Scores]
    preprocess: float
    infer: float
    postprocess: float


@runtime_checkable
class ImageBackend(Backend, Protocol):
    """A backend that can also prepare images and label pixels on its GPU."""

    def load_kernels(self) -> None:
        """Load the kernels that `segment` needs. A second call does nothing.

        Raises:
            MissingDependencyError: The package that compiles kernels is not installed.
            MissingDependencyError: NVRTC is not installed, or its kernels do not compile or load.
            CudaError: The kernels give wrong results on this GPU.
            OptionError: The pixels of this model cannot be labelled on the GPU.
        """
        ...

    def segment(
        self, images: Sequence[Image], input_size: Size, *, confidence: bool
    ) -> LabelledBatch:
        """Label images, each at its own size.

        Args:
            images: (H, W, 3) uint8 BGR, of any sizes; no more than a batch.
            input_size: Network input (height, width) for all images.
            confidence: Whether to return the probability of each label, in steps of 1/255.

        Raises:
            ModelError: The logits are not finite.
            SizeError: The model does not accept this size or this number of images.
            CudaError: The GPU fails or does not have enough free memory.
        """
        ...


def run_error(runtime: str, shape: tuple[int, ...], error: Exception) -> AlignSegError:
    """Return the error for a runtime that failed with a batch.

    Args:
        runtime: Its name.
        shape: (N, 3, H, W) of the batch.
        error: What the runtime raised.
    """
    count, _, height, width = shape
    batch = f"a batch of {count} x 3 x {height} x {width}"
    if is_about_memory(error):
        return out_of_memory(f"{runtime} ran out of memory with {batch} numbers")
    return ModelError(
        f"{runtime} failed with {batch} numbers: {' '.join(str(error).split())}",
        "a model that runs with any input that its facts allow",
        "another size=, or export the model again: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
    )


def is_about_memory(error: Exception) -> bool:
    """Return whether a runtime failed because memory ran out."""
    # Whole words: the message may hold a path.
    said = re.search(r"out of memory|\ballocate\b|\bbad[ _]alloc", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or said is not None


def out_of_memory(problem: str) -> OutOfMemoryError:
    """Return the error for memory that ran out while an image was segmented."""
    return OutOfMemoryError(
        problem,
        "enough free memory; what is needed grows with the pixels of the input and with the batch",
        "a smaller input, such as size=1024; or a sliding window, mode='slide' with tile=512; or "
        "batch=1, and fewer calls at the same time",
    )


def too_large(path: Path, runtime: str, error: Exception) -> OutOfMemoryError:
    """Return the error for memory that ran out while a model was loaded."""
    return OutOfMemoryError(
        f"{path} does not fit into the memory that is left: {' '.join(str(error).split())}",
        f"enough free memory for {runtime} to prepare the model",
        "close other programs, or open fewer models at once",
    )


class OwnProcess:
    """The process that made something. A forked process gets a copy of it, but not its threads."""

    def __init__(self) -> None:
        self._number = os.getpid()

    def is_this(self) -> bool:
        """Return whether this is the process, and not one that was forked from it."""
        return os.getpid() == self._number

    def require(self, what: str) -> None:
        """Check that this is the process; `what` was made in it, and is used now.

        Raises:
            ProcessError: It was made in another process. Locks may be held for ever here, and
                PyTorch waits for threads that do not exist.
        """
        if self.is_this():
            return
        raise ProcessError(
            f"{what} was made in process {self._number} and used in process {os.getpid()}, which "
            "was forked from it without the threads of the runtime",
            f"{what} that is made, or unpickled, in the process that uses it",
            'start processes with multiprocessing.get_context("spawn"), in a DataLoader with '
            'multiprocessing_context="spawn"; or make it in the new process (a server: not before '
            "it forks its workers)",
        )


_RUNTIMES: weakref.WeakSet[object] = weakref.WeakSet()


def keep_in_forks(runtime: object) -> None:
    """Keep `runtime` from being destroyed in processes that are forked from this one.

    Its destructor would look for threads that do not exist there: the child ends with SIGSEGV
    (ONNX Runtime 1.32, microsoft/onnxruntime#31961) or never (OpenVINO 2026.4).
    """
    _RUNTIMES.add(runtime)


def _keep_runtimes() -> None:
    for runtime in _RUNTIMES:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_keep_runtimes)


def parse_device(device: str) -> tuple[str, int]:
    """Split ``cuda:1`` into ``("cuda", 1)``.

    Raises:
        OptionError: `device` is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if device in ("auto", "cpu", "cuda"):
        return device, 0
    if isinstance(device, str) and re.fullmatch(r"cuda:\d{1,3}", device):
        return "cuda", int(device.removeprefix("cuda:"))
    raise OptionError(f"device={device!r}", "cpu, cuda, cuda:N or auto", "device='cpu'")
