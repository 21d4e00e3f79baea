"""Compiles the CUDA kernels in ``plugins/kernels`` at run time, with NVIDIA's NVRTC.

The TensorRT plugin is built from the same files. NVRTC needs no compiler, no CUDA toolkit and no
GPU, and takes about a second for a kernel. Calls follow the NVRTC documentation, 12 and 13.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignseg_infer.cuda.sources import plugin_folder
from alignseg_infer.errors import CudaError, MissingDependencyError

try:
    try:
        from cuda.bindings import nvrtc
    except ModuleNotFoundError:  # before 12.6
        from cuda import nvrtc
except ImportError as error:
    raise MissingDependencyError(
        f"the CUDA kernels cannot be compiled: {error}",
        "the packages cuda-python and nvidia-cuda-nvrtc",
        "pip install cuda-python nvidia-cuda-nvrtc",
    ) from error

logger = logging.getLogger(__name__)


def kernel_folder() -> Path:
    """Return the folder of the kernels' sources."""
    return plugin_folder() / "kernels"


@functools.cache
def compile_kernel(name: str, compute_capability: str) -> bytes:
    """Compile the kernels of one source file, for `Cuda.load_module`.

    Args:
        name: The file, e.g. ``upsample_argmax`` for ``upsample_argmax_kernel.cu``.
        compute_capability: The GPU's, e.g. ``8.9``.

    Returns:
        A cubin, or PTX for a GPU that is newer than the installed NVRTC.

    Raises:
        MissingDependencyError: NVRTC's library is not installed, does not support this GPU, or
            cannot compile the file.
    """
    folder = kernel_folder()
    program = _call(
        "making a program",
        nvrtc.nvrtcCreateProgram,
        *((folder / f"{name}_kernel.cu").read_bytes(), f"{name}_kernel.cu".encode(), 0, [], []),
    )
    try:
        return _compile(program, folder, compute_capability)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def nvrtc_version() -> tuple[int, int]:
    """Return the version of CUDA that NVRTC belongs to, as (major, minor)."""
    status, major, minor = nvrtc.nvrtcVersion()
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, status
    return int(major), int(minor)


def _compile(program: Any, folder: Path, compute_capability: str) -> bytes:
    target = _choose_target(compute_capability)
    options = [f"--gpu-architecture={target}", f"--include-path={folder}", "--std=c++17"]
    encoded = [option.encode() for option in options]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise MissingDependencyError(
            f"this NVRTC cannot compile the kernels for {target}: {_read_log(program)}",
            "kernels that compile",
            "try another version: pip install --upgrade nvidia-cuda-nvrtc; and report this",
        )
    if target.startswith("sm_"):
        return _read_image(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    return _read_image(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)


def _choose_target(compute_capability: str) -> str:
    """Return ``sm_89`` if NVRTC knows it, else the newest older one, as ``compute_XX``."""
    wanted = int(compute_capability.replace(".", ""))
    # The architectures that NVRTC knows, such as 90; for a family with variants, the plain one.
    known = [int(number) for number in _call("listing architectures", _list_architectures)]
    older = [number for number in known if number <= wanted]
    if not older:
        raise MissingDependencyError(
            f"the installed NVRTC compiles for compute capability {min(known) / 10} and newer, "
            f"but this GPU has {compute_capability}",
            "an NVRTC that supports the GPU",
            "pip install nvidia-cuda-nvrtc-cu12, which supports older GPUs; or pass "
            "on_device=False to keep this on the CPU",
        )
    return f"sm_{wanted}" if wanted in older else f"compute_{max(older)}"


def _list_architectures() -> tuple[Any, ...]:
    status, count = nvrtc.nvrtcGetNumSupportedArchs()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        return status, count
    status, architectures = nvrtc.nvrtcGetSupportedArchs()
    return status, architectures[:count]


def _call(doing: str, function: Callable[..., tuple[Any, ...]], *arguments: object) -> Any:
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # cuda-python is installed, NVRTC's library is not
        raise MissingDependencyError(
            f"NVRTC compiles the CUDA kernels, but its library cannot be loaded: {error}",
            "libnvrtc of CUDA 12 or 13",
            "pip install nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 for CUDA 12)",
        ) from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        text = nvrtc.nvrtcGetErrorString(status)[1].decode()
        raise CudaError(f"{doing} in NVRTC failed: {text}", "no error from NVRTC", "report this")
    return results[0]


def _read_image(program: Any, size: Callable[..., Any], read: Callable[..., Any]) -> bytes:
    content = bytearray(_call("asking for the size of a kernel", size, program))
    (status,) = read(program, content)
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, status
    return bytes(content)


def _read_log(program: Any) -> str:
    content = bytearray(_call("asking for the log", nvrtc.nvrtcGetProgramLogSize, program))
    nvrtc.nvrtcGetProgramLog(program, content)
    return content.rstrip(b"\0").decode(errors="replace").strip()
