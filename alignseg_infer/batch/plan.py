"""What is left to do: images that are missing in the manifest, have changed, or failed."""

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from alignseg_infer.backports import StrEnum
from alignseg_infer.batch.job import Job, Shard
from alignseg_infer.batch.manifest import read_rows
from alignseg_infer.batch.stores import Store
from alignseg_infer.batch.worker import result_stem
from alignseg_infer.datasets.manifest_rows import Status, manifest_text
from alignseg_infer.datasets.sources import SourceImage
from alignseg_infer.errors import OptionError

_COLUMNS = ["name", "bytes", "version", "status", "model_sha256", "settings"]


class State(StrEnum):
    """What the manifest says of an image."""

    MISSING = "missing"  # it is not there, or its results are not
    CHANGED = "changed"  # the image has changed, or the model or an option has
    FAILED = "failed"
    DONE = "done"


@dataclass
class Plan:
    """The images of one shard.

    Attributes:
        images: Those to segment now, in the order of the source.
        counts: How many images are in each state.
        listed: How many images the source has, in all shards.
    """

    images: list[SourceImage] = field(default_factory=list)
    counts: Counter[State] = field(default_factory=Counter)
    listed: int = 0

    @property
    def found(self) -> int:
        """Number of all images."""
        return sum(self.counts.values())


class _Known(NamedTuple):
    """What the manifest holds of an image."""

    size: int | None
    version: str
    status: str
    same_job: bool


def make_plan(
    images: Iterable[SourceImage], store: Store, job: Job, shard: Shard, *, retry_failed: bool
) -> Plan:
    """Compare the images of a source with the manifest.

    Args:
        images: The images of the source.
        store: The destination.
        job: What is done with them.
        shard: Which of them to take.
        retry_failed: Whether to try images again that failed.

    Raises:
        OptionError: Two images would have the same results.
        DatasetError: The source or the manifest cannot be read.
    """
    known, plan = _read_known(store, job), Plan()
    urls: dict[str, str] = {}
    for image in images:
        plan.listed += 1
        stem = result_stem(image.name)
        if not is_in(shard, stem):
            continue
        key = manifest_text(stem)
        if key in urls:
            if urls[key] == image.url:  # twice in a list
                continue
            raise _same_stem_error(stem, urls[key], image.url)
        urls[key] = image.url
        state = _state_of(image, known.get(manifest_text(image.name)))
        if state is State.DONE and store.lacks([stem + each.ending for each in job.saving.formats]):
            state = State.MISSING
        plan.counts[state] += 1
        if state in (State.MISSING, State.CHANGED) or (state is State.FAILED and retry_failed):
            plan.images.append(image)
    return plan


def is_in(shard: Shard, stem: str) -> bool:
    """Return whether an image belongs to a shard; it does so whatever other images there are.

    Images whose results have the same names are in the same shard.
    """
    number = zlib.crc32(stem.encode("utf-8", "surrogateescape"))
    return number % shard.count == shard.number - 1


def _read_known(store: Store, job: Job) -> dict[str, _Known]:
    settings = job.settings_hash()
    columns = read_rows(store, _COLUMNS).to_pydict()
    rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
    return {
        name: _Known(size, version, status, (model, used) == (job.model_sha256, settings))
        for name, size, version, status, model, used in rows
    }


def _state_of(image: SourceImage, known: _Known | None) -> State:
    if known is None:
        return State.MISSING
    same_size = image.size is None or known.size is None or image.size == known.size
    if not (same_size and known.same_job and image.version == known.version):
        return State.CHANGED
    return State.FAILED if known.status == Status.FAILED else State.DONE


def _same_stem_error(stem: str, one: str, other: str) -> OptionError:
    ending = one.rpartition(".")[2]
    if other.endswith(f".{ending}"):  # /data/a.png in a list, and data/a.png beside the list
        fix = "segment one of them by a list of its own into a destination of its own"
    else:
        fix = (
            f"segment those of each kind into a destination of their own: a glob such as "
            f"'FOLDER/**/*.{ending}' as source="
        )
    return OptionError(
        f"{one} and {other} would have the same results, {stem}_labels.png and others",
        "images whose paths differ without their endings",
        fix,
    )
