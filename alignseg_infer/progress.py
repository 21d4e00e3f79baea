"""Types for functions that report their progress."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]  # done, total
FrameProgress: TypeAlias = Callable[[int, int | None], None]  # done, total (None if unknown)
BatchProgress: TypeAlias = Callable[[int, int, int], None]  # done (with failures), total, failures
ProgressBars: TypeAlias = Callable[[str], AbstractContextManager[Progress | None]]


def no_bar(what: str) -> AbstractContextManager[None]:
    """Return a progress bar that shows nothing."""
    return contextlib.nullcontext()
