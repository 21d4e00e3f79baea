"""``alignseg export-onnx`` and ``export/to_onnx.py``: checkpoint in, ONNX out."""

import argparse
import tempfile
from pathlib import Path

from alignseg_infer.cli.arguments.graph import (
    add_graph_arguments,
    add_precision_arguments,
    float32_onnx,
    in_precision,
    require_packages_for,
    require_precision_arguments,
)
from alignseg_infer.cli.arguments.inference import add_checkpoint_arguments
from alignseg_infer.errors import OptionError
from alignseg_infer.spec.model import Precision

HELP = "Export a checkpoint to ONNX, or a float32 .onnx to fp16 or int8; compared before it appears"
EXAMPLE = "Example: python export/to_onnx.py CS_scenes.pth -o alignseg.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="model",
        type=Path,
        help=".pth, .pt or .safetensors; with --precision, also a float32 .onnx",
    )
    parser.add_argument("-o", "--output-file", type=Path, required=True, help="the .onnx to write")
    add_graph_arguments(parser)
    add_precision_arguments(parser)
    add_checkpoint_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exports and prints what was written."""
    model, target = arguments.checkpoint, arguments.output_file
    require_packages_for(model)
    from alignseg_infer.export.graph.onnx_file import require_onnx_ending

    require_onnx_ending(target)
    require_precision_arguments(arguments)
    if arguments.precision in (None, Precision.FP32):
        _require_checkpoint(model)
        float32_onnx(model, target, arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / f"{model.stem}.onnx"
            in_precision(float32_onnx(model, exported, arguments), target, arguments)
    size = target.stat().st_size / 1e6
    print(f"{target} ({size:.1f} MB, {arguments.precision or 'fp32'})")
    return 0


def _require_checkpoint(model: Path) -> None:
    if model.suffix.lower() == ".onnx":
        raise OptionError(
            f"{model} is an exported model already",
            "a checkpoint, or a precision to write the model in",
            "--precision fp16",
        )
