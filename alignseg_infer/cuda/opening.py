"""The part of CUDA that running an engine needs, whichever Python package provides it.

Both implementations work in the device's primary context, the one PyTorch, CuPy and TensorRT use
too, so what one allocates another can read. They never make a context of their own and never leave
theirs current: wrap calls in `Cuda.current`.
"""

from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.errors import CudaError, DeviceError, MissingDependencyError, OptionError
from alignseg_infer.trt.engine_file import Gpu

INSTALL = "pip install cuda-python (any platform), or pip install pycuda (compiles; needs CUDA)"


class CudaPackage(StrEnum):
    """Which Python package to call CUDA through; ``auto``: the first of the others that is there.

    The choice changes nothing for other packages in the process: the context is the same.
    """

    AUTO = "auto"
    CUDA_PYTHON = "cuda-python"
    PYCUDA = "pycuda"


class Cuda(Protocol):
    """One GPU. Addresses and handles are plain integers, as TensorRT takes them.

    Every call but `current` and `close` must be made inside ``with cuda.current():``, on any
    thread. Whoever allocates frees. Each method raises CudaError if CUDA reports an error, also
    one of earlier work on the GPU.

    Attributes:
        name: Package and version, e.g. ``cuda-python 13.4.4``.
        gpu: The GPU.
        can_capture: Whether the four graph methods are there.
    """

    name: str
    gpu: Gpu
    can_capture: bool

    def current(self) -> AbstractContextManager[None]:
        """Makes the primary context current on this thread, for the block."""
        ...

    def close(self) -> None:
        """Gives the primary context back. Free everything first."""
        ...

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of device memory.

        Raises:
            CudaError: There is not so much left.
        """
        ...

    def free(self, address: int) -> None:
        """Frees what `allocate` gave."""
        ...

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """(size,) uint8 in page-locked host memory, which copies read and write directly."""
        ...

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Frees what `pinned` gave; no view of it may be used any more."""
        ...

    def copy_to_device(self, address: int, source: NDArray[Any], stream: int) -> None:
        """Starts copying contiguous `source`, which must live until the stream is synchronised."""
        ...

    def copy_to_host(self, target: NDArray[Any], address: int, stream: int) -> None:
        """Starts filling contiguous `target`, which must live until the stream is synchronised."""
        ...

    def new_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        ...

    def free_stream(self, stream: int) -> None:
        """Destroys a stream."""
        ...

    def synchronize(self, stream: int) -> None:
        """Waits until all work in the stream is done."""
        ...

    def new_event(self) -> int:
        """An event that records a time."""
        ...

    def free_event(self, event: int) -> None:
        """Destroys an event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Marks the place in the stream reached so far."""
        ...

    def elapsed(self, start: int, end: int) -> float:
        """Waits for `end`; ms on the GPU between two recorded events."""
        ...

    def begin_capture(self, stream: int) -> None:
        """From now on, work for the stream is noted instead of run. Other threads go on freely."""
        ...

    def end_capture(self, stream: int) -> int:
        """Ends it; a graph of the work, ready to launch."""
        ...

    def launch_graph(self, graph: int, stream: int) -> None:
        """Starts all work of the graph."""
        ...

    def free_graph(self, graph: int) -> None:
        """Destroys a graph."""
        ...

    def load_module(self, image: bytes) -> int:
        """Loads compiled kernels: a cubin, a fatbin, or PTX."""
        ...

    def free_module(self, module: int) -> None:
        """Unloads a module."""
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
        """Starts a kernel of the module.

        Args:
            module: From `load_module`.
            kernel: Its name.
            arguments: NumPy scalars of the kernel's types; addresses as ``np.uint64``, structures
                as their bytes. CUDA copies them before this returns.
            grid: Blocks along x, y, z.
            block: Threads along x, y, z.
            stream: Where.
        """
        ...


def open_cuda(index: int = 0, package: str = CudaPackage.AUTO) -> Cuda:
    """The GPU with number `index`.

    Raises:
        MissingDependencyError: The package is not installed; for ``auto``, none is.
        DeviceError: There is no driver, or no such GPU.
        OptionError: `package` is no `CudaPackage`.
    """
    if package not in list(CudaPackage):
        raise OptionError(f"cuda={package!r}", ", ".join(CudaPackage), 'cuda="auto"')
    if package == CudaPackage.CUDA_PYTHON:
        return _open_cuda_python(index)
    if package == CudaPackage.PYCUDA:
        return _open_pycuda(index)
    try:
        return _open_cuda_python(index)
    except MissingDependencyError:
        return _open_pycuda(index)


def current_gpu() -> Gpu | None:
    """The first GPU, on which TensorRT builds; None without a driver or GPU.

    Raises:
        MissingDependencyError: No package to call CUDA through is installed.
    """
    try:
        cuda = open_cuda()
    except DeviceError:
        return None
    gpu = cuda.gpu
    cuda.close()
    return gpu


def _open_cuda_python(index: int) -> Cuda:
    from alignseg_infer.cuda.with_cuda_python import CudaPython

    return CudaPython(index)


def _open_pycuda(index: int) -> Cuda:
    from alignseg_infer.cuda.with_pycuda import PyCuda

    return PyCuda(index)


def not_installed(package: CudaPackage, error: ImportError) -> MissingDependencyError:
    """The error for a package that cannot be imported."""
    return MissingDependencyError(
        f"a TensorRT engine needs CUDA from Python, but {package} cannot be imported: {error}",
        "the package cuda-python 12 or newer, or pycuda 2022.1 or newer",
        INSTALL,
    )


def no_driver(reason: object) -> DeviceError:
    """The error for a machine without an NVIDIA driver."""
    return DeviceError(
        f"this machine has no working NVIDIA driver: {reason}",
        "an NVIDIA GPU and its driver, which TensorRT engines run on",
        "nvidia-smi, to see whether there is one; without a GPU, run the .onnx model instead",
    )


def no_such_gpu(index: int, count: int) -> DeviceError:
    """The error for a GPU number that is too high."""
    known = f"cuda:0 to cuda:{count - 1}" if count else "at least one"
    return DeviceError(
        f"device cuda:{index} was asked for, but CUDA sees {count} GPUs",
        f"a GPU that is there ({known})",
        "nvidia-smi -L; echo $CUDA_VISIBLE_DEVICES; then device='cuda:N'",
    )


def call_failed(doing: str, reason: str) -> CudaError:
    """The error for a call that reported one."""
    return CudaError(
        f"{doing} failed: {reason}",
        "no error from CUDA",
        "run it again with CUDA_LAUNCH_BLOCKING=1 to see which call it belongs to; "
        "if it stays, compute-sanitizer python ...",
    )


def out_of_memory(what: str, size: int, free: int | None = None) -> CudaError:
    """The error for memory that is not there. Sizes in bytes."""
    left = "" if free is None else f", {free / 2**20:.0f} MiB are free"
    return CudaError(
        f"CUDA_ERROR_OUT_OF_MEMORY: {size / 2**20:.1f} MiB of {what} were asked for{left}",
        "enough memory for the engine, its activations, and its largest input and output",
        "close what else uses the GPU (nvidia-smi), call from fewer threads, or build the engine "
        "for less: alignseg export-trt MODEL -o ENGINE --opt-shape NxHxW --max-shape NxHxW",
    )
