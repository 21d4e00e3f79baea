"""What ends a command from outside, as an exception that lets it tidy up."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
FIRST_EXIT_CODE = 128  # of a process that a signal ended, plus the signal's number


@contextlib.contextmanager
def terminated_by_exception() -> Iterator[None]:
    """In this block SIGTERM and SIGHUP raise SystemExit, so that files are finished and removed.

    SIGHUP is what a terminal sends that is closed, often twice: only the first one counts. A signal
    that is ignored, as after ``nohup``, stays so.
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
            if signal.getsignal(number) == _exit:  # else it came, and the process ends now
                signal.signal(number, before[number])


def _exit(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(FIRST_EXIT_CODE + number)
