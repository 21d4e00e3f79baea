"""Names, types and shapes of an engine's inputs and outputs, as the engine itself lists them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignseg_infer.arrays import InputShape
from alignseg_infer.errors import EngineError
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.spec.model import INPUT_NAME, OutputKind
from alignseg_infer.trt.bindings import ICudaEngine
from alignseg_infer.trt.engine_file import EngineFacts, Profile
from alignseg_infer.trt.runtime.checks import REBUILD

_DTYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
}
_OUTPUT_TYPES = {  # TensorRT does not support uint16; more than 256 labels come as integers
    OutputKind.LOGITS: ("FLOAT",),
    OutputKind.LABELS: ("UINT8", "INT32", "INT64"),
}


class EngineTensor(NamedTuple):
    """An input or output; `data_type` is TensorRT's name for its type, e.g. ``FLOAT``."""

    name: str
    is_input: bool
    data_type: str

    def __str__(self) -> str:
        return f"{'input' if self.is_input else 'output'} {self.name} {self.data_type}"


class EngineOutputs(NamedTuple):
    """The outputs of an engine.

    Attributes:
        name: Name of the output that is read.
        dtype: Its NumPy type.
        promised: The type in which `Backend.infer` returns it.
        others: Names of the outputs that are not read: offset fields.
    """

    name: str
    dtype: type[np.generic]
    promised: type[np.generic]
    others: tuple[str, ...]


def list_tensors(engine: ICudaEngine) -> tuple[EngineTensor, ...]:
    """Return the inputs and outputs in the engine's order."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return tuple(
        EngineTensor(
            name,
            engine.get_tensor_mode(name).name == "INPUT",
            engine.get_tensor_dtype(name).name,
        )
        for name in names
    )


def read_profile(engine: ICudaEngine) -> Profile:
    """Return the input shapes that the engine takes."""
    # Three shapes (N, 3, H, W): minimum, optimum, maximum.
    shapes = [tuple(shape) for shape in engine.get_tensor_profile_shape(INPUT_NAME, 0)]
    return Profile(*(InputShape(batch, height, width) for batch, _, height, width in shapes))


def outputs_of(
    path: Path, facts: EngineFacts, tensors: tuple[EngineTensor, ...], profile: Profile
) -> EngineOutputs:
    """Return the engine's outputs, after comparing its tensors and profile with its facts.

    Raises:
        EngineError: They differ.
    """
    _require_profile(path, facts.profile, profile)
    kind = facts.spec.export.output if facts.spec.export else OutputKind.LOGITS
    fields = {field.output_name for field in OffsetField}
    inputs = [tensor for tensor in tensors if tensor.is_input]
    outputs = [tensor for tensor in tensors if not tensor.is_input and tensor.name not in fields]
    fits = (
        inputs == [EngineTensor(INPUT_NAME, True, "FLOAT")]
        and [tensor.name for tensor in outputs] == [kind.value]
        and outputs[0].data_type in _OUTPUT_TYPES[kind]
    )
    if not fits:
        raise EngineError(
            f"the facts of {path} do not fit its tensors: {', '.join(map(str, tensors))}",
            f"input {INPUT_NAME} FLOAT; output {kind} {' or '.join(_OUTPUT_TYPES[kind])}; "
            "no other outputs except offset fields",
            REBUILD,
        )
    others = tuple(tensor.name for tensor in tensors if tensor.name in fields)
    promised = _promised_type(kind, facts.spec.network.num_classes)
    return EngineOutputs(kind.value, _DTYPES[outputs[0].data_type], promised, others)


def _promised_type(kind: OutputKind, classes: int) -> type[np.generic]:
    if kind is OutputKind.LOGITS:
        return np.float32
    return np.uint8 if classes <= 256 else np.uint16


def _require_profile(path: Path, told: Profile, seen: Profile) -> None:
    if (told.minimum, told.maximum) != (seen.minimum, seen.maximum):
        raise EngineError(
            f"{path} takes inputs from {seen.minimum} to {seen.maximum}, but its facts say "
            f"{told.minimum} to {told.maximum} (batch x height x width)",
            "an engine and its facts from the same build",
            REBUILD,
        )
