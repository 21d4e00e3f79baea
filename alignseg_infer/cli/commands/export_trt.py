"""``alignseg export-trt`` and ``export/to_trt.py``: build a TensorRT engine from a model."""

import argparse

from alignseg_infer.cli.arguments.engine import add_engine_arguments, build_options_from
from alignseg_infer.cli.arguments.graph import add_recipe_arguments, recipe_from
from alignseg_infer.cli.arguments.values import add_destination
from alignseg_infer.cli.streams import print_message
from alignseg_infer.export.make import make_engine
from alignseg_infer.files.reading import user_path
from alignseg_infer.spec.model import Precision
from alignseg_infer.trt.engine_file import EngineFacts

HELP = "Build a TensorRT engine from a checkpoint or an exported model."
EXAMPLE = "Example: alignseg export-trt CS_scenes.pth -o city.engine --size 1024x2048"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model",
        type=user_path,
        help="model to build from: a checkpoint (.pth, .pt, .safetensors), an .onnx file that "
        "this package exported, or demo",
    )
    add_destination(parser, "engine file to write: .engine, .plan or .trt")
    add_engine_arguments(parser)
    add_recipe_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build the engine, and print what was written."""
    from alignseg_infer.cli.progress import phase_bars, progress_bar

    report = make_engine(
        arguments.model,
        arguments.destination,
        recipe_from(arguments),
        build_options_from(arguments),
        bars=progress_bar,
        phases=phase_bars,
    )
    size = report.path.stat().st_size / 1e6
    print_message(f"{report.path} ({size:.1f} MB, {_describe(report.facts)})")
    return 0


def _describe(facts: EngineFacts) -> str:
    precision = facts.spec.export.precision if facts.spec.export else Precision.FP32
    verified = "verified" if facts.verification else "not verified"
    return (
        f"{precision}, {facts.flavour} {facts.tensorrt_version}, {facts.profile.minimum} to "
        f"{facts.profile.maximum}; {verified}"
    )
