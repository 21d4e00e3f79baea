"""``alignseg adopt``: writes the facts of an engine that another tool built."""

import argparse

from alignseg_infer.cli.arguments.engine import add_flavour, add_plugin
from alignseg_infer.cli.streams import print_message
from alignseg_infer.files import user_path

HELP = "Write the facts of an engine that trtexec built, so that this package can run it."
EXAMPLE = "Example: alignseg adopt alignseg.engine --model alignseg.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("engine", type=user_path, help="engine: .engine, .plan or .trt")
    parser.add_argument(
        "--model",
        type=user_path,
        required=True,
        metavar="MODEL",
        help=".onnx file of this package that the engine was built from",
    )
    add_flavour(parser, "TensorRT that built it (default: tensorrt)")
    parser.add_argument(
        "--device", default="cuda", help="GPU to load it on: cuda or cuda:N (default: cuda)"
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="it was built for newer versions of TensorRT too; it contains code, which is run",
    )
    add_plugin(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare the engine with the model, write its facts, and say how to verify it."""
    from alignseg_infer.api import adopt_engine

    facts = adopt_engine(
        arguments.engine,
        arguments.model,
        flavour=arguments.flavour,
        device=arguments.device,
        version_compatible=arguments.version_compatible,
        plugin=arguments.plugin,
    )
    low, high = facts.profile.minimum, facts.profile.maximum
    print_message(
        f"{arguments.engine} can be run now ({facts.flavour} {facts.tensorrt_version}, {low} to "
        f"{high}; not verified)"
    )
    print_message(
        f"to verify it: alignseg verify {arguments.engine} --against FLOAT32.onnx --images FOLDER"
    )
    return 0
