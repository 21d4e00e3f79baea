"""CUDA through the driver API of NVIDIA's cuda-python 12 and 13.

The runtime API is linked into cuda-python and refuses drivers older than its own release. The
driver API works with every driver that has the functions. The signatures are in the documentation
of cuda-python, "cuda.bindings.driver".
"""

import contextlib
import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.cuda.base import (
    CudaPackage,
    Gpu,
    call_failed,
    no_driver,
    no_such_gpu,
    not_installed,
    out_of_memory,
)

try:
    try:
        from cuda.bindings import driver
    except ModuleNotFoundError:  # before 12.6
        from cuda import cuda as driver
except ImportError as error:
    raise not_installed(CudaPackage.CUDA_PYTHON, error) from error

_NAME_LENGTH = 256


class CudaPython:
    """See `Cuda`.

    Args:
        index: Number of the GPU.

    Raises:
        DeviceError: There is no driver, or no such GPU.
    """

    can_capture = True

    def __init__(self, index: int) -> None:
        _initialise()
        self.name = f"cuda-python {_read_version()}"
        count = _call("counting GPUs", driver.cuDeviceGetCount)
        if index >= count:
            raise no_such_gpu(index, count)
        self._device = _call("opening the GPU", driver.cuDeviceGet, index)
        self.gpu = _describe_gpu(self._device)
        self._context = _call(
            "taking the primary context", driver.cuDevicePrimaryCtxRetain, self._device
        )
        self._functions: dict[int, dict[str, Any]] = {}  # by module and name

    def current(self) -> AbstractContextManager[None]:
        """See `Cuda.current`."""
        return _Current(self._context)

    def close(self) -> None:
        """See `Cuda.close`."""
        _call("giving the context back", driver.cuDevicePrimaryCtxRelease, self._device)

    def allocate(self, size: int) -> int:
        """See `Cuda.allocate`."""
        status, address = driver.cuMemAlloc(size)
        if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            free, _ = _call("reading free memory", driver.cuMemGetInfo)
            raise out_of_memory("device memory", size, free)
        _check("allocating device memory", status)
        return int(address)

    def free(self, address: int) -> None:
        """See `Cuda.free`."""
        _call("freeing device memory", driver.cuMemFree, address)

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Cuda.allocate_pinned`."""
        status, address = driver.cuMemHostAlloc(size, driver.CU_MEMHOSTALLOC_PORTABLE)
        if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise out_of_memory("page-locked host memory", size)
        _check("allocating page-locked memory", status)
        return np.frombuffer(
            memoryview((ctypes.c_uint8 * size).from_address(int(address))), np.uint8
        )

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """See `Cuda.free_pinned`."""
        _call("freeing page-locked memory", driver.cuMemFreeHost, memory.ctypes.data)

    def copy_to_device(self, address: int, source: NDArray[Any], stream: int) -> None:
        """See `Cuda.copy_to_device`."""
        arguments = (address, source.ctypes.data, source.nbytes, stream)
        _call("copying to the GPU", driver.cuMemcpyHtoDAsync, *arguments)

    def copy_to_host(self, target: NDArray[Any], address: int, stream: int) -> None:
        """See `Cuda.copy_to_host`."""
        arguments = (target.ctypes.data, address, target.nbytes, stream)
        _call("copying from the GPU", driver.cuMemcpyDtoHAsync, *arguments)

    def new_stream(self) -> int:
        """See `Cuda.new_stream`."""
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value
        return int(_call("making a stream", driver.cuStreamCreate, flags))

    def free_stream(self, stream: int) -> None:
        """See `Cuda.free_stream`."""
        _call("destroying a stream", driver.cuStreamDestroy, stream)

    def synchronize(self, stream: int) -> None:
        """See `Cuda.synchronize`."""
        _call("waiting for the GPU", driver.cuStreamSynchronize, stream)

    def new_event(self) -> int:
        """See `Cuda.new_event`."""
        flags = driver.CUevent_flags.CU_EVENT_DEFAULT.value
        return int(_call("making an event", driver.cuEventCreate, flags))

    def free_event(self, event: int) -> None:
        """See `Cuda.free_event`."""
        _call("destroying an event", driver.cuEventDestroy, event)

    def record(self, event: int, stream: int) -> None:
        """See `Cuda.record`."""
        _call("recording an event", driver.cuEventRecord, event, stream)

    def elapsed(self, start: int, end: int) -> float:
        """See `Cuda.elapsed`."""
        _call("waiting for an event", driver.cuEventSynchronize, end)
        return float(_call("measuring time", driver.cuEventElapsedTime, start, end))

    def begin_capture(self, stream: int) -> None:
        """See `Cuda.begin_capture`."""
        # In the default mode, GLOBAL, an allocation on another thread would spoil the capture.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call("starting a graph capture", driver.cuStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> int:
        """See `Cuda.end_capture`."""
        template = _call("ending a graph capture", driver.cuStreamEndCapture, stream)
        try:
            return int(_call("making a graph", driver.cuGraphInstantiate, template, 0))
        finally:
            _call("destroying a graph's template", driver.cuGraphDestroy, template)

    def launch_graph(self, graph: int, stream: int) -> None:
        """See `Cuda.launch_graph`."""
        _call("launching a graph", driver.cuGraphLaunch, graph, stream)

    def free_graph(self, graph: int) -> None:
        """See `Cuda.free_graph`."""
        _call("destroying a graph", driver.cuGraphExecDestroy, graph)

    def load_module(self, image: bytes) -> int:
        """See `Cuda.load_module`."""
        terminated = np.frombuffer(image + b"\0", np.uint8)  # PTX must end with a zero byte
        module = int(_call("loading kernels", driver.cuModuleLoadData, terminated.ctypes.data))
        self._functions[module] = {}
        return module

    def free_module(self, module: int) -> None:
        """See `Cuda.free_module`."""
        del self._functions[module]  # CUDA may give the same handle to another module
        _call("unloading kernels", driver.cuModuleUnload, module)

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
        """See `Cuda.launch`."""
        function = self._functions[module].get(kernel)
        if function is None:  # two threads may both look it up; they get the same function
            function = _call(
                *(f"finding the kernel {kernel}", driver.cuModuleGetFunction),
                *(module, kernel.encode()),
            )
            self._functions[module][kernel] = function
        values = [one if isinstance(one, bytes) else one.tobytes() for one in arguments]
        # Made anew for each call, since several threads may launch at once.
        pointers = (ctypes.c_char_p * len(values))(*values)
        (status,) = driver.cuLaunchKernel(
            *(function, *grid, *block, 0, stream, ctypes.addressof(pointers), 0)
        )
        if status != driver.CUresult.CUDA_SUCCESS:
            _check(f"launching the kernel {kernel}", status)


class _Current:
    """A context manager that pushes and pops a CUDA context.

    A class takes a third of the time of a context manager made from a generator.

    Args:
        context: The handle of the CUDA context.
    """

    def __init__(self, context: object) -> None:
        self._context = context

    def __enter__(self) -> None:
        _call("making the context current", driver.cuCtxPushCurrent, self._context)

    def __exit__(self, *error: object) -> None:
        _call("restoring the context", driver.cuCtxPopCurrent)


def _initialise() -> None:
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # libcuda is missing
        raise no_driver(error) from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise no_driver(_describe_status(status))


def _describe_gpu(device: object) -> Gpu:
    attributes = driver.CUdevice_attribute
    numbers = [
        _call("reading the compute capability", driver.cuDeviceGetAttribute, attribute, device)
        for attribute in (
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    ]
    name = _call("reading the GPU's name", driver.cuDeviceGetName, _NAME_LENGTH, device)
    return Gpu(name.split(b"\0")[0].decode(), "{}.{}".format(*numbers))


def _read_version() -> str:
    for package in ("cuda-bindings", "cuda-python"):
        with contextlib.suppress(ImportError):  # PackageNotFoundError is a subclass
            return version(package)
    return "of unknown version"


def _call(doing: str, function: Callable[..., tuple[Any, ...]], *arguments: object) -> Any:
    """Call CUDA and return its result, a tuple of several results, or None.

    Raises:
        CudaError: CUDA reports an error.
    """
    status, *results = function(*arguments)
    _check(doing, status)
    return results[0] if len(results) == 1 else tuple(results) or None


def _check(doing: str, status: Any) -> None:
    if status != driver.CUresult.CUDA_SUCCESS:
        raise call_failed(doing, _describe_status(status))


def _describe_status(status: Any) -> str:
    """Describe a status, e.g. ``CUDA_ERROR_INVALID_VALUE (invalid argument)``."""
    found, text = driver.cuGetErrorString(status)
    known = found == driver.CUresult.CUDA_SUCCESS and text
    return f"{status.name} ({text.decode()})" if known else str(status.name)
