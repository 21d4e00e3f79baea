"""CUDA through PyCUDA 2022.1 and newer, for applications that already use it.

The calls follow PyCUDA's documentation ("Device Interface Reference") and its source. PyCUDA needs
a compiler and a driver to install, so the README's table says where this code ran. Three habits of
PyCUDA shape it:

- PyCUDA tracks only the contexts that it pushed itself, and it frees an object from another thread
  only while that object's `Context` is current there. `current` takes care of both.
- When PyCUDA releases the primary context, it leaves it current on that thread. So there is one
  `Context` per GPU and process, kept to the end. That costs nothing while TensorRT holds the
  primary context too.
- PyCUDA does not wrap stream capture (as of 2026.1), so there are no graphs.
"""

import contextlib
import functools
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backend import OwnProcess
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
    import pycuda
    from pycuda import driver
except ImportError as error:
    if "libcuda" in str(error):
        raise no_driver(error) from error
    raise not_installed(CudaPackage.PYCUDA, error) from error

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: page-locked for every context
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class PyCuda:
    """See `Cuda`.

    Args:
        index: Number of the GPU.

    Raises:
        DeviceError: There is no driver, or no such GPU.
    """

    can_capture = False

    def __init__(self, index: int) -> None:
        self.name = f"pycuda {pycuda.VERSION_TEXT}"
        self._context, self.gpu = _take_primary_context(index)
        self._owned: dict[int, Any] = {}  # PyCUDA's objects, by address or handle
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._functions: dict[int, dict[str, Any]] = {}  # by module and name

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See `Cuda.current`."""
        with _translate_errors("making the context current"):
            self._context.push()
        try:
            yield
        finally:
            with _translate_errors("restoring the context"):
                self._context.pop()

    def close(self) -> None:
        """See `Cuda.close`; the primary context stays until the process ends."""

    def allocate(self, size: int) -> int:
        """See `Cuda.allocate`."""
        with _translate_errors("allocating device memory"):
            try:
                return self._own(driver.mem_alloc(size))
            except driver.MemoryError as error:
                raise out_of_memory("device memory", size, driver.mem_get_info()[0]) from error

    def free(self, address: int) -> None:
        """See `Cuda.free`."""
        with _translate_errors("freeing device memory"):
            self._owned.pop(address).free()

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Cuda.allocate_pinned`."""
        with _translate_errors("allocating page-locked memory"):
            try:
                memory: NDArray[np.uint8]
                memory = driver.pagelocked_empty(size, np.uint8, mem_flags=_PORTABLE)
            except driver.MemoryError as error:
                raise out_of_memory("page-locked host memory", size) from error
        self._pinned[memory.ctypes.data] = memory
        return memory

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """See `Cuda.free_pinned`."""
        owner: Any = self._pinned.pop(memory.ctypes.data).base
        with _translate_errors("freeing page-locked memory"):
            owner.free()

    def copy_to_device(self, address: int, source: NDArray[Any], stream: int) -> None:
        """See `Cuda.copy_to_device`."""
        with _translate_errors("copying to the GPU"):
            driver.memcpy_htod_async(address, source, self._owned[stream])

    def copy_to_host(self, target: NDArray[Any], address: int, stream: int) -> None:
        """See `Cuda.copy_to_host`."""
        with _translate_errors("copying from the GPU"):
            driver.memcpy_dtoh_async(target, address, self._owned[stream])

    def new_stream(self) -> int:
        """See `Cuda.new_stream`."""
        with _translate_errors("making a stream"):
            stream = driver.Stream(_NON_BLOCKING)
        self._owned[stream.handle] = stream
        return int(stream.handle)

    def free_stream(self, stream: int) -> None:
        """See `Cuda.free_stream`."""
        del self._owned[stream]  # its destructor destroys it

    def synchronize(self, stream: int) -> None:
        """See `Cuda.synchronize`."""
        with _translate_errors("waiting for the GPU"):
            self._owned[stream].synchronize()

    def new_event(self) -> int:
        """See `Cuda.new_event`."""
        with _translate_errors("making an event"):
            event = driver.Event()
        self._owned[id(event)] = event  # PyCUDA does not expose the event's handle
        return id(event)

    def free_event(self, event: int) -> None:
        """See `Cuda.free_event`."""
        del self._owned[event]

    def record(self, event: int, stream: int) -> None:
        """See `Cuda.record`."""
        with _translate_errors("recording an event"):
            self._owned[event].record(self._owned[stream])

    def elapsed(self, start: int, end: int) -> float:
        """See `Cuda.elapsed`."""
        with _translate_errors("measuring time"):
            last = self._owned[end].synchronize()
            return float(last.time_since(self._owned[start]))

    def begin_capture(self, stream: int) -> None:
        """Raise CudaError: PyCUDA does not support graphs."""
        _refuse_graphs()

    def end_capture(self, stream: int) -> int:
        """Raise CudaError: PyCUDA does not support graphs."""
        _refuse_graphs()

    def launch_graph(self, graph: int, stream: int) -> None:
        """Raise CudaError: PyCUDA does not support graphs."""
        _refuse_graphs()

    def free_graph(self, graph: int) -> None:
        """Raise CudaError: PyCUDA does not support graphs."""
        _refuse_graphs()

    def load_module(self, image: bytes) -> int:
        """See `Cuda.load_module`."""
        with _translate_errors("loading kernels"):
            module = driver.module_from_buffer(image + b"\0")
        self._owned[id(module)] = module
        self._functions[id(module)] = {}
        return id(module)

    def free_module(self, module: int) -> None:
        """See `Cuda.free_module`."""
        del self._functions[module]  # PyCUDA's functions keep their module
        del self._owned[module]

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
        with _translate_errors(f"launching the kernel {kernel}"):
            function = self._functions[module].get(kernel)
            if function is None:  # two threads may both look it up; they get the same function
                function = self._owned[module].get_function(kernel)
                self._functions[module][kernel] = function
            values = (np.void(one) if isinstance(one, bytes) else one for one in arguments)
            function(*values, grid=grid, block=block, stream=self._owned[stream])

    def _own(self, allocation: Any) -> int:
        address = int(allocation)
        self._owned[address] = allocation
        return address


@functools.cache
def _take_primary_context(index: int) -> tuple[Any, Gpu]:
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise no_driver(error) from error
    if index >= count:
        raise no_such_gpu(index, count)
    with _translate_errors("taking the primary context"):
        device = driver.Device(index)
        gpu = Gpu(device.name(), "{}.{}".format(*device.compute_capability()))
        context = device.retain_primary_context()
    # PyCUDA's destructor would detach the context as if it were not the primary one. Finalizers
    # run in reverse order, so engines that are still open are closed before this.
    weakref.finalize(driver, _detach, context, OwnProcess())
    return context, gpu


def _detach(context: Any, process: OwnProcess) -> None:
    if process.is_this():
        context.detach()


@contextlib.contextmanager
def _translate_errors(doing: str) -> Iterator[None]:
    """Turn PyCUDA's errors into ours. PyCUDA's texts name the call that failed."""
    try:
        yield
    except driver.Error as error:
        raise call_failed(doing, f"{type(error).__name__}: {error}") from error


def _refuse_graphs() -> NoReturn:
    raise call_failed("capturing a graph", "PyCUDA has no stream capture; cuda-python does")
