"""Names, types and shapes of an engine's inputs and outputs, as the engine itself lists them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignseg_infer.arrays import InputShape
from alignseg_infer.errors import EngineError
from alignseg_infer.spec.forms import image_shape
from alignseg_infer.spec.graph_contract import OFFSET_PREFIX, GraphTensor, follow_graph
from alignseg_infer.spec.model import INPUT_NAME, ModelSpec
from alignseg_infer.trt.bindings import ICudaEngine
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.runtime.checks import REBUILD

_TYPES = {  # NumPy's names of TensorRT's
    **{"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"},
    **{"UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"},
}


class EngineTensors(NamedTuple):
    """The inputs and outputs of an engine."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]


class CheckedTensors(NamedTuple):
    """What a runner needs to know of an engine's inputs and outputs.

    Attributes:
        input_type: NumPy's type of the images: float32, float16 or uint8.
        output: Name of the output that is read.
        output_type: Its NumPy type.
        others: Names of the outputs that are not read: offset fields.
    """

    input_type: np.dtype[np.generic]
    output: str
    output_type: np.dtype[np.generic]
    others: tuple[str, ...]


def list_tensors(engine: ICudaEngine) -> EngineTensors:
    """Return the inputs and outputs, each in the engine's order."""
    inputs: list[GraphTensor] = []
    outputs: list[GraphTensor] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        said = engine.get_tensor_dtype(name).name
        # TensorRT writes -1 for what can change.
        shape = tuple(None if side < 0 else side for side in engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name).name == "INPUT"
        (inputs if is_input else outputs).append(GraphTensor(name, _TYPES.get(said, said), shape))
    return EngineTensors(tuple(inputs), tuple(outputs))


def check_tensors(
    path: Path, spec: ModelSpec, tensors: EngineTensors, fix: str = REBUILD
) -> CheckedTensors:
    """Compare an engine's inputs and outputs with the facts. Do this before `read_profile`.

    Args:
        path: The plan file, for messages.
        spec: The facts.
        tensors: From `list_tensors`. The engine itself is not passed: a traceback would keep it
            alive.
        fix: The last part of the message.

    Raises:
        EngineError: They differ.
    """
    follow_graph(path, spec, *tensors, error=EngineError, fix=fix)
    others = {tensor.name for tensor in tensors.outputs if tensor.name.startswith(OFFSET_PREFIX)}
    [output] = [tensor for tensor in tensors.outputs if tensor.name not in others]
    types = np.dtype(tensors.inputs[0].data_type), np.dtype(output.data_type)
    return CheckedTensors(types[0], output.name, types[1], tuple(sorted(others)))


def read_profile(engine: ICudaEngine, spec: ModelSpec) -> Profile:
    """Return the input shapes that the engine takes; `spec` tells the order of their axes."""
    # Three shapes: minimum, optimum, maximum.
    shapes = [tuple(shape) for shape in engine.get_tensor_profile_shape(INPUT_NAME, 0)]
    usual = [image_shape(spec, shape) for shape in shapes]
    return Profile(*(InputShape(batch, height, width) for batch, _, height, width in usual))


def require_profile(path: Path, told: Profile, seen: Profile) -> None:
    """Compare the shapes that an engine takes with its facts.

    Raises:
        EngineError: They differ.
    """
    if (told.minimum, told.maximum) != (seen.minimum, seen.maximum):
        raise EngineError(
            f"{path} takes inputs from {seen.minimum} to {seen.maximum}, but its facts say "
            f"{told.minimum} to {told.maximum} (batch x height x width)",
            "an engine and its facts from the same build",
            REBUILD,
        )
