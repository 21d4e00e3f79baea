"""``alignseg export-onnx`` and ``export/to_onnx.py``: write a model as an ONNX file."""

import argparse

from alignseg_infer.cli.arguments.graph import add_recipe_arguments, recipe_from
from alignseg_infer.cli.arguments.values import add_destination, choices_of
from alignseg_infer.cli.streams import print_message
from alignseg_infer.export.make import make_onnx
from alignseg_infer.files.reading import user_path
from alignseg_infer.spec.model import Target

HELP = "Export a checkpoint to ONNX, or convert a float32 .onnx to fp16 or int8, and verify it."
EXAMPLE = "Example: alignseg export-onnx CS_scenes.pth -o alignseg.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model",
        type=user_path,
        help="model to export: a checkpoint (.pth, .pt, .safetensors), demo, or, with --precision "
        "fp16 or int8 or a form option, a float32 .onnx file",
    )
    add_destination(parser, ".onnx file to write")
    parser.add_argument(
        "--target",
        choices=choices_of(Target),
        help="hardware that the graph is for; with --precision int8, cpu makes a float32 graph "
        "with unsigned INT8, which ONNX Runtime and OpenVINO run in integers, and tensorrt "
        "makes a float16 graph with signed INT8 (default: tensorrt for int8, otherwise none)",
    )
    add_recipe_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from alignseg_infer.cli.progress import progress_bar

    recipe = recipe_from(arguments)
    report = make_onnx(arguments.model, arguments.destination, recipe, bars=progress_bar)
    size = report.path.stat().st_size / 1e6
    print_message(f"{report.path} ({size:.1f} MB, {report.precision})")
    return 0
