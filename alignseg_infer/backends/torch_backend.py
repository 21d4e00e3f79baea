"""Runs a checkpoint in PyTorch, without export."""

import contextlib
import functools
import logging
import shlex
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backend import (
    LabelledBatch,
    OwnProcess,
    is_about_memory,
    parse_device,
    run_error,
    too_large,
)
from alignseg_infer.cuda.device_images import require_right_results
from alignseg_infer.cuda.kernels import IMAGE_KERNELS
from alignseg_infer.errors import (
    INSTALL_EXPORT,
    DeviceError,
    MissingDependencyError,
    OptionError,
    ProcessError,
)
from alignseg_infer.spec.model import ModelSpec, Sampler, Upsampling

try:
    import torch
except ImportError as error:
    raise MissingDependencyError(
        "reading a checkpoint needs PyTorch, which is not installed",
        "the package torch",
        f"{INSTALL_EXPORT}, or use an exported .onnx model",
    ) from error

from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.checkpoint import Assumption, load_checkpoint
from alignseg_infer.models.decoder import OffsetSampler
from alignseg_infer.models.rewrites import (
    SplitOffsets,
    rewrite_for_inference,
    without_auxiliary_head,
)
from alignseg_infer.ops.offset_fields import OffsetField

if TYPE_CHECKING:  # the module needs CUDA from Python
    from alignseg_infer.backends.torch_kernels import TorchImages

logger = logging.getLogger(__name__)


class TorchBackend:
    """A checkpoint in PyTorch, in float32. `spec.export` is None; the output is logits.

    Facts that the file does not tell are assumed, with a warning in the log. The export commands
    have options for them.

    Args:
        path: A checkpoint.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.
        threads: CPU threads; PyTorch has one setting for the whole process.

    Raises:
        CheckpointError: The file cannot be used.
        DeviceError: CUDA was asked for but is not available.
        ProcessError: This process was forked from one that has opened a checkpoint.
    """

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        self._device = _parse_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        _require_threads(self._device)
        try:
            checkpoint = load_checkpoint(path)
            self._model = _prepare(checkpoint.model(), self._device)
        except (RuntimeError, MemoryError) as error:
            if not is_about_memory(error):
                raise
            raise too_large(path, "PyTorch", error) from error
        for assumption in checkpoint.assumptions:
            logger.warning("%s: %s", path, _describe(assumption, path))
        self.spec: ModelSpec = checkpoint.spec
        self.name = f"torch ({self._device})"
        if self._device.type == "cuda":
            self._use_kernels()
        self._lock = threading.Lock()
        self._images: TorchImages | None = None

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """See `backend.Backend.infer`."""
        with _translate_errors(batch.shape), torch.inference_mode():
            logits = self._model(torch.from_numpy(batch).to(self._device)).logits
            output: NDArray[np.generic] = logits.contiguous().cpu().numpy()
        return output

    def _use_kernels(self) -> None:
        """Switch to our kernels for upsampling and sampling, if they can be compiled."""
        try:
            from alignseg_infer.backends.torch_kernels import torch_kernels

            torch_kernels(self._device.index).require_right_sampling()
        except MissingDependencyError as error:
            logger.warning("sampling is slower than it could be: %s", error)
            return
        _use_plugin_ops(self._model)

    def load_kernels(self) -> None:
        """See `backend.ImageBackend.load_kernels`."""
        if self._device.type != "cuda":
            raise OptionError(
                "the model runs on the CPU",
                "a model on CUDA, whose GPU can prepare images and label pixels",
                'device="cuda", or leave on_device out',
            )
        from alignseg_infer.backends.torch_kernels import TorchImages, torch_kernels

        with self._lock:
            if self._images is None:
                kernels = torch_kernels(self._device.index)
                kernels.load(*IMAGE_KERNELS)
                require_right_results(kernels.cuda, kernels.kernels, self.spec)
                self._images = TorchImages(kernels, self.spec)

    def segment(
        self, images: Sequence[Image], input_size: Size, *, confidence: bool
    ) -> LabelledBatch:
        """See `backend.ImageBackend.segment`."""
        self.load_kernels()
        assert self._images is not None
        shape = (len(images), 3, *input_size)
        with self._lock, _translate_errors(shape), torch.inference_mode():
            return self._images.segment(
                images, input_size, lambda batch: self._model(batch).logits, confidence
            )

    def offsets(self, batch: NDArray[np.float32]) -> dict[OffsetField, NDArray[np.float32]]:
        """See `backend.OffsetBackend.offsets`."""
        with _translate_errors(batch.shape), torch.inference_mode():
            image = torch.from_numpy(batch).to(self._device)
            _, offsets = self._model.forward_with_offsets(image)
            return {field: offset.contiguous().cpu().numpy() for field, offset in offsets.items()}


@contextlib.contextmanager
def _translate_errors(shape: tuple[int, ...]) -> Iterator[None]:
    """Turn PyTorch's errors with a batch of `shape` into ours."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise run_error("PyTorch", shape, error) from error


@functools.cache
def _first_process() -> OwnProcess:
    """Return the process in which this was first called: a parent, after a fork."""
    return OwnProcess()


def _require_threads(device: torch.device) -> None:
    """Check that PyTorch is able to compute in this process.

    Its threads (of libgomp) do not exist in a forked process, where it waits for them for ever. It
    computes in one thread there, as it does in the workers of a DataLoader, but CUDA does not work.

    Raises:
        ProcessError: It is not.
    """
    if _first_process().is_this() or (device.type == "cpu" and torch.get_num_threads() == 1):
        return
    raise ProcessError(
        "this process was forked from one that has run a checkpoint, and PyTorch would wait here "
        "for threads that do not exist",
        "a process that was spawned, or one thread on the CPU",
        'start processes with multiprocessing.get_context("spawn"), or pass threads=1',
    )


def _prepare(model: AlignSeg, device: torch.device) -> AlignSeg:
    """Copy `model` to `device`, without the auxiliary head.

    On a GPU, the copy gets all rewrites and stores channels last: convolutions are faster that way,
    and our kernels reach most of the memory's bandwidth.
    """
    if device.type == "cpu":
        return without_auxiliary_head(model)
    rewritten = rewrite_for_inference(model, Upsampling.RESIZE).to(device)
    return rewritten.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _use_plugin_ops(model: AlignSeg) -> None:
    """Make a rewritten network upsample and sample with `ops.plugin_ops`."""
    for module in model.modules():
        if isinstance(module, OffsetSampler):
            module.sampler = Sampler.PLUGIN
        elif isinstance(module, SplitOffsets):
            module.fuse = True


def _describe(assumption: Assumption, path: Path) -> str:
    """Say what is assumed, and how another value gets into a model, since `Predictor` takes none.

    For a closed choice, the command names one of the other values.
    """
    name, _, values = assumption.override.partition("=")
    value = assumption.value.partition(" (")[0]
    other = [one for one in values.split("|") if one != value][-1].strip("()").replace(",", "")
    option = f"--{name.replace('_', '-')} {other}"
    return (
        f"{assumption.fact}: {assumption.value}  (assumed: {assumption.reason}; to change it: "
        f"alignseg export-onnx {shlex.quote(str(path))} -o MODEL.onnx {option})"
    )


def _parse_device(device: str) -> torch.device:
    kind, index = parse_device(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and index >= count:
        raise DeviceError(
            f"device={device!r} was asked for, but PyTorch sees {count} CUDA devices",
            "a CUDA build of PyTorch and a working driver",
            "python -c 'import torch; print(torch.__version__, torch.cuda.is_available())', "
            "or device='cpu'",
        )
    return torch.device("cpu" if kind == "cpu" or count == 0 else f"cuda:{index}")
