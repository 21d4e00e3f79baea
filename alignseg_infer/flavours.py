"""TensorRT comes in two flavours with nearly the same Python API; this is where they differ.

``tensorrt`` builds on the GPU that will run the engine. ``tensorrt_rtx`` (TensorRT for RTX) is for
consumer GPUs; it builds engines without any GPU, and has no plugins.
"""

import importlib
import re
from enum import StrEnum
from typing import Any, NamedTuple

from alignseg_infer.errors import MissingDependencyError


class Runtime(StrEnum):
    """Which TensorRT."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


_INSTALL = {
    Runtime.TENSORRT: "pip install tensorrt, on a machine with an NVIDIA GPU (tensorrt-cu12 for "
    "CUDA 12); or --runtime tensorrt-rtx, which builds without one: pip install tensorrt-rtx-cu13",
    Runtime.TENSORRT_RTX: "pip install tensorrt-rtx-cu13 (or -cu12); builds without a GPU",
}
_OLDEST = {Runtime.TENSORRT: (10, 0), Runtime.TENSORRT_RTX: (1, 0)}


class TensorRT(NamedTuple):
    """An imported TensorRT.

    Attributes:
        runtime: Its flavour.
        module: ``tensorrt`` or ``tensorrt_rtx``.
        version: As numbers, e.g. (11, 4, 0, 106).
    """

    runtime: Runtime
    module: Any
    version: tuple[int, ...]

    @property
    def version_text(self) -> str:
        """E.g. ``11.4.0.106``."""
        return ".".join(map(str, self.version))


def load_tensorrt(runtime: Runtime) -> TensorRT:
    """Imports TensorRT.

    Raises:
        MissingDependencyError: It is not installed, or too old.
    """
    name = runtime.value.replace("-", "_")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"the Python package {name} cannot be imported: {error}",
            f"{runtime} {'.'.join(map(str, _OLDEST[runtime]))} or newer",
            _INSTALL[runtime],
        ) from error
    version = tuple(int(number) for number in re.findall(r"\d+", module.__version__))
    if version < _OLDEST[runtime]:
        raise MissingDependencyError(
            f"{runtime} {module.__version__} is installed",
            f"{'.'.join(map(str, _OLDEST[runtime]))} or newer",
            _INSTALL[runtime],
        )
    return TensorRT(runtime, module, version)
