"""Loading and saving ONNX graphs."""

from pathlib import Path

import onnx_ir
from google.protobuf.message import DecodeError
from onnx_ir.external_data import load_to_model
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass
from onnx_ir.serde import SerdeError

from alignseg_infer.errors import ModelFileError, OptionError
from alignseg_infer.files.reading import require_file
from alignseg_infer.files.writing import require_no_pipe
from alignseg_infer.spec.onnx_weights import require_weights_beside, weights_file
from alignseg_infer.spec.plugin_contract import DOMAIN

# A protobuf file ends at 2 GiB; weights go to a second file well before that.
EXTERNAL_DATA_BYTES = 1_900_000_000


def load_graph(path: Path) -> onnx_ir.Model:
    """Load the graph at `path`; weights in a file beside it are read when they are used.

    Constants that a tool wrote as nodes become initializers, as this package writes them, and
    values that it left without a type get theirs.

    Raises:
        ModelFileError: The file, or the one with its weights, is missing or damaged, the weights
            lie outside the folder of `path`, or the graph has operators of a single runtime.
    """
    require_file(path, "an ONNX model", ModelFileError)
    require_weights_beside(path)
    try:
        model = onnx_ir.load(path)
    except (DecodeError, SerdeError, ValueError, TypeError, OSError) as error:
        raise _not_loaded(path, error) from error
    _require_known_operators(path, model)
    LiftConstantsToInitializersPass(size_limit=0)(model)
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            _require_readable(path, value.const_value)
    if any(output.dtype is None for node in model.graph for output in node.outputs):
        ShapeInferencePass()(model)
    return model


def _not_loaded(path: Path, reason: BaseException | str) -> ModelFileError:
    while isinstance(reason, BaseException) and (first := reason.__cause__ or reason.__context__):
        reason = first
    return ModelFileError(
        f"{path} cannot be loaded: {reason}",
        "an ONNX model, with its .data file beside it if any",
        "copy it again, or export it again: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
    )


def _require_readable(path: Path, tensor: onnx_ir.TensorProtocol) -> None:
    """Raise ModelFileError unless the content of a weight fits its type and shape."""
    sides, problem = tensor.shape.numpy(), None
    if min(sides, default=0) < 0:
        problem = f"its shape is {sides}"
    elif isinstance(tensor, onnx_ir.ExternalTensor):  # not read: it may have gigabytes
        _require_weights(path, tensor)
        if tensor.length not in (None, tensor.nbytes):
            problem = f"it has {tensor.length} bytes and needs {tensor.nbytes}"
    else:
        try:
            tensor.numpy()
        except (ValueError, TypeError) as error:
            problem = str(error)
    if problem:
        raise _not_loaded(path, f"weight {tensor.name}: {problem}")


def _require_known_operators(path: Path, model: onnx_ir.Model) -> None:
    """Raise ModelFileError if the graph has operators of neither ONNX nor this package."""
    names = {f"{n.domain}.{n.op_type}" for n in model.graph if n.domain not in ("", DOMAIN)}
    if names:
        raise ModelFileError(
            f"{path} has operators that are not ONNX's own: {', '.join(sorted(names))}",
            "a graph as this package exports it; ONNX Runtime's optimiser writes others for the "
            "processor that it runs on",
            "use the file from before it was optimised; ONNX Runtime optimises each model when it "
            "loads it",
        )


def _find_external(model: onnx_ir.Model) -> list[onnx_ir.ExternalTensor]:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return [tensor for tensor in tensors if isinstance(tensor, onnx_ir.ExternalTensor)]


def _require_weights(model: Path, tensor: onnx_ir.ExternalTensor) -> None:
    """Check that the file with the weights is whole."""
    file = weights_file(model, str(tensor.location))
    end = (tensor.offset or 0) + tensor.nbytes
    if file.stat().st_size < end:
        raise ModelFileError(
            f"{file} has {file.stat().st_size} bytes, but {model} needs {end}",
            "the file that was exported with the model",
            "copy it again, or export the model again",
        )


def save_onnx(model: onnx_ir.Model, path: Path) -> None:
    """Write `model` to `path` with all its weights, also those that are in a file elsewhere.

    Weights above 1.9 GB go to ``PATH.data`` beside it.
    """
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    if weights > EXTERNAL_DATA_BYTES:
        onnx_ir.save(model, path, external_data=f"{path.name}.data")
        return
    if _find_external(model):
        model = load_to_model(model.clone())
    onnx_ir.save(model, path)


def require_onnx_ending(path: Path) -> None:
    """Raise OptionError unless `path` ends in ``.onnx``, which tells loaders the kind of file.

    Raises:
        OptionError: It ends otherwise.
        OutputError: It is a pipe or a device.
    """
    if path.suffix.lower() != ".onnx":  # this also protects a checkpoint from being overwritten
        raise OptionError(
            f"{path} does not end in .onnx",
            "the ending .onnx, which tells loaders what kind of file it is",
            f"destination={path.stem}.onnx",
        )
    require_no_pipe(path)
