"""``alignseg deploy deepstream``: writes what DeepStream's element nvinfer runs."""

import argparse

from alignseg_infer.cli.arguments.values import add_destination
from alignseg_infer.cli.deploying.plugin import add_registering_plugin
from alignseg_infer.cli.streams import print_message
from alignseg_infer.demo import model_path
from alignseg_infer.files.reading import user_path

HELP = "Write the configuration, class names and parser that DeepStream needs to run a model."
EXAMPLE = "Example: alignseg deploy deepstream alignseg.onnx -o deepstream/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model", type=user_path, help="an .onnx file of a fixed size, or a TensorRT engine"
    )
    add_destination(parser, "folder to write; it must be new or empty")
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="largest number of frames that the network gets at once (default: 1)",
    )
    add_registering_plugin(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and print what it holds."""
    from alignseg_infer.deploy.deepstream import write_deepstream

    folder = write_deepstream(
        model_path(arguments.model),
        arguments.destination,
        batch=arguments.batch,
        plugin=arguments.plugin,
    )
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    print_message(f"{folder}: {names}")
    return 0
