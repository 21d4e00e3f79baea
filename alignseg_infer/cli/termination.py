"""SIGTERM and SIGHUP end a command as Ctrl-C does, so that it can finish or remove its files.

None of the three interrupts an import. A native module whose initialisation is interrupted turns
that into an error of its own, such as ``ImportError: import numpy failed`` in ONNX Runtime, or
crashes the process.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
IMPORT_SYSTEM = "<frozen importlib._bootstrap>"  # the file of its functions
SECONDS_UNTIL_ASKED_AGAIN = 0.05  # whether an import is over
EXIT_INTERRUPTED = 130  # after Ctrl-C
FIRST_EXIT_CODE = 128  # plus the signal's number: the exit code of a process that a signal ended


@contextlib.contextmanager
def interrupted_by_signals(arrived: list[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP in this block; append to `arrived`.

    A terminal sends SIGHUP when it is closed, often twice; only the first one counts. Signals that
    are ignored, as after ``nohup``, stay ignored. One that arrives during an import waits for its
    end.
    """
    waiting: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            waiting.append(_send_later(number))
            return
        arrived.append(number)
        if number not in {signal.SIGINT, signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [
        number for number, handler in before.items() if handler not in {signal.SIG_IGN, None}
    ]
    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        try:
            for timer in waiting:
                timer.cancel()
                timer.join()  # what it still sends is handled here, and does not end the process
        finally:
            for number in handled:
                if signal.getsignal(number) == interrupt:  # otherwise the process is ending
                    signal.signal(number, before[number])


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


def _send_later(number: int) -> threading.Timer:
    """Send a signal to this process in a moment.

    `signal.raise_signal` would send it to the timer's thread, which ends no sleep of the main one.
    """
    timer = threading.Timer(SECONDS_UNTIL_ASKED_AGAIN, os.kill, [os.getpid(), number])
    timer.daemon = True
    timer.start()
    return timer
