"""How long work reports how far it is."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]  # done, total
FrameProgress: TypeAlias = Callable[[int, int | None], None]  # done, total or None if not known
ProgressBars: TypeAlias = Callable[[str], AbstractContextManager[Progress | None]]


def no_bar(what: str) -> AbstractContextManager[None]:
    """A progress bar that shows nothing."""
    return contextlib.nullcontext()
