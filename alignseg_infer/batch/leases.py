"""Leases: of several runs with the same shard of one bucket, on any machines, one goes on.

Each run first writes a file of its own into the bucket and then lists those of others. Of two runs
that begin at once, the one that lists last sees the file of the other, so one of them gives way, or
both do. A store has to list what was written before; it need not create files exclusively.

A run renews its file. One that was not renewed for a minute is of a run that has ended. A run that
was stopped for longer, and goes on, looks for others again before it trusts its file. All times are
those that the store gives its files, so clocks of machines do not matter.
"""

import contextlib
import json
import logging
import os
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from alignseg_infer.batch.job import Shard
from alignseg_infer.batch.stores import OWN_FOLDER
from alignseg_infer.datasets.addresses import naming_address, open_address
from alignseg_infer.errors import OutputError
from alignseg_infer.text import printable

EXPIRES = 60.0  # seconds after a lease was renewed last
RENEWED = 10.0  # seconds between renewals
LOOKED = 1.0  # seconds between looks at another run's lease
_SLACK = 1.0  # seconds; S3 gives times in whole ones
_ENDING = ".lease"
_NAME = re.compile(rf"(?P<number>\d+)of(?P<count>\d+)-[0-9a-f]+{re.escape(_ENDING)}")

logger = logging.getLogger(__name__)


class _Other(NamedTuple):
    """The lease of another run: its path, when it was renewed last, and what is in it."""

    path: str
    renewed: datetime
    shard: Shard
    facts: dict[str, Any]

    def __str__(self) -> str:
        host, process = (printable(f"{self.facts.get(name)}") for name in ("host", "process"))
        return f"process {process} on {host}"


def in_use_error(destination: str, running: Shard, asked: Shard, who: str = "") -> OutputError:
    """Return the error about a shard that another run has."""
    return OutputError(
        f"another run writes shard {running} into {destination}{who}, while shard="
        f"{str(asked)!r} was asked for",
        "one run for each shard, and all with the same number of shards",
        "wait until that run has ended, or use another destination=",
    )


class Lease:
    """A file in a bucket that says that a run has a shard.

    Args:
        destination: The address.
        shard: The shard.

    Raises:
        OptionError, MissingDependencyError: The address cannot be opened.
    """

    def __init__(self, destination: str, shard: Shard) -> None:
        self._destination, self._shard = destination, shard
        self._system, root = open_address(destination)
        self._folder = f"{root}/{OWN_FOLDER}/locks"
        self._path = f"{self._folder}/{shard.file_name}-{uuid.uuid4().hex}{_ENDING}"
        self._renewed: datetime | None = None
        self._lost_to: _Other | None = None

    def acquire(self) -> None:
        """Take the shard. A run that may have ended is waited for, until its lease has expired.

        Raises:
            OutputError: Another run has the shard, or one that overlaps.
        """
        while True:
            self._renewed = self._write(held=False)
            others = self._find_others()
            living = [each for each in others if not _has_expired(each, self._renewed)]
            if not living:
                self.renew()
                self.require_held()
                for each in others:
                    self._remove(each.path)
                return
            self.release()
            self._wait_for(living[0])

    def renew(self) -> None:
        """Say that this run is at work, and see whether it was taken for one that has ended."""
        renewed = self._write(held=True)
        before = self._renewed
        if before is not None and (renewed - before).total_seconds() > EXPIRES:
            living = [each for each in self._find_others() if not _has_expired(each, renewed)]
            if living:
                self._lost_to = living[0]
        self._renewed = renewed  # only now: a look that failed is repeated with the next renewal

    def require_held(self) -> None:
        """Check that no other run has taken the shard.

        Raises:
            OutputError: One has, since this one could not renew its lease in time.
        """
        if self._lost_to is not None:
            who = f" ({self._lost_to}), since this one did not answer for more than {EXPIRES:.0f} s"
            raise in_use_error(self._destination, self._lost_to.shard, self._shard, who)

    def release(self) -> None:
        """Let others take the shard at once."""
        self._remove(self._path)

    def _write(self, *, held: bool) -> datetime:
        """Write the file, and return the store's time."""
        facts = {"host": socket.gethostname(), "process": os.getpid(), "held": held}
        self._system.pipe_file(self._path, json.dumps(facts).encode())
        return self._time_of(self._path)

    def _time_of(self, path: str) -> datetime:
        found: datetime = self._system.modified(path)
        return found

    def _find_others(self) -> list[_Other]:
        """Return the leases of this shard, and of other numbers of shards."""
        found = []
        for path in map(str, self._system.ls(self._folder, detail=False)):
            name = _NAME.fullmatch(path.rpartition("/")[2])
            if name is None or path.endswith(self._path.rpartition("/")[2]):
                continue
            shard = Shard(int(name["number"]), int(name["count"]))
            if shard != self._shard and shard.count == self._shard.count:
                continue
            with contextlib.suppress(FileNotFoundError):  # that run has ended
                content, renewed = self._system.cat_file(path), self._time_of(path)
                found.append(_Other(path, renewed, shard, _facts_in(content)))
        return found

    def _wait_for(self, other: _Other) -> None:
        """Wait until another run has ended, or its lease would have expired.

        Raises:
            OutputError: That run is at work, since it renews its lease.
        """
        if not other.facts.get("held"):  # it has just begun; one of the two is first the next time
            time.sleep(random.uniform(0, LOOKED))  # noqa: S311
        else:
            logger.warning(
                "%s belongs to another run (%s); waiting for at most %.0f s, until it is clear "
                "whether that one has ended",
                self._destination,
                other,
                EXPIRES,
            )
        until = time.monotonic() + EXPIRES + 2 * _SLACK
        while time.monotonic() < until:
            try:
                renewed = self._time_of(other.path)
            except FileNotFoundError:
                return
            if renewed != other.renewed:
                who = f" ({other}; renewed {renewed:%H:%M:%S}, for {EXPIRES:.0f} s)"
                raise in_use_error(self._destination, other.shard, self._shard, who)
            time.sleep(LOOKED)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(path)


def _has_expired(other: _Other, now: datetime) -> bool:
    return (now - other.renewed).total_seconds() > EXPIRES + _SLACK


def _facts_in(content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


@contextlib.contextmanager
def hold_lease(destination: str, shard: Shard) -> Iterator[Callable[[], None]]:
    """Keep runs on other machines out of a shard of a bucket during the block.

    Args:
        destination: The address.
        shard: The shard.

    Yields:
        `Lease.require_held`, to be called now and then.

    Raises:
        OutputError: Another run has the shard, or one that overlaps, or the bucket cannot be used.
    """
    lease, ended = Lease(destination, shard), threading.Event()
    try:
        with naming_address(destination, OutputError, "locked"):
            lease.acquire()
    except OutputError as error:
        with contextlib.suppress(Exception):
            lease.release()
        if not isinstance(error.__cause__, NotImplementedError):
            raise
        logger.warning(
            "%s has no lock that other machines see, since its files have no times", destination
        )
        yield lambda: None
        return
    renewing = threading.Thread(target=_keep_renewing, args=(lease, ended), daemon=True)
    renewing.start()
    try:
        yield lease.require_held
    finally:
        ended.set()
        renewing.join()
        try:
            lease.release()
        except Exception as error:  # each file system has errors of its own
            logger.warning(
                "the next run waits for %.0f s, since this one's lease is left: %s", EXPIRES, error
            )


def _keep_renewing(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(RENEWED):
        try:
            lease.renew()
        except Exception as error:  # a network that fails now may be there the next time
            logger.debug("a lease was not renewed: %s", error)
