"""Runners for callers on several threads: each has one to itself for the length of a call."""

import contextlib
import threading
from collections.abc import Callable, Iterator

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
        self._changed = threading.Condition()
        self._idle: list[EngineRunner] = []
        self._count = 0
        self._closed = False

    @contextlib.contextmanager
    def runner(self, shape: tuple[int, ...]) -> Iterator[EngineRunner]:
        """A runner for the block, one that last ran `shape` if possible.

        One that raised is not used again.

        Raises:
            CudaError, EngineError: None can be made, or the pool is closed.
        """
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
        """Waits for calls under way, then closes all runners. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == self._count)
            idle, self._idle, self._count = self._idle, [], 0
        with contextlib.ExitStack() as stack:  # one that fails does not keep the others
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
            with contextlib.suppress(AlignSegError):  # the call's own error says more
                runner.close()
        finally:
            self._forget()

    def _forget(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()


def closed_error() -> EngineError:
    """The error for using an engine after `close`."""
    return EngineError(
        "the engine was closed, and then used",
        "no call after close() or after its with block",
        "load it again, or close it later",
    )
