"""The part of CUDA that an engine needs to run, whichever Python package provides it.

Both implementations work in the device's primary context. PyTorch, CuPy and TensorRT use the same
one, so each can read what another allocates. The implementations never create a context of their
own, and they do not leave the primary one current: wrap calls in `Cuda.current`.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backports import StrEnum
from alignseg_infer.errors import (
    CudaError,
    DeviceError,
    MissingDependencyError,
)

INSTALL = "pip install cuda-python (any platform), or pip install pycuda (compiles; needs CUDA)"


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, and its compute capability, such as ``8.9``."""

    name: str
    compute_capability: str


class CudaPackage(StrEnum):
    """The Python package to call CUDA through; ``auto`` takes the first one that is installed.

    The choice does not affect other packages in the process: the context is the same.
    """

    AUTO = "auto"
    CUDA_PYTHON = "cuda-python"
    PYCUDA = "pycuda"


class Cuda(Protocol):
    """One GPU. Addresses and handles are plain integers, as TensorRT takes them.

    Make every call except `current` and `close` inside ``with cuda.current():``; any thread will
    do. Whoever allocates something also frees it. Each method raises CudaError if CUDA reports an
    error, even when earlier work on the GPU caused it.

    Attributes:
        name: The package and its version, e.g. ``cuda-python 13.4.4``.
        gpu: The GPU.
        can_capture: Whether the four graph methods work.
    """

    name: str
    gpu: Gpu
    can_capture: bool

    def current(self) -> AbstractContextManager[None]:
        """Make the primary context current on this thread, for the block."""
        ...

    def close(self) -> None:
        """Release the primary context. Free everything first."""
        ...

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes of device memory and return their address.

        Raises:
            CudaError: There is not enough memory left.
        """
        ...

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""
        ...

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate (size,) uint8 in page-locked host memory, which the GPU copies directly."""
        ...

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Free memory that `allocate_pinned` returned; do not use any view of it afterwards."""
        ...

    def copy_to_device(self, address: int, source: NDArray[Any], stream: int) -> None:
        """Start copying contiguous `source`, which must live until the stream is synchronised."""
        ...

    def copy_to_host(self, target: NDArray[Any], address: int, stream: int) -> None:
        """Start filling contiguous `target`, which must live until the stream is synchronised."""
        ...

    def new_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        ...

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until all work in the stream is done."""
        ...

    def new_event(self) -> int:
        """Create an event that records a time."""
        ...

    def free_event(self, event: int) -> None:
        """Destroy an event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Record the event after the work that is in the stream so far."""
        ...

    def elapsed(self, start: int, end: int) -> float:
        """Wait for `end` and return the milliseconds on the GPU between two recorded events."""
        ...

    def begin_capture(self, stream: int) -> None:
        """Start recording the stream's work instead of running it. Other threads are unaffected."""
        ...

    def end_capture(self, stream: int) -> int:
        """Stop recording and return a graph of the work, ready to launch."""
        ...

    def launch_graph(self, graph: int, stream: int) -> None:
        """Start all work of the graph."""
        ...

    def free_graph(self, graph: int) -> None:
        """Destroy a graph."""
        ...

    def load_module(self, image: bytes) -> int:
        """Load compiled kernels: a cubin, a fatbin, or PTX."""
        ...

    def free_module(self, module: int) -> None:
        """Unload a module."""
        ...

    def launch(
        self,
        module: int,
        kernel: str,
        arguments: tuple[np.generic | bytes, ...],
        *,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        stream: int,
    ) -> None:
        """Start a kernel of the module.

        Args:
            module: A handle from `load_module`.
            kernel: The kernel's name.
            arguments: NumPy scalars of the types that the kernel takes; addresses as
                ``np.uint64``, structures as their bytes. CUDA copies them before this returns.
            grid: Blocks along x, y, z.
            block: Threads of a block along x, y, z.
            stream: The stream to run in.
        """
        ...


def not_installed(package: CudaPackage, error: ImportError) -> MissingDependencyError:
    """Return the error for a package that cannot be imported."""
    return MissingDependencyError(
        f"a TensorRT engine needs CUDA from Python, but {package} cannot be imported: {error}",
        "the package cuda-python 12 or newer, or pycuda 2022.1 or newer",
        INSTALL,
    )


def no_driver(reason: object) -> DeviceError:
    """Return the error for a machine without an NVIDIA driver."""
    return DeviceError(
        f"this machine has no working NVIDIA driver: {reason}",
        "an NVIDIA GPU and its driver, which TensorRT engines need",
        "run nvidia-smi to see whether there is one; without a GPU, run the .onnx model instead",
    )


def no_such_gpu(index: int, count: int) -> DeviceError:
    """Return the error for a GPU number that is too high."""
    known = f"cuda:0 to cuda:{count - 1}" if count else "there are none here"
    return DeviceError(
        f"device cuda:{index} was asked for, but CUDA sees {count} GPUs",
        f"the number of an existing GPU ({known})",
        "nvidia-smi -L; echo $CUDA_VISIBLE_DEVICES; then device='cuda:N'",
    )


def call_failed(doing: str, reason: str) -> CudaError:
    """Return the error for a call into CUDA that failed."""
    return CudaError(
        f"{doing} failed: {reason}",
        "no error from CUDA",
        "run it again with CUDA_LAUNCH_BLOCKING=1 to see which call caused it; "
        "if the error stays, run compute-sanitizer python ...",
    )


def out_of_memory(what: str, size: int, free: int | None = None) -> CudaError:
    """Return the error for memory that ran out. Sizes are in bytes."""
    left = "" if free is None else f", but only {free / 2**20:.0f} MiB are free"
    return CudaError(
        f"CUDA_ERROR_OUT_OF_MEMORY: {size / 2**20:.1f} MiB of {what} were asked for{left}",
        "enough memory for the engine, its activations, and its largest input and output",
        "close other programs on the GPU (nvidia-smi lists them), call from fewer threads, or "
        "build the engine for smaller inputs: "
        "alignseg export-trt MODEL -o ENGINE --opt-shape NxHxW --max-shape NxHxW",
    )
