"""How long steps of an export tell how far they are."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from alignseg_infer.trt.builder.progress import PhaseProgress

Progress: TypeAlias = Callable[[int, int], None]
ProgressBars: TypeAlias = Callable[[str], AbstractContextManager[Progress | None]]
PhaseBars: TypeAlias = Callable[[], AbstractContextManager[PhaseProgress | None]]


def no_bar(what: str) -> AbstractContextManager[None]:
    """Return a progress bar that shows nothing."""
    return nullcontext()
