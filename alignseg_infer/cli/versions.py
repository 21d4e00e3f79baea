"""``alignseg --version``: the version; with ``--verbose``, what a bug report should contain."""

import importlib.metadata
import platform
from collections.abc import Iterator

from alignseg_infer.backports import packages_distributions
from alignseg_infer.benchmark.machine import usable_cores
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.version import __version__

GIB = 1 << 30
# Title -> import name. Distributions are looked up by import name: several may have one module.
MODULES = {
    "NumPy": "numpy",
    "OpenCV": "cv2",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
    "PyTorch": "torch",
    "ONNX": "onnx",
    "TensorRT": "tensorrt",
    "TensorRT-RTX": "tensorrt_rtx",
    "CUDA Python": "cuda",
    "PyCUDA": "pycuda",
    "PyAV": "av",
}


def version_text(*, verbose: bool) -> str:
    """Return one line; if `verbose`, one more for each runtime and each part of the machine."""
    line = f"alignseg-infer {__version__}"
    if not verbose:
        return line
    return "\n".join([line, *(f"{title}: {fact}" for title, fact in _list_facts())])


def _list_facts() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    yield "System", platform.platform()
    distributions = packages_distributions()
    for title, module in MODULES.items():
        found = sorted(set(distributions.get(module, ())))
        versions = [f"{name} {importlib.metadata.version(name)}" for name in found]
        providers = [f"providers {_list_providers()}"] if found and module == "onnxruntime" else []
        yield title, ", ".join([*versions, *providers]) or "not installed"
    yield from _list_machine_facts()


def _list_providers() -> str:
    """Return the providers of ONNX Runtime, or why they are unknown."""
    try:
        from onnxruntime import get_available_providers
    except ImportError as error:  # removing one of two distributions breaks the other
        return f"unknown: {error}"
    return ", ".join(get_available_providers())


def _list_machine_facts() -> Iterator[tuple[str, str]]:
    """Yield facts about the hardware, fewer of them where the packages for `bench` are missing."""
    try:
        from alignseg_infer.benchmark import hardware
    except MissingDependencyError as error:
        yield "CPU", f"{platform.processor() or platform.machine()}, {usable_cores()} usable cores"
        yield "CPU flags, memory, GPU", f"unknown; {error.fix}"
        return
    flags = ", ".join(hardware.cpu_flags()) or "no known flags"
    yield "CPU", f"{hardware.cpu_name()}, {usable_cores()} usable cores, {flags}"
    total, available = hardware.memory_bytes()
    yield "Memory", f"{total / GIB:.1f} GiB, {available / GIB:.1f} GiB available"
    gpus = hardware.gpu_states()
    yield from (("GPU", str(gpu)) for gpu in gpus)
    if not gpus:
        yield "GPU", "none that NVIDIA's driver shows"
