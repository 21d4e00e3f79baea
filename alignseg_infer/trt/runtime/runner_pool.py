"""A pool of runners for callers on several threads: each call borrows one for itself."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from alignseg_infer.backend import OwnProcess
from alignseg_infer.errors import AlignSegError, EngineError
from alignseg_infer.trt.runtime.runner import EngineRunner


class RunnerPool:
    """Makes runners as calls overlap, up to a limit; then callers wait.

    Args:
        make: Makes a runner.
        limit: Runners at most.
    """

    def __init__(self, make: Callable[[], EngineRunner], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._process = OwnProcess()
        self._changed = threading.Condition()
        self._idle: list[EngineRunner] = []
        self._count = 0
        self._closed = False

    @contextlib.contextmanager
    def borrow(self, shape: tuple[int, ...]) -> Iterator[EngineRunner]:
        """Lend a runner for the block, if possible one that last ran `shape`.

        If the block raises, the pool closes this runner and does not lend it again.

        Raises:
            CudaError, EngineError: No runner can be made, or the pool is closed.
            ProcessError: This process was forked from the one that made the pool.
        """
        self._process.require("an engine")
        runner = self._take(shape)
        try:
            yield runner
        except BaseException:
            self._discard(runner)
            raise
        with self._changed:
            self._idle.append(runner)
            self._changed.notify_all()

    def close(self) -> None:
        """Wait for running calls to end, then close all runners. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == self._count)
            idle, self._idle, self._count = self._idle, [], 0
        with contextlib.ExitStack() as stack:  # closes them all, even if one fails
            for runner in idle:
                stack.callback(runner.close)

    def _take(self, shape: tuple[int, ...]) -> EngineRunner:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or self._count < self._limit)
            if self._closed:
                raise closed_error()
            if self._idle:
                alike = [runner for runner in self._idle if runner.shape == shape]
                runner = alike[-1] if alike else self._idle[-1]
                self._idle.remove(runner)
                return runner
            self._count += 1
        try:
            return self._make()
        except BaseException:
            self._forget()
            raise

    def _discard(self, runner: EngineRunner) -> None:
        try:
            with contextlib.suppress(AlignSegError):  # the error of the call itself says more
                runner.close()
        finally:
            self._forget()

    def _forget(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()


def closed_error() -> EngineError:
    """Return the error for using an engine after `close`."""
    return EngineError(
        "the engine was used after it was closed",
        "no call after close() or after the engine's with block",
        "load the engine again, or close it later",
    )
