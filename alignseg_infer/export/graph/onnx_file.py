"""Saving ONNX graphs."""

from pathlib import Path

import onnx_ir

from alignseg_infer.errors import OptionError

# A protobuf file ends at 2 GiB; weights go to a second file well before that.
EXTERNAL_DATA_BYTES = 1_900_000_000


def save_onnx(model: onnx_ir.Model, path: Path) -> None:
    """Write `model` to `path`; weights above 1.9 GB go to ``PATH.data`` beside it."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    external = f"{path.name}.data" if weights > EXTERNAL_DATA_BYTES else None
    onnx_ir.save(model, path, external_data=external)


def require_onnx_ending(path: Path) -> None:
    """Raise OptionError unless `path` ends in ``.onnx``, which tells loaders the kind of file."""
    if path.suffix.lower() != ".onnx":  # this also protects a checkpoint from being overwritten
        raise OptionError(
            f"{path} does not end in .onnx",
            "the ending .onnx, which tells loaders what kind of file it is",
            f"destination={path.stem}.onnx",
        )
