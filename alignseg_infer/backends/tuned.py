"""What ``alignseg tune`` chose for a model on this machine: written there, obeyed by `Predictor`.

A choice is a small JSON file, ``alignseg.tuned.json`` beside ``alignseg.onnx``. Where nothing can
be written beside the model, as beside the one of the package, it is in the cache folder.
It is obeyed only where it was made: on the same processor, with the same versions and files.
"""

import dataclasses
import hashlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignseg_infer.arrays import Size
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.backends.processor import (
    MAX_THREADS,
    core_limit,
    cpu_features,
    cpu_model,
    usable_cores,
)
from alignseg_infer.backports import Self
from alignseg_infer.demo import DEMO, model_path
from alignseg_infer.errors import ModelFileError, OptionError, OutputError, SpecError, TuningError
from alignseg_infer.files.caches import CHOICES, FOLDER_VARIABLE, kept_path
from alignseg_infer.files.reading import real_path, require_file
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.packages import ONNXRUNTIME, SharedModule, installed_of, version_of
from alignseg_infer.spec.from_json import dataclass_from_json, json_facts
from alignseg_infer.spec.model import MAX_INPUT_SIDE, MIN_INPUT_SIDE
from alignseg_infer.spec.onnx_weights import sha256_with_weights
from alignseg_infer.version import __version__

TUNED = "tuned"  # the value of runtime= that asks for the choice
ENDING = ".tuned.json"
FILE_VERSION = 1
ONNX = ".onnx"
RUNTIMES = {  # of which one is chosen, those for the CPU, with the precisions they are asked for
    "onnxruntime": (None,),
    "openvino": (None, RunPrecision.FP32, RunPrecision.BF16),
}


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a choice depends on besides the files.

    Attributes:
        cpu: Name of the processor.
        flags: The `processor.FLAGS` that it has.
        cores: How many logical cores a process may use.
        core_limit: How many cores' time a container may take; None for no limit.
        package: Version of this package.
        onnxruntime: Version of ONNX Runtime; None if it is not installed.
        openvino: Version of OpenVINO; None if it is not installed.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    core_limit: float | None
    package: str
    onnxruntime: str | None
    openvino: str | None

    @classmethod
    def here(cls) -> Self:
        """Return the fingerprint of this process."""
        return cls(
            cpu=cpu_model(),
            flags=cpu_features(),
            cores=usable_cores(),
            core_limit=core_limit(),
            package=__version__,
            onnxruntime=_version_of(ONNXRUNTIME),
            openvino=version_of("openvino"),
        )

    def differences(self, here: Self) -> list[str]:
        """Return what is not the same in `here`, in words."""
        return [
            f"{title} {_in_words(before)} there and {_in_words(now)} here"
            for name, title in _TITLES.items()
            if (before := getattr(self, name)) != (now := getattr(here, name))
        ]


_TITLES = {
    "cpu": "the processor is",
    "flags": "the processor's features are",
    "cores": "the cores that may be used are",
    "core_limit": "the container's limit of cores is",
    "package": "the version of alignseg-infer is",
    "onnxruntime": "the version of ONNX Runtime is",
    "openvino": "the version of OpenVINO is",
}


@dataclass(frozen=True, kw_only=True)
class ChosenFile:
    """An ``.onnx`` file that a choice names.

    Attributes:
        path: Where it is: an absolute path, or the name of a file beside the choice.
        sha256: SHA-256 of its bytes and of its files of weights.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> Self:
        """Return the facts of the file `path`."""
        return cls(path=os.path.abspath(path), sha256=sha256_with_weights(Path(path)))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is the fastest for a model on one machine, with labels like the model's in FP32.

    Attributes:
        model_sha256: SHA-256 of the model that was tuned, with its files of weights.
        file: The other file of the network that runs; None for the model itself.
        runtime: What runs it, as `Predictor` takes it.
        precision: As `Predictor` takes it; None for that of the file.
        threads: CPU threads; None for the runtime's choice.
        batch: The most images per call.
        size: The (height, width) that must be asked for, although the model takes any, since `file`
            takes no other, or since OpenVINO compiled for it; None if there is none.
        goal: What it is the best for: ``latency`` or ``throughput``.
        agreement: Share of the pixels that get the same label as in FP32, 0..1.
        milliseconds: Median time per image.
        ratio: Median of that time over the time of the model in FP32 on ONNX Runtime in the same
            rounds.
        input_sizes: The (height, width) that the network saw while it was tuned.
        fingerprint: The machine and the versions.
    """

    model_sha256: str
    file: ChosenFile | None
    runtime: str
    precision: str | None
    threads: int | None
    batch: int
    size: Size | None
    goal: str
    agreement: float
    milliseconds: float
    ratio: float
    input_sizes: tuple[Size, ...]
    fingerprint: Fingerprint

    def __str__(self) -> str:
        parts = [
            Path(self.file.path).name if self.file else None,
            self.runtime,
            self.precision,
            threads_text(self.threads),
            f"batch {self.batch}" if self.batch > 1 else None,
        ]
        return ", ".join(filter(None, parts))

    def to_json(self) -> str:
        """Return the choice as the content of a file."""
        return json.dumps({"version": FILE_VERSION, **dataclasses.asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True)
class Obeyed:
    """A choice that fits, and the file that it names.

    Attributes:
        model: What to open instead of the model: a path, or ``demo``.
        choice: The choice.
    """

    model: str | Path
    choice: Choice


def choice_of(model: str | Path) -> Obeyed:
    """Return what was chosen for a model on this machine.

    Args:
        model: An ``.onnx`` file, or ``demo``.

    Raises:
        TuningError: Nothing was chosen, or the choice is damaged, or was made on another machine,
            with other versions, or for other files.
        ModelFileError: The model does not exist.
        OptionError: It is no ``.onnx`` file.
    """
    path = _require_onnx(model)
    sha256 = sha256_with_weights(path)
    places = _places_of(path, sha256)
    found = [place for place in places if place.is_file()]
    if not found:
        looked = " and no ".join(map(str, places))
        raise _refused(model, f"nothing was chosen for {model} here: there is no {looked}")
    errors: list[TuningError] = []
    for place in found:
        try:
            return _fitting(model, path, sha256, place)
        except TuningError as error:
            errors.append(error)
    raise errors[0]


def keep_choice(model: str | Path, choice: Choice) -> Path:
    """Write a choice beside a model, or into the cache folder, and return the file.

    Args:
        model: An ``.onnx`` file, or ``demo``.
        choice: What is the best for it.

    Raises:
        OutputError: Neither can be written.
    """
    path = model_path(model)
    kept_in_cache = _places_of(path, choice.model_sha256)[0]
    if not _is_ours(path):
        try:
            place = beside(path)
            _write(place, choice)
            kept_in_cache.unlink(missing_ok=True)  # an older one, which would come first
            return place
        except (OutputError, OSError):
            pass  # a folder of somebody else
    try:
        _write(kept_in_cache, choice)
    except OutputError as error:
        raise OutputError(
            f"the choice for {model} can be kept neither beside it nor in the cache folder: "
            f"{error.problem}",
            "a folder of yours, for what is kept",
            f"export {FOLDER_VARIABLE}=FOLDER",
        ) from error
    return kept_in_cache


def beside(path: Path) -> Path:
    """Return where the choice for a model is written, if that is possible."""
    return path.with_suffix(ENDING)


def threads_text(threads: int | None) -> str:
    """Return how many threads there are, for people."""
    if threads is None:
        return "threads as the runtime chooses"
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _places_of(path: Path, sha256: str) -> list[Path]:
    """Return where the choice for a model may be, the place that counts first.

    A choice is in the cache only if the last one could not be written beside the model. There, its
    name depends on the model's place, too: a copy elsewhere has a choice of its own.
    """
    where = DEMO if _is_ours(path) else real_path(path)
    key = hashlib.sha256(os.fsencode(f"{sha256} {where}")).hexdigest()
    cached = kept_path(CHOICES, key)
    return [cached] if _is_ours(path) else [cached, beside(path)]


def advice(model: str | Path, *others: str | Path) -> str:
    """Return the command that chooses for a model, for a shell."""
    files = shlex.join(map(str, (model, *others)))
    return f"alignseg tune {files}" if str(model) == DEMO else f"alignseg tune {files} --images DIR"


def _require_onnx(model: str | Path) -> Path:
    path = model_path(model)
    if path.suffix.lower() != ONNX:
        raise OptionError(
            f"runtime={TUNED!r} was given with {path}, whose ending says what runs it",
            "an .onnx file, for which alignseg tune chooses a runtime",
            "leave runtime= out; or export it: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )
    require_file(path, "an .onnx file that was tuned", ModelFileError)
    return path


def _is_ours(path: Path) -> bool:
    """Return whether a file came with the package, beside which nothing is written."""
    return path.parent == model_path(DEMO).parent


def _write(place: Path, choice: Choice) -> None:
    file = choice.file
    if file and os.path.dirname(file.path) == os.path.abspath(place.parent):
        name = os.path.basename(file.path)  # the folder may be moved
        choice = dataclasses.replace(choice, file=dataclasses.replace(file, path=name))
    with write_atomically(place) as temporary:
        temporary.write_text(choice.to_json(), encoding="utf-8")


def _fitting(model: str | Path, path: Path, sha256: str, place: Path) -> Obeyed:
    """Return the choice in a file if it is of this machine, these versions and these files."""
    choice = _read(model, place)
    wrong = choice.fingerprint.differences(Fingerprint.here())
    if choice.model_sha256 != sha256:
        wrong.append(f"{path} is another file than the one that was tuned")
    other = place.parent / choice.file.path if choice.file else None
    if choice.file and other:
        if not other.is_file():
            wrong.append(f"{other}, which was the fastest, does not exist")
        elif sha256_with_weights(other) != choice.file.sha256:
            wrong.append(f"{other}, which was the fastest, is another file than then")
    if wrong:
        raise _refused(model, f"{place} does not fit: {'; '.join(wrong)}", other)
    return Obeyed(other or (model if str(model) == DEMO else path), choice)


def _read(model: str | Path, place: Path) -> Choice:
    try:
        facts = json_facts(place.read_text(encoding="utf-8"))
        version = facts.pop("version")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise _refused(model, f"{place} is damaged ({error})") from error
    if version != FILE_VERSION:
        raise _refused(
            model, f"{place} has version {version!r}, and this package reads {FILE_VERSION}"
        )
    try:
        choice = dataclass_from_json(Choice, facts, "choice")
    except SpecError as error:
        raise _refused(model, f"{place} is damaged ({error.problem})") from error
    wrong = _unusable(choice)
    if wrong:
        raise _refused(model, f"{place} is damaged ({wrong})")
    return choice


def _unusable(choice: Choice) -> str | None:
    """Return what tuning cannot have written, or None."""
    if choice.runtime not in RUNTIMES:
        return f"the runtime is {choice.runtime!r}"
    if choice.precision not in RUNTIMES[choice.runtime]:
        return f"the precision of {choice.runtime} is {choice.precision!r}"
    if choice.threads is not None and not 1 <= choice.threads <= MAX_THREADS:
        return f"the threads are {choice.threads}"
    if choice.batch < 1:
        return f"the batch is {choice.batch}"
    if choice.size and not MIN_INPUT_SIDE <= min(choice.size) <= max(choice.size) <= MAX_INPUT_SIDE:
        return f"the size is {choice.size}"
    return None


def _refused(model: str | Path, problem: str, other: Path | None = None) -> TuningError:
    """Return an error for a choice, of which `other` is the file that won."""
    others = [other] if other and other.is_file() else []
    back = f"put {shlex.quote(str(other))} back; or " if other and not others else ""
    return TuningError(
        problem,
        "a choice that was made on this machine, with these versions, for this model",
        f"{advice(model, *others)}; or {back}leave runtime= out",
    )


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value)


def _version_of(shared: SharedModule) -> str | None:
    names = installed_of(shared)
    return version_of(names[0]) if names else None
