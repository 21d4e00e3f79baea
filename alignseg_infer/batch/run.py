"""A run of a batch: lock, plan, worker processes, manifest, summary."""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from alignseg_infer.backends.opening import Opening
from alignseg_infer.backends.processor import usable_cores
from alignseg_infer.batch.job import Job, Saving, Shard, record_job, require_same_job
from alignseg_infer.batch.locks import lock_shard
from alignseg_infer.batch.manifest import PartWriter
from alignseg_infer.batch.plan import Plan, State, make_plan
from alignseg_infer.batch.processes import WorkerPool
from alignseg_infer.batch.stores import Folder, Store, open_store, require_shared
from alignseg_infer.batch.worker import model_hash
from alignseg_infer.datasets.addresses import is_address, plain_place
from alignseg_infer.datasets.manifest_rows import ManifestRow, Status
from alignseg_infer.datasets.sources import find_source_images, nothing_found_error
from alignseg_infer.errors import OptionError
from alignseg_infer.progress import BatchProgress
from alignseg_infer.results.saving import ENDINGS

FAILURES_KEPT = 20

Rows: TypeAlias = Iterable[ManifestRow | None]
RunImages: TypeAlias = Callable[[Job, Plan], Rows]


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run.

    Attributes:
        workers: Number of worker processes.
        shard: Which part of the images is segmented.
        retry_failed: Whether to try images again that failed in an earlier run.
        replace: Whether to make the results of another model or other options again.
        dry_run: Whether to count only.

    Raises:
        OptionError: A value cannot be used.
    """

    workers: int = 1
    shard: Shard = field(default_factory=Shard)
    retry_failed: bool = False
    replace: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise OptionError(f"workers={self.workers}", "1 or more", "workers=1")


@dataclass(frozen=True)
class BatchSummary:
    """What a run did.

    Attributes:
        destination: Where the results and the manifest are.
        found: Images of the source, in this shard.
        done: Images that were segmented; with ``dry_run``, 0.
        failed: Images that failed.
        missing: Images that were not in the manifest, or had lost a result.
        changed: Images that had changed, or were made with another model or other options.
        failed_before: Images that failed in an earlier run. They are tried again with
            ``retry_failed`` only.
        up_to_date: Images that were left as they are.
        seconds: How long it took.
        failures: Name and problem of the first 20 that failed.
    """

    destination: str
    found: int
    done: int
    failed: int
    missing: int
    changed: int
    failed_before: int
    up_to_date: int
    seconds: float
    failures: tuple[tuple[str, str], ...] = ()


@dataclass
class _Tally:
    """Counts of rows, and the first failures."""

    done: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, row: ManifestRow) -> None:
        if row.status != Status.FAILED:
            self.done += 1
            return
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append((row.name, row.error))


def segment_source(
    opening: Opening,
    source: str,
    destination: str,
    *,
    saving: Saving,
    options: BatchOptions,
    progress: BatchProgress | None = None,
    run_images: RunImages | None = None,
) -> BatchSummary:
    """Segment the images of a source that are not up to date in the destination.

    Args:
        opening: How a predictor was made; each worker makes the same.
        source: As `find_source_images` takes it.
        destination: A folder, or the address of one.
        saving: What is saved of each image.
        options: How the batch is run.
        progress: Called with the number of images done, of all, and of those that failed.
        run_images: Returns a row for each image of a plan; None for worker processes.

    Raises:
        DatasetError: The source cannot be read, or holds no images.
        OutputError: Nothing can be written to the destination, or another run writes there.
        OptionError: The destination holds results of another model, or an argument makes no sense.
        AlignSegError: As `Predictor` does.
    """
    start = time.monotonic()
    _require_places(source=source, destination=destination)
    source, destination = plain_place(source), plain_place(destination)
    require_shared(source)
    if not is_address(destination):
        destination = os.path.abspath(destination)
    job = make_job(opening, destination, saving, options)
    plan, tally = Plan(), _Tally()
    with _open_destination(job, options) as (store, require_held):
        images = find_source_images(source, destination, ENDINGS)
        plan = make_plan(images, store, job, options.shard, retry_failed=options.retry_failed)
        if not plan.listed:
            raise nothing_found_error(source)
        if plan.images and not options.dry_run:
            record_job(store, job)
            writer = PartWriter(store, options.shard.file_name)
            total = len(plan.images)
            rows = run_images(job, plan) if run_images else _run_workers(job, plan, options)
            for row in _kept(rows, writer):
                require_held()
                tally.add(row)
                if progress is not None:
                    progress(tally.done + tally.failed, total, tally.failed)
    return BatchSummary(
        destination=destination,
        found=plan.found,
        done=tally.done,
        failed=tally.failed,
        missing=plan.counts[State.MISSING],
        changed=plan.counts[State.CHANGED],
        failed_before=plan.counts[State.FAILED],
        up_to_date=plan.counts[State.DONE],
        seconds=time.monotonic() - start,
        failures=tuple(tally.failures),
    )


def make_job(opening: Opening, destination: str, saving: Saving, options: BatchOptions) -> Job:
    """Return the facts for workers. Several of them share the CPU, unless threads were asked for.

    Threads that were tuned are the best of one process.

    Args:
        opening: How the predictor was made.
        destination: A folder, as an absolute path, or an address.
        saving: What is saved.
        options: How the batch is run.
    """
    chosen = opening.options
    if options.workers > 1 and (chosen.threads is None or opening.tuned):
        chosen = replace(chosen, threads=max(1, usable_cores() // options.workers))
    room = f"writing-{options.shard.file_name}"
    return Job(opening.model, chosen, model_hash(opening.model), destination, room, saving)


def _require_places(**places: str) -> None:
    """Check that places are named; an empty path would be the working folder."""
    for name, place in places.items():
        if not place.strip():
            raise OptionError(
                f"{name}={place!r}",
                "a folder, or the address of a bucket",
                f"{name}='.' for the working folder; a variable of the shell may be empty",
            )


@contextlib.contextmanager
def _open_destination(
    job: Job, options: BatchOptions
) -> Iterator[tuple[Store, Callable[[], None]]]:
    """Lock the destination for the block, and check that it is of the same job.

    At the end of the block, this removes what workers were writing when they died. An actor of Ray
    may still be writing then, but nobody takes its rows any more.

    Yields:
        The destination, and what raises an error if the lock was lost.
    """
    store = open_store(job.destination, job.room)
    if options.dry_run:
        require_same_job(store, job, replace=options.replace)
        yield store, lambda: None
        return
    with lock_shard(job.destination, options.shard) as require_held:
        if isinstance(store, Folder):
            store.prepare()
        try:
            require_same_job(store, job, replace=options.replace)
            yield store, require_held
        finally:
            if isinstance(store, Folder):
                store.clear()


def _run_workers(job: Job, plan: Plan, options: BatchOptions) -> Rows:
    pool = WorkerPool(job, plan.images, options.workers)
    plan.images = []  # the pool lets go of each image when it is done
    return pool.rows()


def _kept(rows: Rows, writer: PartWriter) -> Iterator[ManifestRow]:
    """Return rows that are or will be in the manifest, whatever ends the loop."""
    try:
        for row in rows:
            writer.add(row)
            if row is not None:
                yield row
    finally:
        if isinstance(rows, Generator):
            rows.close()  # ends its processes
        writer.flush()
