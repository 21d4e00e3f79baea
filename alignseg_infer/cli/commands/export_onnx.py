"""``alignseg export-onnx`` and ``export/to_onnx.py``: checkpoint in, ONNX out."""

import argparse
from pathlib import Path

from alignseg_infer.cli.arguments.graph import add_recipe_arguments, recipe_from
from alignseg_infer.cli.arguments.values import add_destination
from alignseg_infer.export.make import make_onnx

HELP = "Export a checkpoint to ONNX, or a float32 .onnx to fp16 or int8; compared before it appears"
EXAMPLE = "Example: alignseg export-onnx CS_scenes.pth -o alignseg.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "model",
        type=Path,
        help=".pth, .pt or .safetensors; with --precision, also a float32 .onnx",
    )
    add_destination(parser, "the .onnx to write")
    add_recipe_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exports and prints what was written."""
    from alignseg_infer.cli.progress import progress_bar

    recipe = recipe_from(arguments)
    report = make_onnx(arguments.model, arguments.destination, recipe, bars=progress_bar)
    size = report.path.stat().st_size / 1e6
    print(f"{report.path} ({size:.1f} MB, {report.precision})")
    return 0
