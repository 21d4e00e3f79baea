"""Turns signals that end a process into an exception, so that a command can clean up."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
FIRST_EXIT_CODE = 128  # plus the signal's number: the exit code of a process that a signal ended


@contextlib.contextmanager
def terminated_by_exception() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP in this block, so that files are finished or removed.

    A terminal sends SIGHUP when it is closed, often twice; only the first one counts. Signals that
    are ignored, as after ``nohup``, stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in handled:
            if signal.getsignal(number) == _exit:  # otherwise it arrived and the process is ending
                signal.signal(number, before[number])


def _exit(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(FIRST_EXIT_CODE + number)
