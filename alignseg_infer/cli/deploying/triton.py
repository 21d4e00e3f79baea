"""``alignseg deploy triton``: writes a model repository for Triton Inference Server."""

import argparse
import shlex

from alignseg_infer.cli.arguments.values import add_destination, choices_of
from alignseg_infer.cli.streams import print_message
from alignseg_infer.deploy.triton.repository import (
    DEFAULT_BATCH,
    write_repository,
)
from alignseg_infer.deploy.triton.served_model import TritonBackend

HELP = "Write a model repository that Triton Inference Server serves as it is."
EXAMPLE = "Example: alignseg deploy triton demo -o repository/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="models to serve: .onnx files, engines (.engine, .plan, .trt), or demo; a model that "
        "is in the repository already gets a new version",
    )
    add_destination(parser, "folder of the repository; other models in it stay as they are")
    parser.add_argument(
        "--backend",
        choices=choices_of(TritonBackend),
        help="what runs the network: python runs this package on the CPU; with the others, the "
        "server runs the network, and an ensemble prepares images and labels pixels (default: "
        "python for an .onnx file, tensorrt_plan for an engine)",
    )
    parser.add_argument(
        "--name", help="what clients call the model (default: the name of its file)"
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=DEFAULT_BATCH,
        metavar="N",
        help="maximum number of images in one call of the network (default: %(default)s)",
    )
    parser.add_argument(
        "--instances",
        type=int,
        default=1,
        metavar="N",
        help="number of copies of a model that run at once (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the models, and say how to serve them."""
    done = write_repository(
        arguments.models,
        arguments.destination,
        backend=arguments.backend,
        name=arguments.name,
        batch=arguments.batch,
        instances=arguments.instances,
    )
    options: list[str] = []
    for one in done:
        many = f"up to {one.batch} images in one call" if one.batch else "one image in one call"
        print_message(f"{one.name}, version {one.version}: backend {one.backend}, {many}")
        options += [option for option in one.server_options if option not in options]
    folder = shlex.quote(str(arguments.destination))
    command = " ".join(["tritonserver", f"--model-repository={folder}", *options])
    print_message(f"to serve it: {command}")
    print_message(
        "the python3 that the server finds on its PATH needs this package, and the NumPy that the "
        "server was built for; in a clone of it: python3 -m pip install '.[cpu]' 'numpy<2' "
        "'opencv-python-headless<4.12'"
    )
    return 0
