"""The parts that a machine may have: packages, runtimes and the driver; and how each is asked.

Versions are read from the metadata of distributions, which loads nothing. `LOADERS` load a part and
say what it runs on; they run in a child process, see `probe`.
"""

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alignseg_infer.backports import packages_distributions
from alignseg_infer.doctor.runtimes import Target

CudaVersion = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """A part that this package uses.

    Attributes:
        title: Its name for people.
        module: The module that it is imported as; ``driver`` for NVIDIA's driver.
        distributions: Pattern of the distributions that provide it; None for those of the module.
        targets: What of it runs graphs of the catalogue.
    """

    title: str
    module: str
    distributions: str | None = None
    targets: tuple[Target, ...] = ()


PARTS = (
    Part("NumPy", "numpy"),
    Part("OpenCV", "cv2"),
    Part("ONNX Runtime", "onnxruntime", targets=(Target.ONNXRUNTIME,)),
    Part("OpenVINO", "openvino", targets=(Target.OPENVINO, Target.OPENVINO_BF16)),
    Part("PyTorch", "torch"),
    Part("ONNX", "onnx"),
    Part("TensorRT", "tensorrt", targets=(Target.TENSORRT,)),
    Part("TensorRT-RTX", "tensorrt_rtx", targets=(Target.TENSORRT_RTX,)),
    Part("CUDA Python", "cuda"),
    Part("PyCUDA", "pycuda"),
    Part("NVRTC", "nvrtc", r"nvidia-cuda-nvrtc(-cu\d+)?"),
    Part("PyAV", "av"),
)
DRIVER = Part("NVIDIA driver", "driver")


def installed_distributions() -> dict[str, str]:
    """Return the versions of all installed distributions, by their names in lower case."""
    return {
        str(one.metadata["Name"]).lower().replace("_", "-"): one.version
        for one in importlib.metadata.distributions()
        if one.metadata["Name"]
    }


def list_versions(installed: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return ``name version`` of each distribution of each of `PARTS`, by module.

    Args:
        installed: From `installed_distributions`.
    """
    modules = packages_distributions()
    found = {}
    for part in PARTS:
        if part.distributions is None:
            names = sorted({one.lower().replace("_", "-") for one in modules.get(part.module, ())})
        else:
            names = sorted(filter(re.compile(part.distributions).fullmatch, installed))
        found[part.module] = tuple(f"{name} {installed.get(name, '?')}" for name in names)
    return found


@dataclass(frozen=True)
class Loaded:
    """What a part that loads runs on, and the CUDA that it is for, or that the driver runs."""

    runs_on: str = ""
    cuda: CudaVersion | None = None


def load_part(module: str) -> Loaded:
    """Import a part, and ask what it runs on.

    Raises:
        Exception: It does not load, with whatever it raises.
    """
    loader = LOADERS.get(module)
    if loader is None:
        importlib.import_module(module)
        return Loaded()
    return loader()


def _load_opencv() -> Loaded:
    import cv2

    headless = bool(getattr(getattr(cv2, "version", None), "headless", False))
    return Loaded("without windows" if headless else "with windows")


def _load_onnxruntime() -> Loaded:
    from alignseg_infer.backends.onnxruntime_package import onnxruntime

    return Loaded(", ".join(onnxruntime.get_available_providers()))


def _load_openvino() -> Loaded:
    from alignseg_infer.backends.telemetry import without_openvino_telemetry

    with without_openvino_telemetry():
        import openvino

    return Loaded(", ".join(openvino.Core().available_devices))


def _load_torch() -> Loaded:
    import torch

    cuda = _parse_cuda(torch.version.cuda)
    if torch.cuda.is_available():
        return Loaded(f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}", cuda)
    return Loaded("CPU" if cuda is None else f"CPU; built for CUDA {torch.version.cuda}", cuda)


def _parse_cuda(text: str | None) -> CudaVersion | None:
    numbers = re.findall(r"\d+", text or "")[:2]
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else None


def _load_tensorrt(module: str) -> Loaded:
    from alignseg_infer.trt.builder.config import Session
    from alignseg_infer.trt.flavours import Flavour, load_tensorrt

    tensorrt = load_tensorrt(Flavour(module.replace("_", "-")))
    Session.of(tensorrt)
    return Loaded(_name_gpu() or "no GPU: builds, but does not run engines")


def _load_cuda_python() -> Loaded:
    importlib.import_module("alignseg_infer.cuda.with_cuda_python")
    return Loaded(_name_gpu() or "no NVIDIA GPU")


def _name_gpu() -> str | None:
    from alignseg_infer.cuda.opening import current_gpu
    from alignseg_infer.errors import MissingDependencyError

    try:
        gpu = current_gpu()
    except MissingDependencyError:
        return None
    return None if gpu is None else f"{gpu.name}, compute capability {gpu.compute_capability}"


def _load_pycuda() -> Loaded:
    from alignseg_infer.cuda.with_pycuda import PyCuda

    cuda = PyCuda(0)
    name = cuda.gpu.name
    cuda.close()
    return Loaded(name)


def _load_nvrtc() -> Loaded:
    from alignseg_infer.cuda.nvrtc import nvrtc_version

    version = nvrtc_version()
    return Loaded(f"compiles for CUDA {version[0]}.{version[1]}", version)


def _load_pyav() -> Loaded:
    import av

    return Loaded(f"FFmpeg {av.ffmpeg_version_info}")


def _load_driver() -> Loaded:
    from alignseg_infer.cuda.opening import driver_cuda_version

    version = driver_cuda_version()
    if version is None:
        raise OSError("there is none")
    return Loaded(f"runs CUDA {version[0]}.{version[1]}", version)


LOADERS: dict[str, Callable[[], Loaded]] = {
    "cv2": _load_opencv,
    "onnxruntime": _load_onnxruntime,
    "openvino": _load_openvino,
    "torch": _load_torch,
    "tensorrt": lambda: _load_tensorrt("tensorrt"),
    "tensorrt_rtx": lambda: _load_tensorrt("tensorrt_rtx"),
    "cuda": _load_cuda_python,
    "pycuda": _load_pycuda,
    "nvrtc": _load_nvrtc,
    "av": _load_pyav,
    "driver": _load_driver,
}
