"""Worker processes: each gets a few images at a time, and one that dies costs one image only."""

import contextlib
import pickle
import queue
import signal
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from alignseg_infer.batch.child import Broken, Fatal, Order, Ready
from alignseg_infer.batch.job import Job
from alignseg_infer.batch.worker import failed_row, new_row
from alignseg_infer.datasets.manifest_rows import ManifestRow
from alignseg_infer.datasets.sources import SourceImage
from alignseg_infer.errors import ProcessError
from alignseg_infer.packages import command_of

TRIES = 3  # of an image alone, after it was at work in a worker that died
AHEAD = 16  # images that a worker has beyond two batches: all that wait between its stages
TICK = 0.5  # seconds


class _Process:
    """One worker process, and the images that it has."""

    def __init__(self, job: Job, inbox: "queue.Queue[tuple[_Process, Any]]") -> None:
        self.images: deque[SourceImage] = deque()
        self.ready = False
        self.alone = False
        self.ended = False
        self.broken = ""
        self._inbox = inbox
        self._process = subprocess.Popen(  # noqa: S603 - of our own
            command_of("alignseg_infer.batch.child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print there
            start_new_session=True,  # Ctrl-C reaches the process that started this one only
        )
        self._send(job)
        threading.Thread(target=self._receive, daemon=True).start()

    def give(self, image: SourceImage, *, alone: bool) -> None:
        """Give it an image."""
        self.images.append(image)
        self.alone = alone
        self._send(Order(image, alone))

    def end(self) -> None:
        """Tell it that no more images come."""
        self.ended = True
        self._send(None)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not sent
                pipe.close()

    def describe_end(self) -> str:
        """Return how it ended."""
        code = self._process.wait()
        if self.broken:
            return self.broken
        if code < 0:
            names = {each.value: f" ({each.name})" for each in signal.Signals}
            return f"the worker process ended by signal {-code}{names.get(-code, '')}"
        return f"the worker process ended with exit code {code}"

    def _send(self, message: Job | Order | None) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died, which the other pipe tells
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                message = pickle.load(self._process.stdout)  # noqa: S301 - from our own process
            except Exception:  # closed, or cut off within a message
                self._inbox.put((self, None))
                return
            self._inbox.put((self, message))


class WorkerPool:
    """Several worker processes that do one job.

    An image that was at work in a worker that died is tried again alone, so that it is known which
    one is to blame.

    Args:
        job: What they do.
        images: The images.
        workers: How many processes there are.
    """

    def __init__(self, job: Job, images: Iterable[SourceImage], workers: int) -> None:
        self._job = job
        self._waiting = deque(images)
        self._workers = min(workers, len(self._waiting))
        self._window = AHEAD + 2 * job.options.batch
        self._inbox: queue.Queue[tuple[_Process, Any]] = queue.Queue()
        self._processes: list[_Process] = []
        self._suspects: deque[SourceImage] = deque()
        self._deaths: Counter[str] = Counter()  # of a worker that had one image, by its name
        self._idle_deaths = 0

    def rows(self) -> Iterator[ManifestRow | None]:
        """Return a row for each image, in any order; None from time to time while none comes.

        Raises:
            AlignSegError: The model cannot be opened, or nothing can be written.
        """
        try:
            while True:
                self._start()
                for process in self._processes:
                    self._feed(process)
                if not self._processes:
                    return
                try:
                    process, message = self._inbox.get(timeout=TICK)
                except queue.Empty:
                    yield None
                else:
                    yield self._take(process, message)
        finally:
            for process in self._processes:
                process.kill()

    def _start(self) -> None:
        """Start processes, as many as there should be."""
        at_work = sum(not process.ended for process in self._processes)
        left = len(self._waiting) + len(self._suspects)
        for _ in range(min(self._workers - at_work, left)):
            self._processes.append(_Process(self._job, self._inbox))

    def _feed(self, process: _Process) -> None:
        """Give images to a process that is ready; tell it if no more come."""
        if not process.ready or process.ended:
            return
        if self._suspects and not process.images:
            process.give(self._suspects.popleft(), alone=True)
        while self._waiting and not process.alone and len(process.images) < self._window:
            process.give(self._waiting.popleft(), alone=False)
        if not self._waiting and not (self._suspects and process.alone):
            process.end()  # it may wait for the rest of a batch

    def _take(self, process: _Process, message: Any) -> ManifestRow | None:
        if isinstance(message, ManifestRow):
            process.images.popleft()
            process.alone = False
            self._idle_deaths = 0
            return message
        if isinstance(message, Ready):
            process.ready = True
        elif isinstance(message, Broken):
            process.broken = message.reason
        elif isinstance(message, Fatal):
            raise message.error
        else:
            return self._bury(process)
        return None

    def _bury(self, process: _Process) -> ManifestRow | None:
        """Remove a process that has ended; return the row of the image that ends each process."""
        self._processes.remove(process)
        process.kill()
        images = list(process.images)
        if len(images) > 1:
            self._suspects.extend(images)
        elif images:
            name = images[0].name
            self._deaths[name] += 1
            if self._deaths[name] >= TRIES:
                problem = f"{process.describe_end()}, {TRIES} times with this image"
                return failed_row(new_row(self._job, images[0]), problem)
            self._suspects.append(images[0])
        elif not process.ended:
            self._idle_deaths += 1
            if not process.ready or self._idle_deaths >= TRIES:
                raise _dead_error(process.describe_end(), ready=process.ready)
        return None


def _dead_error(end: str, *, ready: bool) -> ProcessError:
    when = "between two images" if ready else "while it opened the model"
    return ProcessError(
        f"{end} {when}",
        "a process that can open the model and go on, with memory for it",
        "workers=1 to see whether memory is short",
    )
