"""TensorRT's log, kept for our error messages."""

import logging
from collections import deque
from typing import Any

from alignseg_infer.trt.flavours import TensorRT

logger = logging.getLogger(__name__)

_KEPT = 8  # messages; the first says what went wrong, the others are consequences
NO_REASON = "TensorRT gives no reason"
_TELLING = ("ERROR", "INTERNAL_ERROR")


def new_log(tensorrt: TensorRT) -> Any:
    """Create a logger that passes warnings to our log and keeps errors for `take_errors`.

    It must outlive every object made with it ("ILogger" in TensorRT's Python API reference).
    """
    module: Any = tensorrt.module

    class Log(module.ILogger):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=_KEPT)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in _TELLING and len(self._errors) < _KEPT:
                self._errors.append(message.strip())
            elif severity.name == "WARNING":
                logger.warning("%s: %s", tensorrt.flavour, message.strip())

        def take_errors(self) -> str:
            errors = [self._errors.popleft() for _ in range(len(self._errors))]
            return "; ".join(errors) or NO_REASON

    return Log()


class Messages:
    """The `errors` and `warnings` that TensorRT logged, in their order."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def list_errors(self) -> str:
        """Return the errors in one line."""
        return "; ".join(self.errors) or NO_REASON

    def add(self, severity: str, message: str) -> None:
        """Keep an error or a warning, and pass every message to our log, at debug level."""
        logger.debug("TensorRT %s: %s", severity.lower().replace("_", " "), message)
        if severity in {"ERROR", "INTERNAL_ERROR"}:
            self.errors.append(message)
        elif severity == "WARNING":
            self.warnings.append(message)


def new_logger(module: Any, messages: Messages) -> Any:
    """Create a TensorRT logger that writes to `messages`; it must outlive what is made with it."""

    class Collecting(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            messages.add(severity.name, message)

    return Collecting()
