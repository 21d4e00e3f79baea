"""Finds packages that exclude each other, and what mends each clash."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from alignseg_infer.doctor.asking import Answer
from alignseg_infer.doctor.parts import CudaVersion
from alignseg_infer.packages import (
    ONNXRUNTIME,
    OPENCV,
    SharedModule,
    describe_several,
    replacement,
)
from alignseg_infer.text import version_numbers

OPENCV_FOR_NUMPY_2 = (4, 10)  # earlier wheels were built for NumPy 1 only


@dataclass(frozen=True)
class Clash:
    """Something that does not go together.

    Attributes:
        parts: The modules that it is about.
        problem: What was seen.
        fix: What to type.
    """

    parts: tuple[str, ...]
    problem: str
    fix: str


_CUDA_OF_TENSORRT = re.compile(
    r"(?P<flavour>tensorrt(?:-rtx)?)-cu(?P<cuda>\d+)(?:-(?:bindings|libs))?"
)


def find_clashes(
    installed: Mapping[str, str], answers: Mapping[str, Answer], driver: CudaVersion | None
) -> list[Clash]:
    """Return all clashes on this machine.

    Args:
        installed: Versions of the installed distributions, by name.
        answers: What the parts said, by module.
        driver: The newest CUDA that NVIDIA's driver runs; None without a driver.
    """
    found = [clash for one in (OPENCV, ONNXRUNTIME) for clash in _find_doubles(one, installed)]
    found += _find_two_tensorrts(installed, driver)
    found += _find_old_opencv(installed)
    for module, answer in answers.items():
        found += [Clash((module,), problem, fix) for problem, fix in answer.clashes]
    return found + _find_too_new(answers, driver, installed)


def _find_doubles(shared: SharedModule, installed: Mapping[str, str]) -> list[Clash]:
    names = sorted(name for name in shared.distributions if name in installed)
    return [Clash((shared.module,), *describe_several(shared, names))] if len(names) > 1 else []


def _find_two_tensorrts(installed: Mapping[str, str], driver: CudaVersion | None) -> list[Clash]:
    """Wheels of TensorRT for two versions of CUDA have one module too."""
    names: dict[str, dict[int, list[str]]] = {}
    for name in sorted(installed):
        if match := _CUDA_OF_TENSORRT.fullmatch(name):
            by_cuda = names.setdefault(match["flavour"], {})
            by_cuda.setdefault(int(match["cuda"]), []).append(name)
    clashes = []
    for flavour, by_cuda in names.items():
        if len(by_cuda) > 1:
            versions = " and ".join(map(str, sorted(by_cuda)))
            own = [flavour] if flavour in installed else []
            every = [*own, *(name for found in by_cuda.values() for name in found)]
            kept = driver[0] if driver and driver[0] in by_cuda else max(by_cuda)
            clashes.append(
                Clash(
                    (flavour.replace("-", "_"),),
                    f"{flavour} is installed for CUDA {versions}, as one module: the last one "
                    "that was installed wins",
                    replacement(every, f"{flavour}-cu{kept}"),
                )
            )
    return clashes


def _find_old_opencv(installed: Mapping[str, str]) -> list[Clash]:
    numpy = version_numbers(installed.get("numpy", ""))
    return [
        Clash(
            ("cv2", "numpy"),
            f"{name} {version} was built for NumPy 1, but numpy {installed['numpy']} is installed",
            f"pip install --upgrade {name}",
        )
        for name, version in sorted(installed.items())
        if name in OPENCV.distributions
        and numpy >= (2,)
        and version_numbers(version) < OPENCV_FOR_NUMPY_2
    ]


def _find_too_new(
    answers: Mapping[str, Answer], driver: CudaVersion | None, installed: Mapping[str, str]
) -> list[Clash]:
    """Find what is for a newer major version of CUDA than the driver runs.

    TensorRT says so itself when it does not start (`trt.starting`).
    """
    clashes = []
    for module, fix in _FOR_OLDER.items():
        cuda = answers[module].cuda if module in answers else None
        if driver is not None and cuda is not None and cuda[0] > driver[0]:
            wheel = next((name for name in sorted(installed) if name.startswith(_NVRTC)), _NVRTC)
            clashes.append(
                Clash(
                    (module,),
                    f"{module} is for CUDA {cuda[0]}.{cuda[1]}, but the NVIDIA driver runs only "
                    f"CUDA {driver[0]}.{driver[1]}",
                    "update the driver" + fix.format(wheel=wheel, driver=driver[0]),
                )
            )
    return clashes


_NVRTC = "nvidia-cuda-nvrtc"
_FOR_OLDER = {
    "nvrtc": ", or: pip uninstall -y {wheel} && pip install nvidia-cuda-nvrtc-cu{driver}",
    "torch": ", or install a PyTorch for CUDA {driver}, as its own page of downloads says",
}
