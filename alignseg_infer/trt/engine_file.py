"""The facts of a TensorRT engine, in a JSON file beside its plan file: ``alignseg.engine.json``.

The plan file holds exactly what TensorRT wrote, so trtexec can read it too.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from alignseg_infer.arrays import InputShape
from alignseg_infer.backports import Self
from alignseg_infer.cuda.base import Gpu
from alignseg_infer.errors import EngineError, SpecError
from alignseg_infer.files.reading import require_file
from alignseg_infer.spec.from_json import dataclass_from_json, json_facts
from alignseg_infer.spec.model import ModelSpec
from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.flavours import Flavour

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
SIDECAR_VERSION = 4


@dataclass(frozen=True)
class Profile:
    """The input shapes of an engine, from `minimum` to `maximum`; it is fastest at `optimum`."""

    minimum: InputShape
    optimum: InputShape
    maximum: InputShape

    def __contains__(self, shape: InputShape) -> bool:
        low, seen, high = map(dataclasses.astuple, (self.minimum, shape, self.maximum))
        return all(a <= b <= c for a, b, c in zip(low, seen, high, strict=True))


@dataclass(frozen=True)
class LayerCount:
    """The number of layers in the parsed network that have this kind and output type.

    Attributes:
        kind: TensorRT's layer type, e.g. ``CONVOLUTION``.
        data_type: The type of the first output, e.g. ``HALF``; ``INT8`` for a convolution that
            reads dequantised values.
        count: Number of layers.
    """

    kind: str
    data_type: str
    count: int


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The facts in the JSON file.

    Attributes:
        spec: The model's facts; ``spec.export.precision`` is what the engine computes in.
        sha256: SHA-256 of the plan file.
        flavour: Which TensorRT it is for.
        tensorrt_version: Version that built it, e.g. ``11.4.0.106``.
        version_compatible: Whether newer versions of TensorRT run it too.
        hardware_compatibility: ``none``, ``ampere-plus`` or ``same-compute-capability``.
        compute_capabilities: The ones that TensorRT for RTX was asked to build for, if any.
        gpu: The GPU that built it; None for TensorRT for RTX, which builds without a GPU.
        profile: Input shapes it takes.
        plugins: Plugins it needs, as ``name/version``.
        layers: The layers of the parsed network.
        source_sha256: SHA-256 of the ONNX file it was built from.
        verification: Result of the verification; None for an engine that was not verified.
        builder: Versions of this package and TensorRT that wrote it.
        tf32: Whether float32 convolutions may round their inputs to 10 bits of mantissa.
        plugins_embedded: Whether the plan file contains the library of plugins.
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

    @property
    def fixed_spec(self) -> ModelSpec:
        """The spec, with the size and batch in its export that the profile fixes."""
        low, high, export = self.profile.minimum, self.profile.maximum, self.spec.export
        if export is None:
            return self.spec
        size = (high.height, high.width)
        fixed = dataclasses.replace(
            export,
            size=size if size == (low.height, low.width) else None,
            batch=high.batch if high.batch == low.batch else None,
        )
        return dataclasses.replace(self.spec, export=fixed)

    def to_json(self) -> str:
        """Return the facts as one indented JSON object."""
        facts = {"version": SIDECAR_VERSION, **dataclasses.asdict(self)}
        return json.dumps(facts, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            EngineError: The text is something else, or has a version that this package does not
                know.
        """
        try:
            facts = json_facts(text)
            version = facts.pop("version")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
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
    """Return where the facts of the plan file `engine` lie: ``alignseg.engine.json``."""
    return engine.with_name(engine.name + ".json")


def read_facts(engine: Path) -> EngineFacts:
    """Read the facts beside the plan file `engine`, without opening the plan itself.

    Raises:
        EngineError: The plan file does not exist, or its facts are missing or cannot be read.
    """
    require_file(engine, "a TensorRT engine", EngineError)
    path = sidecar_path(engine)
    if not os.path.isfile(path):
        raise EngineError(
            f"{engine} has no {path.name} beside it",
            "the facts that this package writes beside an engine; they say how to prepare images",
            f"copy {path.name} into {engine.parent} too, or build the engine again: "
            "alignseg export-trt MODEL -o ENGINE",
        )
    require_file(path, "the facts of a TensorRT engine", EngineError)
    try:
        return EngineFacts.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise _unreadable(f"{path} is not a text file") from error


def _unreadable(reason: str) -> EngineError:
    return EngineError(
        f"the facts of the engine cannot be read: {reason}",
        f"JSON of version {SIDECAR_VERSION}, the one that this package reads",
        "export the model again: alignseg export-trt MODEL -o ENGINE",
    )
