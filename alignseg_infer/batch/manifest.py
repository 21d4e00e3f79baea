"""The manifest of a destination: parts that are written once and never changed."""

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignseg_infer.batch.stores import MANIFEST, Folder, Store, open_store
from alignseg_infer.datasets.manifest_rows import ManifestRow, encode_rows, read_parts
from alignseg_infer.datasets.sources import PART_ENDING

if TYPE_CHECKING:
    import pyarrow as pa

_RUN = re.compile(rf"{MANIFEST}/run-(?P<run>\d+)-")
MOST_ROWS = 20_000  # in memory, about 10 MB
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between parts
WAIT_SHARE = 0.1  # of a run's time that is lost, at most, when it is killed


def read_manifest(destination: str, columns: list[str] | None = None) -> "pa.Table":
    """Return the last row of each image that was segmented into a destination.

    Args:
        destination: The folder or the address.
        columns: The columns to read, with ``name``; None for all.

    Raises:
        DatasetError: A part is damaged.
    """
    return read_rows(open_store(destination, ""), columns)


def read_rows(store: Store | Folder, columns: list[str] | None = None) -> "pa.Table":
    """Return what `read_manifest` does, of an open destination."""
    return read_parts(((name, store.read(name) or b"") for name in part_names(store)), columns)


def part_names(store: Store) -> list[str]:
    """Return the paths of the parts, the latest last."""
    return [name for name in store.names(MANIFEST) if name.endswith(PART_ENDING)]


class PartWriter:
    """Writes the rows of one run, the first after a second and later ones once a minute.

    A run that is killed loses the rows of a tenth of its time at most; their images are segmented
    again.

    Args:
        store: The destination.
        shard: Name of the shard, for the names of parts.
    """

    def __init__(self, store: Store, shard: str) -> None:
        self._store = store
        self._rows: list[ManifestRow] = []
        self._begin = self._last = time.monotonic()
        self._names = self._new_names(shard)

    def _new_names(self, shard: str) -> Iterator[str]:
        runs = (_RUN.match(name) for name in part_names(self._store))
        run = 1 + max((int(found["run"]) for found in runs if found), default=0)
        part = 0
        while True:
            part += 1
            yield f"{MANIFEST}/run-{run:06}-shard-{shard}-part-{part:06}{PART_ENDING}"

    def add(self, row: ManifestRow | None) -> None:
        """Keep a row, and write a part if it is time to; None only looks at the time.

        Raises:
            OutputError: The part cannot be written.
        """
        if row is not None:
            self._rows.append(row)
        now = time.monotonic()
        wait = min(LONGEST_WAIT, max(SHORTEST_WAIT, WAIT_SHARE * (now - self._begin)))
        if len(self._rows) >= MOST_ROWS or now - self._last >= wait:
            self.flush()

    def flush(self) -> None:
        """Write the rows that were kept.

        Raises:
            OutputError: The part cannot be written.
        """
        self._last = time.monotonic()
        if self._rows:
            self._store.write(next(self._names), encode_rows(self._rows))
            self._rows = []
