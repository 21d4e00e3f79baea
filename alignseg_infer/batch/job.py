"""What a batch has to do with each image, as facts that can be sent to other processes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from alignseg_infer.backends.opening import PredictorOptions
from alignseg_infer.backports import Self
from alignseg_infer.batch.stores import MANIFEST, Store
from alignseg_infer.drawing.masks import require_opacity
from alignseg_infer.errors import OptionError
from alignseg_infer.results.polygons import require_tolerance
from alignseg_infer.results.saving import PICTURES, SavedFormat, parse_formats

MADE_WITH = f"{MANIFEST}/made-with.json"
# Options of a predictor that change results by more than the last bits of logits.
_SETTINGS = ("size", "mode", "tile", "overlap", "scales", "flip", "runtime", "precision")


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What is saved of each image.

    Attributes:
        formats: The files.
        opacity: Of the colours in the overlay, 0..1.
        tolerance: Pixels by which polygons may be off.
        outline: Whether the overlay has a white line where classes meet.

    Raises:
        OptionError: A value cannot be used.
    """

    formats: tuple[SavedFormat, ...] = PICTURES
    opacity: float = 0.5
    tolerance: float = 0.0
    outline: bool = False

    @classmethod
    def of(cls, formats: Sequence[str], opacity: float, tolerance: float, *, outline: bool) -> Self:
        """Return what is saved, with formats by their names.

        Raises:
            OptionError: A value cannot be used.
        """
        return cls(
            formats=tuple(parse_formats(formats)),
            opacity=opacity,
            tolerance=tolerance,
            outline=outline,
        )

    def __post_init__(self) -> None:
        require_opacity(self.opacity)
        require_tolerance(self.tolerance)


@dataclass(frozen=True)
class Shard:
    """A part of the images, by their names.

    Attributes:
        number: Which part, counted from 1.
        count: How many there are.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard that ``3/16`` names.

        Raises:
            OptionError: The text names none.
        """
        number, slash, count = text.partition("/")
        if number.isdecimal() and slash and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise OptionError(
            f"shard={text!r}", "which part of how many, counted from 1", "shard='1/16'"
        )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def file_name(self) -> str:
        """The shard in names of files."""
        return f"{self.number:05}of{self.count:05}"


@dataclass(frozen=True)
class Job:
    """The facts that a worker needs; they can be pickled.

    Attributes:
        model: Absolute path of the model, or ``demo``.
        options: How a predictor opens it.
        model_sha256: Hash of the model and its files of weights.
        destination: A folder, as an absolute path, or an address.
        room: Name of the place, in a folder, for files that are being written.
        saving: What is saved of each image.
    """

    model: str
    options: PredictorOptions
    model_sha256: str
    destination: str
    room: str
    saving: Saving

    def settings(self) -> dict[str, Any]:
        """Return the options that change results, as JSON values."""
        options = {name: getattr(self.options, name) for name in _SETTINGS}
        saving = asdict(self.saving)
        saving["formats"] = [each for each in SavedFormat if each in self.saving.formats]
        settings: dict[str, Any] = json.loads(json.dumps({**options, **saving}))
        return settings

    def settings_hash(self) -> str:
        """Return a short hash of `settings`."""
        return self._settings_hash

    @cached_property
    def _settings_hash(self) -> str:  # each row has it
        text = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_same_job(store: Store, job: Job, *, replace: bool) -> None:
    """Check that a destination holds no results of another model or other options.

    Raises:
        OptionError: It does, and they should not be replaced.
    """
    found = store.read(MADE_WITH)
    different = [] if found is None or replace else _differences(found, _made_with(job))
    if different:
        raise OptionError(
            f"{job.destination} holds results of {' and '.join(different)}",
            "the model and the options of the first run, or a destination of its own",
            "replace=True to make all results again, or another destination=",
        )


def record_job(store: Store, job: Job) -> None:
    """Write down with which model and options the results are made from now on.

    Raises:
        OptionError: Another shard has just begun with others.
        OutputError: The facts cannot be written.
    """
    text = json.dumps(_made_with(job), indent=2).encode()
    if store.read(MADE_WITH) != text:
        store.write(MADE_WITH, text)
        require_same_job(store, job, replace=False)


def _made_with(job: Job) -> dict[str, Any]:
    return {"model_sha256": job.model_sha256, **job.settings()}


def _differences(found: bytes, wanted: dict[str, Any]) -> list[str]:
    """Return what is different, in words; one entry for what is no JSON of ours."""
    try:
        earlier = json.loads(found)
        names = [name for name in wanted if earlier.get(name) != wanted[name]]
    except (ValueError, AttributeError):
        return [f"something else, since its {MADE_WITH} is damaged"]
    described = [
        f"{name}={earlier.get(name)!r} (now {wanted[name]!r})"
        for name in names
        if name != "model_sha256"
    ]
    other = f"another model, with the sha256 {earlier.get('model_sha256')}"
    return ([other] if "model_sha256" in names else []) + described
