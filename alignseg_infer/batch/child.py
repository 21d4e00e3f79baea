"""The main program of a worker process. It reads images from stdin and writes rows to stdout."""

import contextlib
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from alignseg_infer.batch.job import Job
from alignseg_infer.batch.worker import Worker
from alignseg_infer.datasets.manifest_rows import ManifestRow
from alignseg_infer.datasets.sources import SourceImage
from alignseg_infer.errors import AlignSegError, OutputError


class Order(NamedTuple):
    """What a worker process should do next.

    Attributes:
        image: The image.
        alone: Whether no other image may be at work at the same time.
    """

    image: SourceImage
    alone: bool


class Ready(NamedTuple):
    """Says that the model is open."""


class Fatal(NamedTuple):
    """Says why no worker can go on.

    Attributes:
        error: What is wrong with the model or the destination.
    """

    error: Exception


class Broken(NamedTuple):
    """Says why this worker cannot go on; another one may.

    Attributes:
        reason: In one line.
    """

    reason: str


def main() -> None:
    """Segment images until stdin says that there are no more; end at once if it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    incoming, outgoing = sys.stdin.buffer, _take_stdout()
    job: Job = pickle.load(incoming)  # noqa: S301 - from the process that started this one
    try:
        worker = Worker(job)
    except Exception as error:
        _send(outgoing, Fatal(_portable(error)))
        return
    _send(outgoing, Ready())
    orders: queue.Queue[Order | None] = queue.Queue()
    threading.Thread(target=_receive, args=(incoming, orders), daemon=True).start()
    try:
        for row in _segment(worker, orders):
            _send(outgoing, row)
    except OutputError as error:
        _send(outgoing, Fatal(error))
    except Exception as error:
        _send(outgoing, Broken(f"{type(error).__name__}: {getattr(error, 'problem', error)}"))
    finally:
        os._exit(0)  # threads of a runtime may hang


def _take_stdout() -> BinaryIO:
    """Return standard output, which nobody else writes to from now on."""
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return outgoing


def _send(outgoing: BinaryIO, message: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        pickle.dump(message, outgoing)
        outgoing.flush()


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled."""
    if isinstance(error, AlignSegError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _receive(incoming: BinaryIO, orders: "queue.Queue[Order | None]") -> None:
    """Pass orders on; end this process if the one that started it has ended.

    That is so after the last order, too: the images that are left may take long.
    """
    while True:
        try:
            order: Order | None = pickle.load(incoming)  # noqa: S301
        except Exception:  # closed, or cut off within an order
            os._exit(1)
        orders.put(order)


def _segment(worker: Worker, orders: "queue.Queue[Order | None]") -> Iterator[ManifestRow]:
    following = [orders.get()]

    def together() -> Iterator[SourceImage]:
        """The next images, up to one that has to be alone."""
        while (order := following[0]) is not None and not order.alone:
            yield order.image
            following[0] = orders.get()

    while (order := following[0]) is not None:
        if order.alone:
            yield worker(order.image)
            following[0] = orders.get()
        else:
            yield from worker.segment(together())
