"""A Ray cluster: connecting to it, and what its nodes must have."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from alignseg_infer.batch.job import Job
from alignseg_infer.batch.stores import OWN_FOLDER
from alignseg_infer.datasets.addresses import is_address
from alignseg_infer.datasets.sources import SourceImage
from alignseg_infer.errors import (
    DatasetError,
    MissingDependencyError,
    OptionError,
    OutputError,
    ProcessError,
)
from alignseg_infer.version import __version__

AUTO = "auto"
REACHED_WITHIN = 10.0  # seconds, to connect to an address
CONNECTED_WITHIN = 30.0  # seconds, for a process to import Ray and to connect; it takes 3
ANSWERED_WITHIN = 120.0  # seconds, for a node to start a process that imports this package


class Node(NamedTuple):
    """What a node has, and what it says of itself.

    Attributes:
        name: Its address.
        problem: Why this package cannot be used there; empty if it can.
        version: Of the package.
        sees: Which of the paths that were asked for exist there.
    """

    name: str
    problem: str
    version: str
    sees: tuple[bool, ...]


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster for the block, unless the program has connected itself."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address != AUTO:
        _require_listener(address)
    _require_cluster(address)
    data_log = logging.getLogger("ray.data")
    level = data_log.level
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        data_log.setLevel(logging.CRITICAL)  # errors are raised
        yield
    finally:
        data_log.setLevel(level)
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Check that something listens at an address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise _no_cluster(address, "it is no HOST:PORT")
    try:
        socket.create_connection((host, int(port)), REACHED_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, f"{error}") from error


def _require_cluster(address: str) -> None:
    """Check, in another process, that a cluster answers.

    Ray 2.60 itself tries for 13 minutes to reach a cluster that has ended without a word, or a
    server that is no Ray, and cannot be interrupted.
    """
    program = f"import ray; ray.init({address!r}, log_to_driver=False, logging_level='ERROR')"
    try:
        done = subprocess.run(  # noqa: S603 - of our own
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CONNECTED_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        reason = f"nothing there spoke Ray's language within {CONNECTED_WITHIN:.0f} s"
        raise _no_cluster(address, reason) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise _no_cluster(address, lines[-1][:300] if lines else "Ray cannot connect")


def _no_cluster(address: str, reason: str) -> OptionError:
    return OptionError(
        f"ray={address!r}: there is no cluster: {reason}",
        "'auto' for the cluster of this machine, or HOST:PORT of the head node of another",
        "ray start --head",
    )


@contextlib.contextmanager
def naming_ray() -> Iterator[None]:
    """Say that the cluster does not go on, where Ray itself raises."""
    try:
        yield
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in f"{error}".splitlines() if line.strip()]
        raise ProcessError(
            f"the Ray cluster does not go on: {lines[-1][:300] if lines else type(error).__name__}",
            "a cluster whose head node lives, with memory for a worker on each CPU",
            "ray status; then start the batch again: it goes on where it was",
        ) from error


def require_ready(nodes: list[dict[str, Any]], job: Job, first: SourceImage) -> None:
    """Check that each node has this package, the images and the destination.

    Raises:
        MissingDependencyError, DatasetError, OutputError: One does not.
    """
    local = [Path(job.destination) / OWN_FOLDER / job.room / f"seen-{uuid.uuid4().hex}"]
    if is_address(job.destination):
        local = []
    for path in local:
        path.touch()
    asked = [*map(str, local), *([] if is_address(first.url) else [first.url])]
    found = _ask(nodes, asked)
    for path in local:
        path.unlink()
    lacking = [node for node in found if node.problem or node.version != __version__]
    if lacking:
        raise _lacking_error(lacking, len(nodes))
    blind = [node.name for node in found if local and not node.sees[0]]
    if blind:
        raise OutputError(
            f"{job.destination} is not on {_some(blind)}",
            "a bucket, or a folder that all nodes share under this path",
            "destination='s3://BUCKET/FOLDER'",
        )
    blind = [node.name for node in found if not all(node.sees)]
    if blind and os.path.exists(first.url):
        raise DatasetError(
            f"{first.url} is not on {_some(blind)}",
            "images in a bucket, or in a folder that all nodes share under this path",
            "source='s3://BUCKET/FOLDER'",
        )


def _ask(nodes: list[dict[str, Any]], paths: list[str]) -> list[Node]:
    """Ask each node for its version of this package, and which paths exist there.

    A node that ends meanwhile does not count.
    """
    task = ray.remote(_question())
    waiting = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = task.options(num_cpus=0, scheduling_strategy=place, max_retries=0).remote(paths)
        waiting[answer] = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
    ray.wait(list(waiting), num_returns=len(waiting), timeout=ANSWERED_WITHIN)
    alive = [node["NodeID"][:8] for node in ray.nodes() if node["Alive"]]
    found = []
    for answer, name in waiting.items():
        try:
            found.append(Node(name, *ray.get(answer, timeout=0.1)))
        except ray.exceptions.RayError as error:
            if not any(number in name for number in alive):
                continue
            lines = f"{error}".strip().splitlines()
            found.append(Node(name, f"it does not answer: {lines[-1]}", "", ()))
    return found


def _question() -> Callable[[list[str]], tuple[str, str, tuple[bool, ...]]]:
    """Return a function that Ray sends as code, since a node may not have this package."""

    def answer(paths: list[str]) -> tuple[str, str, tuple[bool, ...]]:
        import importlib
        import os

        try:
            importlib.import_module("alignseg_infer.batch.ray_node")  # and all that it needs
            found = importlib.import_module("alignseg_infer.version").__version__
        except Exception as error:
            return f"{error}".splitlines()[0], "", ()
        return "", found, tuple(os.path.exists(path) for path in paths)

    return answer


def _lacking_error(lacking: list[Node], count: int) -> MissingDependencyError:
    first = lacking[0]
    reason = first.problem or f"it has alignseg-infer {first.version}"
    names = _some([node.name for node in lacking])
    return MissingDependencyError(
        f"{len(lacking)} of {count} nodes cannot run this package: {names}: {reason}",
        f"alignseg-infer {__version__} with its extra ray in the Python of each node",
        "on those nodes, in a clone: pip install '.[cpu,ray]'",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
