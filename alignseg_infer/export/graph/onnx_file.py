"""Saving ONNX graphs."""

from pathlib import Path

import onnx_ir

from alignseg_infer.errors import OptionError

# Protobuf ends at 2 GiB; weights go to a second file well before.
EXTERNAL_DATA_BYTES = 1_900_000_000


def save_onnx(model: onnx_ir.Model, path: Path) -> None:
    """Writes `model` to `path`; weights above 1.9 GB to ``PATH.data`` beside it."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    external = f"{path.name}.data" if weights > EXTERNAL_DATA_BYTES else None
    onnx_ir.save(model, path, external_data=external)


def require_onnx_ending(path: Path) -> None:
    """Raises OptionError unless `path` ends in ``.onnx``, by which loaders know what a file is."""
    if path.suffix.lower() != ".onnx":  # also keeps a checkpoint from being written over
        raise OptionError(
            f"{path} does not end in .onnx",
            "the ending by which loaders know what a file is",
            f"destination={path.stem}.onnx",
        )
