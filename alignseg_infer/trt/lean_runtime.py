"""The library that TensorRT puts into version-compatible engines, which pip installs separately."""

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from alignseg_infer.errors import BuildError
from alignseg_infer.trt.flavours import TensorRT

PACKAGE = "tensorrt_lean_libs"  # of tensorrt-lean-cu12 and tensorrt-lean-cu13


def load_lean_runtime(tensorrt: TensorRT) -> None:
    """Load the lean runtime, so that TensorRT finds it when it builds.

    TensorRT looks for the library by its name, among those that the process has loaded and in the
    system's folders. The folder of pip's package is not one of them. On Windows, nothing is done.

    Raises:
        BuildError: It is not installed, or cannot be loaded.
    """
    if sys.platform == "win32":
        return
    name = f"libnvinfer_lean.so.{tensorrt.version[0]}"
    problems = []
    for path in _candidates(name):
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            problems.append(str(error))
        else:
            return
    raise BuildError(
        f"a version-compatible engine contains TensorRT's lean runtime, which cannot be loaded: "
        f"{'; '.join(problems)}",
        f"{name}, in a folder of LD_LIBRARY_PATH or in pip's package {PACKAGE}",
        f"pip install tensorrt-lean-cu13=={tensorrt.version_text} (tensorrt-lean-cu12 for CUDA "
        "12); or version_compatible=False",
    )


def _candidates(name: str) -> Iterator[str]:
    """Yield where the library may be: in pip's package, and wherever the system looks."""
    package = importlib.util.find_spec(PACKAGE)
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / name).is_file():
            yield str(Path(folder) / name)
    yield name
