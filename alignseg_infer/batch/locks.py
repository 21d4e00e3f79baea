"""Locks: of several runs with the same shard of one destination, one goes on."""

import contextlib
import hashlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from alignseg_infer.batch.job import Shard
from alignseg_infer.batch.leases import hold_lease, in_use_error
from alignseg_infer.batch.stores import OWN_FOLDER
from alignseg_infer.datasets.addresses import is_address
from alignseg_infer.errors import OutputError
from alignseg_infer.files.caches import cache_folder
from alignseg_infer.files.writing import require_writable_folder

_ENDING = ".lock"
_NAME = re.compile(rf"(?P<number>\d+)of(?P<count>\d+){re.escape(_ENDING)}")


@contextlib.contextmanager
def lock_shard(destination: str, shard: Shard) -> Iterator[Callable[[], None]]:
    """Keep other runs out of a shard of a destination during the block.

    Another shard of as many may run; one of another number of shards may not, since it holds images
    of this one. The lock ends with the process. A bucket also has a lease, which keeps out other
    machines, and which may be lost.

    Yields:
        What to call now and then. It raises OutputError if the lock was lost.

    Raises:
        OutputError: Another run has the shard, or a shard that overlaps, or there can be no lock.
    """
    folder = _lock_folder(destination)
    if not is_address(destination):
        require_writable_folder(Path(destination))
    require_writable_folder(folder)
    own = FileLock(folder / f"{shard.file_name}{_ENDING}")
    try:
        with FileLock(folder / "guard"):  # held while locks are compared
            _require_free(folder, destination, shard)
            own.acquire(timeout=0)
    except Timeout as error:
        raise in_use_error(destination, shard, shard) from error
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be locked: {error.strerror or error}",
            "locks that this user may write",
            f"when no run is at work, remove them: rm -r {shlex.quote(str(folder))}",
        ) from error
    try:
        if is_address(destination):
            with hold_lease(destination, shard) as require_held:
                yield require_held
        else:
            yield lambda: None
    finally:
        own.release()


def _lock_folder(destination: str) -> Path:
    if is_address(destination):
        key = hashlib.sha256(destination.encode()).hexdigest()
        return cache_folder("batch-locks") / key
    return Path(destination) / OWN_FOLDER / "locks"


def _require_free(folder: Path, destination: str, shard: Shard) -> None:
    """Check that no run has a shard of another number of shards."""
    for path in folder.glob(f"*{_ENDING}"):
        found = _NAME.fullmatch(path.name)
        if found is None or int(found["count"]) == shard.count:
            continue
        other = Shard(int(found["number"]), int(found["count"]))
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout as error:
            raise in_use_error(destination, other, shard) from error
