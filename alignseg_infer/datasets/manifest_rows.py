"""The rows of a manifest: what became of each image of a batch, in Parquet files (parts).

An image that was tried again has another row; the last one counts. Rows of a later run are in parts
whose names come later.
"""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from alignseg_infer.backports import StrEnum
from alignseg_infer.errors import INSTALL_BATCH, DatasetError, MissingDependencyError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingDependencyError(
        f"the manifest needs the package pyarrow: {error}",
        "the packages fsspec and pyarrow",
        INSTALL_BATCH,
    ) from error

_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")


class Status(StrEnum):
    """What became of an image."""

    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class ManifestRow:
    """What became of one image. docs/batch.md explains the columns.

    Attributes:
        name: Path below the source.
        source: Path or address of the file.
        bytes: Its size; None if it is not known.
        version: Its etag or time of change, when it was listed.
        sha256: Hash of the bytes that were read; empty if none were.
        status: Whether it was segmented.
        error: What went wrong, in one line; empty if nothing did.
        height: Of the image, in pixels; 0 if it could not be read.
        width: Of the image, in pixels.
        shares: Share of the pixels, 0..1, by class name.
        load_ms: Time to read and decode it.
        preprocess_ms: Time to prepare it.
        infer_ms: Time of the network.
        postprocess_ms: Time to label its pixels.
        save_ms: Time to encode and write its results.
        model_sha256: Hash of the model.
        settings: Hash of the options that change results.
        package_version: Version of this package.
        finished: When the row was made, UTC.
    """

    name: str
    source: str
    bytes: int | None
    version: str
    model_sha256: str
    settings: str
    package_version: str
    status: str = Status.DONE.value
    error: str = ""
    sha256: str = ""
    height: int = 0
    width: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    load_ms: float = 0.0
    preprocess_ms: float = 0.0
    infer_ms: float = 0.0
    postprocess_ms: float = 0.0
    save_ms: float = 0.0
    finished: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


_TIMES = ("load_ms", "preprocess_ms", "infer_ms", "postprocess_ms", "save_ms")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "source")),
        ("bytes", pa.int64()),
        *((name, pa.string()) for name in ("version", "sha256", "status", "error")),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("shares", pa.map_(pa.string(), pa.float32())),
        *((name, pa.float32()) for name in _TIMES),
        *((name, pa.string()) for name in ("model_sha256", "settings", "package_version")),
        ("finished", pa.timestamp("us", tz="UTC")),
    ]
)


def manifest_text(text: str) -> str:
    r"""Return text as Parquet takes it: bytes of a name that are no UTF-8 become ``\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_text(text: str) -> str:
    """Return the path of a file that `manifest_text` was given."""
    data = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())
    return data.decode("utf-8", "surrogateescape")


def encode_rows(rows: Iterable[ManifestRow]) -> bytes:
    """Return the bytes of a part."""
    columns = [
        {
            key: manifest_text(value) if isinstance(value, str) else value
            for key, value in {**vars(row), "shares": list(row.shares.items())}.items()
        }
        for row in rows
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(columns, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def read_parts(parts: Iterable[tuple[str, bytes]], columns: list[str] | None = None) -> "pa.Table":
    """Return the last row of each image, in the order of their names.

    Args:
        parts: Name and bytes of each part, in the order of their names.
        columns: The columns to read, with ``name``; None for all.

    Raises:
        DatasetError: A part is no part of a manifest.
    """
    tables = [_decode_part(name, data, columns) for name, data in parts]
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    last = {name: index for index, name in enumerate(table.column("name").to_pylist())}
    return table.take(pa.array([last[name] for name in sorted(last)], pa.int64()))


def _decode_part(name: str, data: bytes, columns: list[str] | None) -> "pa.Table":
    try:
        names = columns or SCHEMA.names
        file = pq.ParquetFile(io.BytesIO(data))
        if missing := [each for each in names if each not in file.schema_arrow.names]:
            raise pa.ArrowInvalid(f"it lacks the columns {', '.join(missing)}")
        return file.read(names).select(names).cast(pa.schema(map(SCHEMA.field, names)))
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{name} is no part of a manifest: {' '.join(f'{error}'.split())}",
            f"a Parquet file with the columns {', '.join(SCHEMA.names)}",
            "move it elsewhere; the images of its rows are then segmented again",
        ) from error
