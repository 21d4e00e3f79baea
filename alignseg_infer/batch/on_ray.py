"""A batch on a Ray cluster: its images are a dataset of Ray Data, and actors segment them."""

import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ray
import ray.data

from alignseg_infer.backends import ENGINE_RUNNERS
from alignseg_infer.batch.job import Job
from alignseg_infer.batch.plan import Plan
from alignseg_infer.batch.ray_cluster import AUTO, connected, naming_ray, require_ready
from alignseg_infer.batch.ray_node import IMAGES, ROWS, Answer, NodeWorker
from alignseg_infer.datasets.manifest_rows import ManifestRow
from alignseg_infer.datasets.sources import SourceImage
from alignseg_infer.demo import DEMO, model_path
from alignseg_infer.errors import OptionError
from alignseg_infer.spec.onnx_weights import require_weights_beside
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, sidecar_path

# Images of a block: what is done again if its node dies. Between two blocks the network waits for
# the first image to be read.
MOST_IMAGES = 32
BLOCKS_PER_WORKER = 8
# How often a block is done again whose worker or node dies. Without a limit, a worker that Ray's
# memory monitor kills each time would be started for ever.
MOST_DEATHS = 8


class _Share(NamedTuple):
    """What one worker takes of a node."""

    cpus: int
    gpus: int


def run_on_ray(
    job: Job, plan: Plan, *, address: str, workers: int | None
) -> Iterator[ManifestRow | None]:
    """Segment the images of a plan on the nodes of a cluster; return a row for each, in any order.

    Args:
        job: What to do with each image.
        plan: The images.
        address: ``auto`` for the cluster of this machine, or ``HOST:PORT``.
        workers: Number of workers; None for as many as the nodes have room for.

    Raises:
        OptionError: There is no cluster, or no node has room for a worker.
        MissingDependencyError: A node does not have this package.
        DatasetError, OutputError: A node does not see the images or the destination.
        ProcessError: The cluster ended.
        AlignSegError: As a worker does.
    """
    with connected(address), naming_ray():
        nodes = [node for node in ray.nodes() if node["Alive"]]
        share = _share_of(job)
        room = _room_of(nodes, share)
        require_ready(nodes, job, plan.images[0])
        options = replace(job.options, threads=share.cpus)
        rows = _rows(replace(job, options=options), plan, share, min(workers or room, room))
        yield from rows


def _rows(job: Job, plan: Plan, share: _Share, workers: int) -> Iterator[ManifestRow]:
    blocks = list(_blocks(plan.images, workers, job.options.batch))
    plan.images = []  # Ray keeps them now
    files = ray.put(model_files(job.model))
    dataset = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        NodeWorker,
        fn_constructor_args=(job, files),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_task_retries=MOST_DEATHS,
    )
    dataset.context.enable_progress_bars = False
    for row in dataset.iter_rows():
        answer: Answer = pickle.loads(row[ROWS])  # noqa: S301 - from our own workers
        yield from answer.rows
        if answer.error is not None:
            raise answer.error


def _blocks(images: list[SourceImage], workers: int, batch: int) -> Iterator[dict[str, bytes]]:
    """Yield a few images at a time, pickled, since Arrow takes no names that are no UTF-8."""
    fair = len(images) // (workers * BLOCKS_PER_WORKER)
    size = min(max(MOST_IMAGES, 4 * batch), max(batch, fair, 1))
    for first in range(0, len(images), size):
        yield {IMAGES: pickle.dumps(images[first : first + size])}


def model_files(model: str) -> dict[str, bytes]:
    """Return the files of a model by their paths below its folder, the model itself first.

    There are none for ``demo``, which each node has.
    """
    if model == DEMO:
        return {}
    path = Path(model)
    files = [path]
    if path.suffix.lower() == ".onnx":
        files += require_weights_beside(path)
    elif path.suffix.lower() in ENGINE_SUFFIXES and sidecar_path(path).is_file():
        files.append(sidecar_path(path))
    return {os.path.relpath(file, path.parent): file.read_bytes() for file in files}


def _share_of(job: Job) -> _Share:
    """Return what a worker takes: the threads that were asked for, or one, and a GPU if it is used.

    Raises:
        OptionError: A certain GPU was asked for.
    """
    device = job.options.device
    if device is not None and device.startswith("cuda:"):
        raise OptionError(
            f"device={device!r} on a cluster",
            "'cuda', since Ray gives each worker a GPU of its own",
            "device='cuda'",
        )
    engine = model_path(job.model).suffix.lower() in ENGINE_SUFFIXES
    on_gpu = device == "cuda" or (
        device is None and (engine or job.options.runtime in ENGINE_RUNNERS)
    )
    if device == AUTO:
        on_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    return _Share(job.options.threads or 1, int(on_gpu))


def _room_of(nodes: list[dict[str, Any]], share: _Share) -> int:
    """Return how many workers the nodes have room for.

    Raises:
        OptionError: They have none.
    """
    totals = [node["Resources"] for node in nodes]
    rooms = [int(total.get("CPU", 0) // share.cpus) for total in totals]
    if share.gpus:
        rooms = [
            min(room, int(total.get("GPU", 0))) for room, total in zip(rooms, totals, strict=True)
        ]
    if sum(rooms):
        return sum(rooms)
    needed = f"{share.cpus} CPUs" + (" and a GPU" if share.gpus else "")
    raise OptionError(
        f"none of the {len(nodes)} nodes of the cluster has room for a worker with {needed}",
        "fewer threads=, device='cpu', or a larger node",
        "threads=1, device='cpu'" if share.gpus else "threads=1",
    )
