"""How TensorRT's phases are told to whoever shows them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from alignseg_infer.trt.builder.progress import PhaseProgress

PhaseBars: TypeAlias = Callable[[], AbstractContextManager[PhaseProgress | None]]
