"""Watches the machine while something is measured."""

import datetime
import importlib.metadata
import os
import platform
import sys
import time

from alignseg_infer.backends.processor import usable_cores
from alignseg_infer.benchmark.hardware import cpu_flags, cpu_name, gpu_states, processor_seconds
from alignseg_infer.benchmark.machine import Machine
from alignseg_infer.version import __version__

# Import name -> distribution. Only loaded packages are reported, since others play no part.
PACKAGES = {
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}
LEAST_WATCHED = 1.0  # seconds of processor time; the system counts in hundredths


class MachineWatch:
    """Watches the machine from its construction until `facts` is called."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._all, self._own = processor_seconds(), own_seconds()

    def facts(self) -> Machine:
        """Return what the machine is, and what else it did while it was watched."""
        gpus, others = gpu_states(), self._share_of_others()  # first, since they change with time
        return Machine(
            cpu=cpu_name(),
            cores=usable_cores(),
            flags=cpu_flags(),
            system=platform.platform(),
            python=platform.python_version(),
            versions=loaded_versions(),
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            load=self._load,
            others=others,
            gpus=gpus,
        )

    def _share_of_others(self) -> float | None:
        now, own = processor_seconds(), own_seconds() - self._own
        busy, everything = (after - before for after, before in zip(now, self._all, strict=True))
        if everything < LEAST_WATCHED:  # in some containers, the system's times do not advance
            return None
        return min(max((busy - own) / everything, 0.0), 1.0)


def own_seconds() -> float:
    """Return the processor time of this process and its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def loaded_versions() -> dict[str, str]:
    """Return the versions of this package and of the loaded `PACKAGES`."""
    versions = {"alignseg-infer": __version__}
    for module, distribution in PACKAGES.items():
        if module in sys.modules:
            versions[module if module != "cv2" else "opencv"] = _version(module, distribution)
    return versions


def _version(module: str, distribution: str) -> str:
    version = getattr(sys.modules[module], "__version__", None)
    text = str(version or importlib.metadata.version(distribution))
    return text.partition("-")[0]  # OpenVINO adds its build and branch
