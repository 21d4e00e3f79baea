"""SIGTERM and SIGHUP end a command as Ctrl-C does, so that it can finish or remove its files."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
EXIT_INTERRUPTED = 130  # after Ctrl-C
FIRST_EXIT_CODE = 128  # plus the signal's number: the exit code of a process that a signal ended


@contextlib.contextmanager
def interrupted_by_signals(arrived: list[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP in this block; append them to `arrived`.

    A terminal sends SIGHUP when it is closed, often twice; only the first one counts. Signals that
    are ignored, as after ``nohup``, stay ignored.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in handled:
            if signal.getsignal(number) == interrupt:  # otherwise it arrived; the process is ending
                signal.signal(number, before[number])


def caused_by_interruption(error: BaseException | None) -> bool:
    """Return whether an error is what became of a KeyboardInterrupt.

    While ONNX Runtime is imported, it turns one into ``ImportError: initialization failed``, and
    the package would be called broken. What merely happens while a command is tidying up after a
    signal, such as a full disk, has no such cause.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error may be its own cause
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False
