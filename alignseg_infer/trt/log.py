"""What TensorRT says, kept for our error messages."""

import logging
from collections import deque
from typing import Any

from alignseg_infer.trt.flavours import TensorRT

logger = logging.getLogger(__name__)

_KEPT = 8  # messages; the first says what went wrong, the others follow from it
_TELLING = ("ERROR", "INTERNAL_ERROR")


def new_log(tensorrt: TensorRT) -> Any:
    """A logger for `tensorrt`: warnings go to ours, errors wait for `take_errors`.

    It must outlive every object made with it ("ILogger" in TensorRT's Python API reference).
    """
    module: Any = tensorrt.module

    class Log(module.ILogger):  # type: ignore[misc]  # the module is only known here
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
            return "; ".join(errors) or "TensorRT gives no reason"

    return Log()
