"""Checks that packages are installed, before any long work begins.

OpenCV and ONNX Runtime are no requirements of this package, since each comes in several
distributions of which a user chooses one: the extras ``cpu``, ``gpu``, ``desktop`` and
``desktop-gpu`` bring one of each.
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alignseg_infer.errors import INSTALL_EXPORT, INSTALL_ONNX, MissingDependencyError

logger = logging.getLogger(__name__)

_ABSENT = re.compile(r"No module named '(\w+)")
_LACKS_LIBRARY = "cannot open shared object file"  # in the message of ImportError
ONNX_PACKAGES = ("onnx", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class SharedModule:
    """A module that several distributions write; the last one that was installed wins.

    Attributes:
        title: Its name for people.
        module: Its import name.
        distributions: All that write it. Of several, the first of these that is there is kept.
        default: The distribution that fits most machines.
    """

    title: str
    module: str
    distributions: tuple[str, ...]
    default: str


OPENCV = SharedModule(
    "OpenCV",
    "cv2",
    (
        "opencv-contrib-python",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-python-headless",
    ),
    "opencv-python-headless",
)
ONNXRUNTIME = SharedModule(
    "ONNX Runtime",
    "onnxruntime",
    (
        "onnxruntime-gpu",
        "onnxruntime-directml",
        "onnxruntime-migraphx",
        "onnxruntime-openvino",
        "onnxruntime-qnn",
        "onnxruntime-rocm",
        "onnxruntime-silicon",
        "onnxruntime-training",
        "onnxruntime",
    ),
    "onnxruntime",
)


def command_of(module: str) -> list[str]:
    """Return the command that runs ``main`` of one of our modules in a process of its own.

    The process imports what this one would. With ``-m``, Python would look into the working
    directory first, where a file may have the name of any module.
    """
    path = [one for one in sys.path if isinstance(one, str)]
    start = f"import sys; sys.path[:] = {path!r}; from {module} import main; main()"
    return [sys.executable, "-c", start]


def require_packages(packages: Sequence[str], install: str) -> None:
    """Check that optional packages can be imported.

    Args:
        packages: Their import names.
        install: The command that installs them.

    Raises:
        MissingDependencyError: A package cannot be imported.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingDependencyError(
                f"this needs the package {package}, which is not installed",
                f"the packages {', '.join(packages)}",
                install,
            ) from error


def require_export_packages(model: Path) -> None:
    """Check that the packages that export `model` are installed; an ``.onnx`` needs no PyTorch.

    Raises:
        MissingDependencyError: A package is not installed.
    """
    if model.suffix.lower() == ".onnx":
        require_packages(ONNX_PACKAGES, INSTALL_ONNX)
    else:
        require_packages(("torch", *ONNX_PACKAGES), INSTALL_EXPORT)
    require_shared(ONNXRUNTIME)  # compares what is exported


def require_shared(shared: SharedModule) -> None:
    """Check that a module can be imported that several distributions write.

    Raises:
        MissingDependencyError: It is not installed, is broken, or is what is left of it after one
            of two distributions was uninstalled.
    """
    try:
        module = importlib.import_module(shared.module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == shared.module
        if absent and not installed_of(shared):
            problem = f"{shared.title} is not installed"
        else:
            problem = f"{shared.title} cannot be imported: {error}"
        raise _unusable(shared, problem, str(error)) from error
    if getattr(module, "__file__", None) is None and hasattr(module, "__path__"):
        folders = " and ".join(module.__path__)
        raise _unusable(
            shared,
            f"{folders} is only what is left of {shared.title}, as after one of two packages that "
            "share the folder was uninstalled",
        )


def installed_of(shared: SharedModule) -> list[str]:
    """Return the installed distributions that write a module, in the order of their names."""
    return [name for name in sorted(shared.distributions) if version_of(name) is not None]


def replacement(removed: Collection[str], kept: str) -> str:
    """Return the commands that leave one distribution of several, whole.

    To uninstall only the others would remove files of the one that stays, and pip, which believes
    it to be whole, would not install it again.
    """
    return f"pip uninstall -y {' '.join(removed)} && pip install {kept}"


INSTALL_GPU_ONNXRUNTIME = replacement(("onnxruntime", "onnxruntime-gpu"), "onnxruntime-gpu")


def describe_several(shared: SharedModule, names: Sequence[str]) -> tuple[str, str]:
    """Return what is wrong if these distributions of a module are installed, and what to type."""
    kept = next(name for name in shared.distributions if name in names)
    return (
        f"{' and '.join(names)} are both installed, and both are the module {shared.module}: "
        "the last one that was installed wins, and removing either breaks the other",
        replacement(names, kept),
    )


@cache  # once in a process
def warn_of_several(shared: SharedModule) -> None:
    """Log a warning if several distributions of an imported module are installed."""
    names = installed_of(shared)
    if len(names) > 1:
        problem, fix = describe_several(shared, names)
        logger.warning("%s; here, %s won; to leave one: %s", problem, _winner(shared), fix)


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _winner(shared: SharedModule) -> str:
    """Return the distribution that the module says it is of."""
    if shared is ONNXRUNTIME:
        facts = importlib.import_module("onnxruntime.capi.build_and_package_info")
        return str(facts.package_name)
    facts = importlib.import_module("cv2.version")
    contrib = "-contrib" if facts.contrib else ""
    return f"opencv{contrib}-python" + ("-headless" if facts.headless else "")


def _unusable(shared: SharedModule, problem: str, error: str = "") -> MissingDependencyError:
    return MissingDependencyError(
        problem,
        f"the module {shared.module}, of {shared.default} or another package that has it",
        _repair(shared, installed_of(shared), error),
    )


def _repair(shared: SharedModule, names: list[str], error: str) -> str:
    """Return what to type for a module that cannot be imported.

    Args:
        shared: The module.
        names: Its installed distributions.
        error: What importing it raised.
    """
    if not names:
        return _install(shared)
    opens_windows = shared is OPENCV and not any("headless" in name for name in names)
    if opens_windows and _LACKS_LIBRARY in error:  # of the system, such as libGL on a server
        return replacement(names, shared.default)
    absent = _ABSENT.search(error)
    if absent and absent[1] != shared.module:  # what it needs, such as numpy
        return f"pip install --force-reinstall {names[0]}"
    if len(names) == 1:
        return f"pip install --force-reinstall --no-deps {names[0]}"
    return describe_several(shared, names)[1]


def _install(shared: SharedModule) -> str:
    if shared is ONNXRUNTIME:
        return "pip install onnxruntime, or for an NVIDIA GPU: pip install onnxruntime-gpu"
    has_runtime = installed_of(ONNXRUNTIME) or importlib.util.find_spec(ONNXRUNTIME.module)
    return f"pip install {'' if has_runtime else 'onnxruntime '}{shared.default}"
