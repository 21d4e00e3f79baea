"""``alignseg deploy cpp``: a C++ program around an engine."""

import argparse
from shlex import quote

from alignseg_infer.cli.arguments.engine import add_plugin
from alignseg_infer.cli.arguments.values import add_destination
from alignseg_infer.cli.streams import print_message
from alignseg_infer.files.reading import user_path

HELP = "Write a small C++ program, with its CMake file, that runs a TensorRT engine."
EXAMPLE = "Example: alignseg deploy cpp city.engine -o consumer/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model", type=user_path, help="TensorRT engine to run, with its facts beside it"
    )
    add_destination(parser, "folder to write; it must be new or empty")
    add_plugin(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and print how to build the program in it."""
    from alignseg_infer.deploy.cpp import deploy_cpp

    folder = deploy_cpp(arguments.model, arguments.destination, plugin=arguments.plugin)
    sources, build = quote(str(folder)), quote(str(folder / "build"))
    engine = quote(str(folder / arguments.model.name))
    print_message(
        f"{folder}: a C++ program around {arguments.model.name}; build it and run it with\n"
        f"  cmake -S {sources} -B {build} -DTENSORRT_ROOT=/opt/TensorRT\n"
        f"  cmake --build {build} --parallel\n"
        f"  {build}/segment {engine} IMAGE.ppm LABELS.pgm"
    )
    return 0
