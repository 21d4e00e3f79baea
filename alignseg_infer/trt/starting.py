"""Starts TensorRT's builder and runtime, and says why TensorRT does not start."""

import importlib.metadata
import re
from collections.abc import Callable
from typing import TypeVar

from alignseg_infer.cuda.opening import driver_cuda_version
from alignseg_infer.errors import DeviceError
from alignseg_infer.packages import replacement
from alignseg_infer.trt.flavours import Flavour, TensorRT

_T = TypeVar("_T")

_OLDEST_CUDA = 12  # that TensorRT and TensorRT for RTX of today have packages for
NO_OBJECT = "nullptr"  # in the message of pybind11, whose factory returned no object


def start(tensorrt: TensorRT, make: Callable[[], _T], logged: Callable[[], str]) -> _T:
    """Return TensorRT's builder or runtime.

    Args:
        tensorrt: Which TensorRT.
        make: Makes the object.
        logged: Returns what TensorRT logged meanwhile.

    Raises:
        DeviceError: TensorRT does not start: there is no driver or GPU, or the driver is too old.
    """
    try:
        return make()
    except TypeError as error:
        if NO_OBJECT not in str(error):
            raise
        reason = logged()
    raise _error(tensorrt, reason, driver_cuda_version(), _cuda_of(tensorrt))


def _error(
    tensorrt: TensorRT, reason: str, driver: tuple[int, int] | None, needs: int | None
) -> DeviceError:
    """Return the error; `driver` runs up to that CUDA, and TensorRT `needs` this major version."""
    cuda = f"CUDA {needs}" if needs else "an unknown CUDA"
    seen = f"the NVIDIA driver runs CUDA {driver[0]}.{driver[1]}" if driver else "no NVIDIA driver"
    return DeviceError(
        f"{tensorrt.flavour} {tensorrt.version_text}, built for {cuda}, does not start ({reason}); "
        f"found: {seen}",
        f"an NVIDIA GPU with a driver that runs {cuda if needs else 'its CUDA'} or newer",
        _advice(tensorrt.flavour, driver, needs),
    )


def _advice(flavour: Flavour, driver: tuple[int, int] | None, needs: int | None) -> str:
    if driver is None:
        advice = "nvidia-smi shows whether there is a GPU; without one, run the .onnx model"
        if flavour is Flavour.TENSORRT:
            advice += ", or build with flavour='tensorrt-rtx', which needs no GPU"
        return advice
    if needs and driver[0] < needs:
        older = f", or: {_replacement(flavour, driver[0])}" if driver[0] >= _OLDEST_CUDA else ""
        return f"update the driver{older}"
    return "nvidia-smi shows whether the GPU works, and which programs use its memory"


def _cuda_of(tensorrt: TensorRT) -> int | None:
    """Return the major version of CUDA that the installed wheels of TensorRT are for."""
    found = [_CUDA.search(name) for name in _distributions(tensorrt.flavour)]
    return max((int(match[1]) for match in found if match), default=None)


_CUDA = re.compile(r"cu(\d+)")


def _distributions(flavour: Flavour) -> list[str]:
    """Return the names of the installed distributions of this TensorRT."""
    names = {
        str(one.metadata["Name"]).lower().replace("_", "-")
        for one in importlib.metadata.distributions()
    }
    is_rtx = flavour is Flavour.TENSORRT_RTX
    return sorted(
        name
        for name in names
        if re.fullmatch(r"tensorrt(-rtx)?(-cu\d+)?(-bindings|-libs)?", name)
        and name.startswith("tensorrt-rtx") is is_rtx
    )


def _replacement(flavour: Flavour, cuda: int) -> str:
    """Return the commands that replace this TensorRT by one for another CUDA."""
    return replacement(_distributions(flavour), f"{flavour}-cu{cuda}")
