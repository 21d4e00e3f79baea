"""Checks that optional packages are installed, before any long work begins."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from alignseg_infer.errors import INSTALL_EXPORT, INSTALL_ONNX, MissingDependencyError

ONNX_PACKAGES = ("onnx", "onnxscript", "onnx_ir")


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
