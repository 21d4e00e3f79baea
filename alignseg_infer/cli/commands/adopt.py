"""``alignseg adopt``: writes the facts of an engine or ``.onnx`` file that another tool made."""

import argparse

from alignseg_infer.cli.arguments.engine import add_flavour, add_plugin
from alignseg_infer.cli.streams import print_message
from alignseg_infer.errors import OptionError
from alignseg_infer.files.reading import user_path

HELP = "Write the facts of an engine or .onnx file that another tool made, so that it can be run."
EXAMPLE = "Example: alignseg adopt alignseg.engine --model alignseg.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "file",
        type=user_path,
        help="engine that trtexec built (.engine, .plan, .trt), or .onnx file without metadata",
    )
    parser.add_argument(
        "--model",
        type=user_path,
        metavar="MODEL",
        help=".onnx file of this package that the engine was built from",
    )
    parser.add_argument(
        "--like",
        type=user_path,
        metavar="MODEL",
        help=".onnx file of this package that the other .onnx file was made from; both must label "
        "drawn streets alike",
    )
    add_flavour(parser, "TensorRT that built it (default: tensorrt)")
    parser.add_argument(
        "--device", default="cuda", help="GPU to load the engine on: cuda or cuda:N (default: cuda)"
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="the engine was built version-compatible, so that newer versions of TensorRT run it "
        "too; such an engine contains code, which is run",
    )
    add_plugin(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare the file with what it was made from, write its facts, and say what to do next."""
    if arguments.file.suffix.lower() == ".onnx":
        return _adopt_onnx(arguments)
    if arguments.model is None or arguments.like is not None:
        raise OptionError(
            f"{arguments.file} is not an .onnx file, which --like is for",
            "an engine, with the model that it was built from",
            f"--model MODEL.onnx: alignseg adopt {arguments.file} --model MODEL.onnx",
        )
    return _adopt_engine(arguments)


def _adopt_onnx(arguments: argparse.Namespace) -> int:
    if arguments.like is None or arguments.model is not None:
        raise OptionError(
            f"{arguments.file} is an .onnx file, and --model is for engines",
            "the file that it was made from",
            f"--like MODEL.onnx: alignseg adopt {arguments.file} --like MODEL.onnx",
        )
    from alignseg_infer.api import adopt_onnx

    adopt_onnx(arguments.file, arguments.like)
    print_message(f"{arguments.file} has the metadata of {arguments.like} now, and labels like it")
    return 0


def _adopt_engine(arguments: argparse.Namespace) -> int:
    from alignseg_infer.api import adopt_engine

    facts = adopt_engine(
        arguments.file,
        arguments.model,
        flavour=arguments.flavour,
        device=arguments.device,
        version_compatible=arguments.version_compatible,
        plugin=arguments.plugin,
    )
    low, high = facts.profile.minimum, facts.profile.maximum
    print_message(
        f"{arguments.file} can be run now ({facts.flavour} {facts.tensorrt_version}, {low} to "
        f"{high}; not verified)"
    )
    print_message(
        f"to verify it: alignseg verify {arguments.file} --against FLOAT32.onnx --images FOLDER"
    )
    return 0
