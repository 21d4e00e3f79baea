"""Stages of work in overlapping threads, connected by bounded queues.

::

    with Pipeline() as pipeline:
        frames = pipeline.thread(decoded(video))
        results = pipeline.thread(map(predictor, frames))
        for result in results:
            ...

Items keep their order. If a stage raises, the consumer of its items gets the exception, after the
items that came before it. A stage that is ahead waits for the next one. Leaving the block, in any
way, stops all threads.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from alignseg_infer.backend import OwnProcess
from alignseg_infer.backports import Self
from alignseg_infer.errors import OptionError

T = TypeVar("T")

logger = logging.getLogger(__name__)

LONGEST_END = 5.0  # seconds that a stage has to return after everything was stopped
_LONGEST_WAIT = 0.5  # seconds; on Windows, Ctrl-C cannot interrupt an endless wait


class PipelineStopped(Exception):  # noqa: N818 - this is not an error
    """Ends the stages and consumers that still wait after a pipeline was stopped."""


class _Queue(Generic[T]):
    """The items that one stage has made and the next has not taken yet."""

    def __init__(self, depth: int, drop_old: bool) -> None:
        self.depth, self.drop_old = depth, drop_old
        self.items: deque[T] = deque()
        self.ended = False
        self.error: BaseException | None = None


class Pipeline:
    """Runs iterables in their own threads. Use it in a ``with`` block.

    Attributes:
        dropped: Number of items thrown away in favour of newer ones.
        process: The process that has the threads.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.process = OwnProcess()
        self._changed = threading.Condition()
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def thread(self, items: Iterable[T], *, depth: int = 2, drop_old: bool = False) -> Iterator[T]:
        """Iterate `items` in a thread that starts now.

        Args:
            items: The items of the stage. A generator is closed at the end, in the same thread.
            depth: The most items that wait to be taken, 1 or more; one more may be in the making.
            drop_old: Whether to drop and count the oldest item, instead of waiting, when `depth`
                items wait. This is for sources that do not wait, such as cameras.

        Returns:
            The same items in the same order. It raises what iterating `items` raised.

        Raises:
            OptionError: `depth` is below 1.
        """
        if type(depth) is not int or depth < 1:
            raise OptionError(f"depth={depth!r}", "1 item or more between two stages", "depth=2")
        queue: _Queue[T] = _Queue(depth, drop_old)
        name = getattr(items, "__qualname__", type(items).__name__)
        thread = threading.Thread(
            target=self._fill, args=(queue, items), name=f"alignseg {name}", daemon=True
        )
        thread.start()
        self._threads.append(thread)
        return self._take(queue)

    def stop(self) -> None:
        """End all threads. A stage that is computing ends when its item is done.

        A forked process has no threads to end, and may have a copy of the lock that is held for
        ever, so nothing is done there.

        If a stage does not return within 5 s, for example because a camera driver hangs, it is
        logged and left running.
        """
        if not self.process.is_this():
            return
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + LONGEST_END
        for thread in self._threads:
            if thread is threading.current_thread():  # a stage that stops its own pipeline
                continue
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("a stage did not end within %g s: %s", LONGEST_END, thread.name)
        self._threads.clear()

    def _fill(self, queue: _Queue[T], items: Iterable[T]) -> None:
        error: BaseException | None = None
        try:
            for item in items:
                self._put(queue, item)
        except BaseException as raised:  # passed on to the consumer of the items
            error = raised
        try:
            if isinstance(items, Generator):
                items.close()
        except BaseException as raised:
            error = error or raised
        with self._changed:
            queue.error, queue.ended = error, True
            self._changed.notify_all()

    def _put(self, queue: _Queue[T], item: T) -> None:
        with self._changed:
            while len(queue.items) >= queue.depth and not self._stopped:
                if queue.drop_old:
                    queue.items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait(_LONGEST_WAIT)
            if self._stopped:
                raise PipelineStopped
            queue.items.append(item)
            self._changed.notify_all()

    def _take(self, queue: _Queue[T]) -> Iterator[T]:
        while True:
            self.process.require("a pipeline")
            with self._changed:
                while not (queue.items or queue.ended or self._stopped):
                    self._changed.wait(_LONGEST_WAIT)
                if self._stopped:
                    raise PipelineStopped
                if not queue.items:
                    break
                item = queue.items.popleft()
                self._changed.notify_all()
            yield item
            del item  # do not keep it alive while waiting for the next one
        if queue.error is not None:
            raise queue.error
