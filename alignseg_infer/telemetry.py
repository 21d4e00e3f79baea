"""Keeps the runtimes that this package loads from reporting on their users.

ONNX Runtime's Linux wheels from 1.29 on write a device id to the cache folder and look up an event
host when a model is loaded; their thread also keeps forked children from ending. OpenVINO writes a
client id and looks up an analytics host when it is imported. A robot or a hospital cannot have
either, so both are switched off before they are imported, unless the user switched them on.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ONNXRUNTIME_SWITCH = "ORT_DISABLE_TELEMETRY"  # read when a model is loaded; 0 switches it on
OPENVINO_CONSENT = Path("intel", "openvino_telemetry")  # in the home folder; `opt_in_out` writes it
OPENVINO_PACKAGE = "openvino_telemetry"


def disable_onnxruntime_telemetry() -> None:
    """Switch ONNX Runtime's telemetry off for this process and its children.

    An environment variable that the user has set already stays as it is.
    """
    os.environ.setdefault(ONNXRUNTIME_SWITCH, "1")


@contextlib.contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """Hide the package that reports for OpenVINO from the imports in this block.

    OpenVINO then takes the stub that it brings for this case. Nothing is hidden where the user
    answered OpenVINO's own question (``opt_in_out --opt_in`` or ``--opt_out``).
    """
    answered = (Path.home() / OPENVINO_CONSENT).exists()
    if answered or OPENVINO_PACKAGE in sys.modules:
        yield
        return
    sys.modules[OPENVINO_PACKAGE] = None  # type: ignore[assignment]  # an import of it now fails
    try:
        yield
    finally:
        del sys.modules[OPENVINO_PACKAGE]
