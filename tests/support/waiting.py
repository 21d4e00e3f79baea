"""Waiting for what another thread or process does, however busy the machine is."""

import time
from collections.abc import Callable

PATIENCE = 120.0  # s; passed by tests that fail only


def eventually(condition: Callable[[], bool]) -> bool:
    """Return whether `condition` comes true."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()
