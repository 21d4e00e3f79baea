"""TensorRT's log, kept for our error messages."""

import logging
from collections import deque
from typing import Protocol

from alignseg_infer.trt.bindings import Enumerator, ILogger
from alignseg_infer.trt.flavours import Module, TensorRT

logger = logging.getLogger(__name__)

_KEPT = 8  # messages; the first says what went wrong, the others are consequences
NO_REASON = "TensorRT gives no reason"
_TELLING = ("ERROR", "INTERNAL_ERROR")


class ErrorLog(ILogger, Protocol):
    """A logger that keeps errors."""

    def take_errors(self) -> str:
        """Return the errors since the last call in one line."""
        ...


def new_log(tensorrt: TensorRT) -> ErrorLog:
    """Create a logger that passes warnings to our log and keeps errors for `take_errors`.

    It must outlive every object made with it ("ILogger" in TensorRT's Python API reference).
    """
    module = tensorrt.module

    class Log(module.ILogger):  # type: ignore[misc,name-defined]  # known only at run time
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=_KEPT)

        def log(self, severity: Enumerator, msg: str) -> None:
            if severity.name in _TELLING and len(self._errors) < _KEPT:
                self._errors.append(msg.strip())
            elif severity.name == "WARNING":
                logger.warning("%s: %s", tensorrt.flavour, msg.strip())

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


def new_logger(module: Module, messages: Messages) -> ILogger:
    """Create a TensorRT logger that writes to `messages`; it must outlive what is made with it."""

    class Collecting(module.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Enumerator, msg: str) -> None:
            messages.add(severity.name, msg)

    return Collecting()
