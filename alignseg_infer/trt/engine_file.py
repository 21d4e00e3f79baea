"""What a TensorRT engine is, as JSON beside its plan file: ``alignseg.engine.json``.

The plan itself stays what TensorRT wrote, so that trtexec reads it too.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from alignseg_infer.errors import EngineError, SpecError
from alignseg_infer.files import require_file
from alignseg_infer.spec.model import ModelSpec, dataclass_from_json
from alignseg_infer.trt.flavours import Flavour

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
SIDECAR_VERSION = 4


@dataclass(frozen=True)
class InputShape:
    """Images, height and width of the network input; ``str()`` gives ``1x512x1024``."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Profile:
    """Input shapes an engine takes, from `minimum` to `maximum`; it is fastest at `optimum`."""

    minimum: InputShape
    optimum: InputShape
    maximum: InputShape

    def __contains__(self, shape: InputShape) -> bool:
        low, seen, high = map(dataclasses.astuple, (self.minimum, shape, self.maximum))
        return all(a <= b <= c for a, b, c in zip(low, seen, high, strict=True))


@dataclass(frozen=True)
class Gpu:
    """A GPU by name, and its compute capability such as ``8.9``."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class LayerCount:
    """How many layers of the parsed network have this kind and output type.

    Attributes:
        kind: TensorRT's layer type, e.g. ``CONVOLUTION``.
        data_type: Of its first output, e.g. ``HALF``; ``INT8`` for a convolution that reads
            dequantised values.
        count: Layers.
    """

    kind: str
    data_type: str
    count: int


@dataclass(frozen=True)
class VerifiedRow:
    """Comparison with the reference at one input shape.

    Attributes:
        shape: Input shape.
        images: Images compared.
        agreement: Share of pixels labelled alike, 0..1, over all of them.
        worst_agreement: The same for the worst image.
        logits_error: Relative L2 error of the logits; None where labels are all there is.
    """

    shape: InputShape
    images: int
    agreement: float
    worst_agreement: float
    logits_error: float | None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """That a model labels images as its reference does.

    Attributes:
        reference: File name of the reference.
        reference_sha256: SHA-256 of the reference.
        backend: What ran the model.
        images: On what, e.g. "128 images".
        required_agreement: Threshold that every row met.
        rows: One for each input shape.
        miou_drop: Mean IoU of the reference minus that of the model, in percent points; None
            without labels.
    """

    reference: str
    reference_sha256: str
    backend: str
    images: str
    required_agreement: float
    rows: tuple[VerifiedRow, ...]
    miou_drop: float | None = None

    def to_json(self) -> str:
        """The record as one JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            SpecError: The text is something else.
        """
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):
            facts = text
        return dataclass_from_json(cls, facts, "verification")


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The facts in the JSON file.

    Attributes:
        spec: The model's facts; ``spec.export.precision`` is what the engine computes in.
        sha256: Of the plan file.
        flavour: Which TensorRT it is for.
        tensorrt_version: That built it, e.g. ``11.4.0.106``.
        version_compatible: Whether newer versions of TensorRT run it too.
        hardware_compatibility: ``none``, ``ampere-plus`` or ``same-compute-capability``.
        compute_capabilities: Those it was built for, where TensorRT for RTX was told; else empty.
        gpu: The GPU it was built on; None for TensorRT for RTX, whose engines depend on none.
        profile: Input shapes it takes.
        plugins: Plugins it needs, ``name/version``.
        layers: What the parsed network consists of.
        source_sha256: Of the ONNX file it was built from.
        verification: None: built, not verified.
        builder: Versions that wrote it.
        tf32: Whether float32 convolutions may round their inputs to 10 bits of mantissa.
        plugins_embedded: Whether the library of plugins is in the plan file.
    """

    spec: ModelSpec
    sha256: str
    flavour: Flavour
    tensorrt_version: str
    version_compatible: bool
    hardware_compatibility: str
    compute_capabilities: tuple[str, ...]
    gpu: Gpu | None
    profile: Profile
    plugins: tuple[str, ...]
    layers: tuple[LayerCount, ...]
    source_sha256: str
    verification: Verification | None
    builder: str
    tf32: bool = False
    plugins_embedded: bool = False

    def to_json(self) -> str:
        """The facts as one indented JSON object."""
        facts = {"version": SIDECAR_VERSION, **dataclasses.asdict(self)}
        return json.dumps(facts, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            EngineError: The text is something else, or of a version this package does not know.
        """
        try:
            facts = json.loads(text)
            version = facts.pop("version")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise _unreadable(f"not a JSON object with a version ({error!r})") from error
        if type(version) is not int or version != SIDECAR_VERSION:
            raise _unreadable(f"they have version {version!r}")
        try:
            read = dataclass_from_json(cls, facts, "engine")
        except SpecError as error:
            raise _unreadable(error.problem) from error
        shapes = (read.profile.minimum, read.profile.optimum, read.profile.maximum)
        if read.spec.export is None or read.profile.optimum not in read.profile:
            raise _unreadable(f"no export, or a profile of {' and '.join(map(str, shapes))}")
        if min(dataclasses.astuple(read.profile.minimum)) < 1:
            raise _unreadable(f"a profile that begins with {read.profile.minimum}")
        return read


def sidecar_path(engine: Path) -> Path:
    """Where the facts of the plan file `engine` are: ``alignseg.engine.json``."""
    return engine.with_name(engine.name + ".json")


def read_facts(engine: Path) -> EngineFacts:
    """The facts beside the plan file `engine`. The plan itself is not opened.

    Raises:
        EngineError: There is no such file, or no facts beside it that can be read.
    """
    require_file(engine, "a TensorRT engine", EngineError)
    path = sidecar_path(engine)
    if not path.is_file():
        raise EngineError(
            f"{engine} has no {path.name} beside it",
            "the facts that this package writes beside an engine; they say how images are to "
            "be prepared",
            f"copy {path.name} into {engine.parent} too, or build the engine again: "
            "alignseg export-trt MODEL -o ENGINE",
        )
    try:
        return EngineFacts.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise _unreadable(f"{path} is no text") from error


def _unreadable(reason: str) -> EngineError:
    return EngineError(
        f"the facts of the engine cannot be read: {reason}",
        f"JSON of version {SIDECAR_VERSION}, the one that this package reads",
        "export the model again: alignseg export-trt MODEL -o ENGINE",
    )
