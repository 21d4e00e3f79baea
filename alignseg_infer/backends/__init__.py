"""Runtimes that execute a model. One module each, loaded on demand."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.choices import choose
from alignseg_infer.demo import model_path
from alignseg_infer.errors import ModelFileError, OptionError
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.images import Image
from alignseg_infer.pixels.postprocess import Scores
from alignseg_infer.pixels.preprocess import Size
from alignseg_infer.spec.model import ModelSpec
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES

MAX_THREADS = 1024
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
ONNX_SUFFIX = ".onnx"


class OnnxRunner(StrEnum):
    """What can run an ``.onnx`` file."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


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


def open_backend(
    model: str | Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    runtime: str | None = None,
) -> Backend:
    """Loads a model into the runtime its file ending asks for.

    Args:
        model: ``.onnx`` (ONNX Runtime, or as `runtime` says), a checkpoint ``.pth``, ``.pt``,
            ``.safetensors`` (PyTorch), or an engine ``.engine``, ``.plan``, ``.trt`` (TensorRT);
            ``demo`` for the model that comes with the package.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for CUDA where it works. None for what
            the file implies: ``cuda`` for an engine, ``cpu`` for all others.
        threads: CPU threads for one call; None for the runtime's choice.
        runtime: What is to run an ``.onnx``: a value of `OnnxRunner`; None for ONNX Runtime.

    Raises:
        ModelError: The file cannot be used.
        DeviceError: The device is not there.
        MissingDependencyError: The runtime is not installed.
        OptionError: `device`, `threads` or `runtime` make no sense, or not with this file.
    """
    path = model_path(model)
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise OptionError(f"threads={threads!r}", f"1 to {MAX_THREADS}, or None", "threads=2")
    suffix = path.suffix.lower()
    if runtime is not None:
        _require_runner(runtime, path)
    if device is None:
        device = "cuda" if suffix in ENGINE_SUFFIXES else "cpu"
    if suffix == ONNX_SUFFIX:
        return _open_onnx(path, device, threads, runtime)
    if suffix in CHECKPOINT_SUFFIXES:
        from alignseg_infer.backends.torch_backend import TorchBackend

        return TorchBackend(path, device=device, threads=threads)
    if suffix in ENGINE_SUFFIXES:
        return _open_engine(path, device, threads)
    raise ModelFileError(
        f"{path} has the ending {suffix!r}, which no backend reads",
        f".onnx, an engine ({', '.join(ENGINE_SUFFIXES)}), or a checkpoint: "
        f"{', '.join(CHECKPOINT_SUFFIXES)}",
        "export it first: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
    )


def _require_runner(runtime: str, path: Path) -> None:
    choose(OnnxRunner, runtime, "runtime")
    if path.suffix.lower() != ONNX_SUFFIX:
        raise OptionError(
            f"runtime={str(runtime)!r} was given with {path}, whose ending says what runs it",
            "a choice of runtime with an .onnx file only",
            "leave runtime= out; or export it: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )


def _open_onnx(path: Path, device: str, threads: int | None, runtime: str | None) -> Backend:
    if runtime == OnnxRunner.OPENVINO:
        from alignseg_infer.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend(path, device=device, threads=threads)
    from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, device=device, threads=threads)


def _open_engine(path: Path, device: str, threads: int | None) -> Backend:
    from alignseg_infer.trt.runtime.backend import TensorRTBackend

    if threads is not None:
        raise OptionError(
            f"threads={threads} was given with {path}, which runs on the GPU",
            "CPU threads only with a model that runs on the CPU",
            "leave threads= out",
        )
    return TensorRTBackend(path, device=device)


def parse_device(device: str) -> tuple[str, int]:
    """Splits ``cuda:1`` into ``("cuda", 1)``.

    Raises:
        OptionError: It is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if device in ("auto", "cpu", "cuda"):
        return device, 0
    if isinstance(device, str) and re.fullmatch(r"cuda:\d{1,3}", device):
        return "cuda", int(device.removeprefix("cuda:"))
    raise OptionError(f"device={device!r}", "cpu, cuda, cuda:N or auto", "device='cpu'")
