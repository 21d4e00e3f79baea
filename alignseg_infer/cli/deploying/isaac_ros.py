"""``alignseg deploy isaac-ros``: writes what Isaac ROS's nodes run."""

import argparse

from alignseg_infer.cli.arguments.values import add_destination
from alignseg_infer.cli.deploying.plugin import add_registering_plugin
from alignseg_infer.cli.streams import print_message
from alignseg_infer.demo import model_path
from alignseg_infer.files.reading import user_path

HELP = "Write the parameters, launch file and colours that Isaac ROS needs to run a model."
EXAMPLE = "Example: alignseg deploy isaac-ros alignseg.onnx -o isaac/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model", type=user_path, help="an .onnx file of a fixed, even size, or a TensorRT engine"
    )
    add_destination(parser, "folder to write; it must be new or empty")
    add_registering_plugin(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and print what it holds."""
    from alignseg_infer.deploy.isaac_ros import write_isaac_ros

    folder = write_isaac_ros(
        model_path(arguments.model), arguments.destination, plugin=arguments.plugin
    )
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    print_message(f"{folder}: {names}")
    return 0
