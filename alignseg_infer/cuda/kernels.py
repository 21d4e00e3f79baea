"""The CUDA kernels on one GPU, compiled when they are first used."""

import contextlib
import threading

from alignseg_infer.cuda.base import Cuda
from alignseg_infer.cuda.plans import Launch

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
            MissingDependencyError: NVRTC, which compiles them, is not installed.
            CudaError: They do not compile or load.
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
        """Return the module of a source file; compile and load it if that was not done before."""
        from alignseg_infer.cuda.nvrtc import compile_kernel

        with self._lock:
            if source not in self._modules:
                image = compile_kernel(source, self._cuda.gpu.compute_capability)
                with self._cuda.current():
                    module = self._cuda.load_module(image)
                    self._stack.callback(self._cuda.free_module, module)
                self._modules[source] = module
            return self._modules[source]
