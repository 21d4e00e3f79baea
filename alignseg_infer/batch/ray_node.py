"""What runs on the nodes of a Ray cluster: actors, each with one worker process and the model."""

import pickle
import queue
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ray

from alignseg_infer.batch.job import Job
from alignseg_infer.batch.processes import TICK, WorkerPool, _Process
from alignseg_infer.batch.stores import OWN_FOLDER
from alignseg_infer.datasets.addresses import is_address
from alignseg_infer.datasets.manifest_rows import ManifestRow
from alignseg_infer.datasets.sources import SourceImage
from alignseg_infer.demo import DEMO
from alignseg_infer.errors import AlignSegError
from alignseg_infer.files.caches import cache_folder
from alignseg_infer.files.writing import require_writable_folder, write_atomically

KEPT_MODELS = "batch-models"  # in the cache folder of each node
IMAGES, ROWS = "images", "rows"  # columns of Ray's blocks


class NodePool(WorkerPool):
    """One worker process that stays for further images. One that dies costs one image only.

    Args:
        job: What it does.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job, (), 1)
        self._workers = 1

    def segment(self, images: Iterable[SourceImage]) -> Iterator[ManifestRow]:
        """Return a row for each image, in any order.

        Raises:
            AlignSegError: The model cannot be opened, or nothing can be written.
        """
        self._waiting.extend(images)
        left = len(self._waiting)
        while left:
            self._start()
            for process in self._processes:
                self._feed(process)
            try:
                process, message = self._inbox.get(timeout=TICK)
            except queue.Empty:
                continue
            row = self._take(process, message)
            if row is not None:
                left -= 1
                yield row

    def _feed(self, process: _Process) -> None:
        """Give images to a process that is ready. The last is given alone, so it waits for none."""
        if not process.ready:
            return
        if self._suspects and not process.images:
            process.give(self._suspects.popleft(), alone=True)
        while self._waiting and not process.alone and len(process.images) < self._window:
            image = self._waiting.popleft()
            process.give(image, alone=not self._waiting)


class Answer(NamedTuple):
    """What became of a block.

    Attributes:
        rows: One for each image that was segmented or failed.
        error: What ended the block, as data, since Ray keeps the text of an error only; None if
            nothing did.
    """

    rows: list[ManifestRow]
    error: AlignSegError | None


class NodeWorker:
    """An actor of Ray Data: segments the images of a block, and returns their rows.

    Args:
        job: What to do.
        files: The files of the model as `model_files` returns them, in Ray's object store.
    """

    def __init__(self, job: Job, files: Any) -> None:
        self._job = job
        self._files = files
        self._pool: NodePool | None = None

    def __call__(self, block: Mapping[str, Any]) -> dict[str, list[bytes]]:
        """Segment the images of a block, which Ray does again if this actor or its node dies."""
        rows: list[ManifestRow] = []
        error: AlignSegError | None = None
        try:
            self._pool = self._pool or NodePool(self._prepare())
            for packed in block[IMAGES]:
                images = pickle.loads(packed)  # noqa: S301 - from our own driver
                for row in self._pool.segment(images):
                    rows.append(row)
        except AlignSegError as caught:
            error = caught
        return {ROWS: [pickle.dumps(Answer(rows, error))]}

    def _prepare(self) -> Job:
        """Return the job with the model on this node, and with room for files being written.

        Raises:
            OutputError: The model cannot be kept, or the destination cannot be written to.
        """
        job = self._job
        model = job.model if job.model == DEMO else str(keep_model(ray.get(self._files), job))
        room = f"{job.room}/{uuid.uuid4().hex}"  # numbers of processes are of one machine only
        if not is_address(job.destination):
            require_writable_folder(Path(job.destination) / OWN_FOLDER / room)
        return replace(job, model=model, room=room)


def keep_model(files: Mapping[str, bytes], job: Job) -> Path:
    """Write the files of the model into this node's cache, unless they are there.

    Args:
        files: Their bytes, by their paths below the folder of the model, which comes first.
        job: Whose model it is.

    Returns:
        The path of the model.

    Raises:
        OutputError: They cannot be written.
    """
    folder = cache_folder(KEPT_MODELS) / job.model_sha256
    for name, data in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != len(data):
            require_writable_folder(path.parent)
            with write_atomically(path) as temporary:
                temporary.write_bytes(data)
    return folder / next(iter(files))
