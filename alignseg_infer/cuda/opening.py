"""Opening a GPU through whichever Python package for CUDA is installed."""

import ctypes
import sys

from alignseg_infer.cuda.base import Cuda, CudaPackage, Gpu
from alignseg_infer.errors import DeviceError, MissingDependencyError, OptionError

_VERSION_LENGTH = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE


def open_cuda(index: int = 0, package: str = CudaPackage.AUTO) -> Cuda:
    """Open the GPU with number `index`.

    Raises:
        MissingDependencyError: The package is not installed; for ``auto``, none of them is.
        DeviceError: There is no driver, or no GPU with this number.
        OptionError: `package` is not a value of `CudaPackage`.
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
    """Return the first GPU, where TensorRT builds, or None without a driver or GPU.

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


def driver_cuda_version() -> tuple[int, int] | None:
    """Return the newest CUDA that the driver runs, as (major, minor); None without a driver."""
    version = ctypes.c_int()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuDriverGetVersion(ctypes.byref(version)):
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def driver_version() -> str | None:
    """Return the version of the driver, such as ``580.95.05``; None without a driver.

    Where NVML, which knows it, is missing, return the newest CUDA that the driver runs.
    """
    text = ctypes.create_string_buffer(_VERSION_LENGTH)
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() == 0:
            fails = nvml.nvmlSystemGetDriverVersion(text, _VERSION_LENGTH)
            nvml.nvmlShutdown()
            if not fails:
                return text.value.decode(errors="replace")
    except (OSError, AttributeError):
        pass
    cuda = driver_cuda_version()
    return f"CUDA {cuda[0]}.{cuda[1]}" if cuda else None


def _open_cuda_python(index: int) -> Cuda:
    from alignseg_infer.cuda.with_cuda_python import CudaPython

    return CudaPython(index)


def _open_pycuda(index: int) -> Cuda:
    from alignseg_infer.cuda.with_pycuda import PyCuda

    return PyCuda(index)
