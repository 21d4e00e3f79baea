"""Prevents the runtimes that this package loads from sending data about their users.

From 1.29 on, ONNX Runtime's Linux wheels write a device id to the cache folder when they are
imported, and look up an event host when a model is loaded; their thread also keeps forked children
from ending. When OpenVINO
is imported, it writes a client id and looks up an analytics host. Robots and hospitals cannot
accept this, so both are switched off before they are imported, unless the user switched them on.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ONNXRUNTIME_SWITCH = "ORT_DISABLE_TELEMETRY"  # read when ONNX Runtime is imported; 0 switches it on
OPENVINO_CONSENT = Path("intel", "openvino_telemetry")  # `opt_in_out` writes it in the home folder
OPENVINO_PACKAGE = "openvino_telemetry"


def disable_onnxruntime_telemetry() -> None:
    """Switch ONNX Runtime's telemetry off for this process and its children.

    If the user has set the environment variable, it stays as it is.
    """
    os.environ.setdefault(ONNXRUNTIME_SWITCH, "1")


@contextlib.contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry package from the imports in this block.

    OpenVINO then uses the stub that it contains for this case. If the user has answered OpenVINO's
    own question (``opt_in_out --opt_in`` or ``--opt_out``), nothing is hidden.
    """
    answered = (Path.home() / OPENVINO_CONSENT).exists()
    if answered or OPENVINO_PACKAGE in sys.modules:
        yield
        return
    sys.modules[OPENVINO_PACKAGE] = None  # type: ignore[assignment]  # importing it now fails
    try:
        yield
    finally:
        del sys.modules[OPENVINO_PACKAGE]
