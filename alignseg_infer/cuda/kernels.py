"""The CUDA kernels on one GPU, compiled when they are first used."""

import contextlib
import threading

from alignseg_infer.cuda.base import Cuda
from alignseg_infer.cuda.opening import driver_cuda_version
from alignseg_infer.cuda.plans import Launch
from alignseg_infer.errors import CudaError, MissingDependencyError

IMAGE_KERNELS = ("preprocess", "upsample_argmax")


class Kernels:
    """Launches kernels on one GPU. Each source file is compiled when it is first used.

    Several threads may use it at once.

    Args:
        cuda: The GPU.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._modules: dict[str, int] = {}
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()

    def load(self, *sources: str) -> None:
        """Compile and load source files now instead of later.

        Raises:
            MissingDependencyError: NVRTC, which compiles them, is not installed, or does not fit
                the driver or the GPU.
        """
        for source in sources:
            self.load_module(source)

    def run(self, launch: Launch, stream: int) -> None:
        """Start a kernel. Call this inside ``with cuda.current():``.

        Raises:
            MissingDependencyError, CudaError: `load` would raise it, or the launch fails.
        """
        if launch.blocks == 0:
            return
        module = self._modules.get(launch.source)
        self._cuda.launch(
            self.load_module(launch.source) if module is None else module,
            launch.kernel,
            (launch.params,),
            grid=(launch.blocks, 1, 1),
            block=(launch.threads, 1, 1),
            stream=stream,
        )

    def close(self) -> None:
        """Unload everything. No kernel may be running."""
        with self._cuda.current():
            self._stack.close()
        self._modules.clear()

    def load_module(self, source: str) -> int:
        """Return the module of a source file; compile and load it if that was not done before.

        Raises:
            MissingDependencyError: As `load` does.
        """
        from alignseg_infer.cuda.nvrtc import compile_kernel

        with self._lock:
            if source not in self._modules:
                image = compile_kernel(source, self._cuda.gpu.compute_capability)
                with self._cuda.current():
                    try:
                        module = self._cuda.load_module(image)
                    except CudaError as error:
                        raise _driver_error(error) from error
                    self._stack.callback(self._cuda.free_module, module)
                self._modules[source] = module
            return self._modules[source]


def _driver_error(error: CudaError) -> MissingDependencyError:
    """Return the error for compiled kernels that the driver does not load."""
    from alignseg_infer.cuda.nvrtc import nvrtc_version

    driver, compiler = driver_cuda_version(), nvrtc_version()
    known = f"CUDA {driver[0]}.{driver[1]}" if driver else "an unknown CUDA"
    advice = "update the driver"
    if driver is not None and driver[0] < compiler[0]:
        advice += (
            f", or take an NVRTC for its CUDA: pip install 'cuda-python<{driver[0] + 1}' "
            f"nvidia-cuda-nvrtc-cu{driver[0]}"
        )
    return MissingDependencyError(
        f"the driver, which runs {known}, does not load the kernels that NVRTC "
        f"{compiler[0]}.{compiler[1]} compiled: {error.problem}",
        "an NVRTC that is not newer than the driver",
        f"{advice}; or pass on_device=False to keep this on the CPU",
    )
