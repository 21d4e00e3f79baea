"""Loading and saving ONNX graphs."""

from pathlib import Path

import onnx_ir
from google.protobuf.message import DecodeError

from alignseg_infer.errors import ModelFileError, OptionError
from alignseg_infer.files import require_file, require_no_pipe
from alignseg_infer.spec.onnx_weights import weights_file

# A protobuf file ends at 2 GiB; weights go to a second file well before that.
EXTERNAL_DATA_BYTES = 1_900_000_000


def load_graph(path: Path) -> onnx_ir.Model:
    """Load the graph at `path`; weights in a file beside it are read when they are used.

    Raises:
        ModelFileError: The file, or the one with its weights, is missing or damaged, or the weights
            lie outside the folder of `path`.
    """
    require_file(path, "an ONNX model", ModelFileError)
    try:
        model = onnx_ir.load(path)
    except (DecodeError, ValueError, TypeError, OSError) as error:
        raise ModelFileError(
            f"{path} cannot be loaded: {error}",
            "an ONNX model, with its .data file beside it if any",
            "copy it again, or export it again: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        ) from error
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            _require_weights(path, value.const_value)
    return model


def _require_weights(model: Path, tensor: onnx_ir.ExternalTensor) -> None:
    """Check that the file with the weights is whole and lies in the folder of the model."""
    file = weights_file(model, str(tensor.location))
    end = (tensor.offset or 0) + (tensor.length or 0)
    if file.stat().st_size < end:
        raise ModelFileError(
            f"{file} has {file.stat().st_size} bytes, but {model} needs {end}",
            "the file that was exported with the model",
            "copy it again, or export the model again",
        )


def save_onnx(model: onnx_ir.Model, path: Path) -> None:
    """Write `model` to `path`; weights above 1.9 GB go to ``PATH.data`` beside it."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    external = f"{path.name}.data" if weights > EXTERNAL_DATA_BYTES else None
    onnx_ir.save(model, path, external_data=external)


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
