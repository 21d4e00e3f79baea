"""Arguments for the form and precision of a graph, for the commands that export."""

import argparse

from alignseg_infer.cli.arguments.checkpoint import add_checkpoint_arguments
from alignseg_infer.cli.arguments.int8 import add_quantization_arguments
from alignseg_infer.cli.arguments.values import (
    IMAGES_HELP,
    SIZE_HELP,
    add_min_agreement,
    choices_of,
    fixed_size,
    given_place,
)
from alignseg_infer.export.graph.options import AUTO_SAMPLER
from alignseg_infer.export.recipe import Recipe, recipe_for
from alignseg_infer.export.verification.options import DEFAULT_IMAGES
from alignseg_infer.spec.model import (
    DEFAULT_OPSET,
    OPSETS,
    ImageInput,
    LabelType,
    Layout,
    OutputKind,
    OutputSize,
    Precision,
    Sampler,
    Upsampling,
)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments that `recipe_from` reads."""
    _add_precision_arguments(parser)
    _add_graph_arguments(parser)
    add_checkpoint_arguments(parser)


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe that the arguments of `add_recipe_arguments` ask for.

    Raises:
        OptionError, SizeError: A value cannot be used.
        DatasetError: A source of images does not exist.
    """
    return recipe_for(vars(arguments))


def _add_precision_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=choices_of(Precision),
        help="precision to export: fp32; fp16, with exact sampling coordinates; or int8, with "
        "int8 convolutions in an fp16 graph, or in an fp32 graph for CPUs, which needs "
        "--calibration (default: the precision of the model, which is fp32 for a checkpoint)",
    )
    add_quantization_arguments(parser)
    parser.add_argument(
        "--verification",
        type=given_place,
        metavar="SOURCE",
        help=f"images to compare labels on: {IMAGES_HELP} (default: those of --calibration if "
        "given, else drawn streets, which show gross errors only)",
    )
    parser.add_argument(
        "--max-verification-images",
        type=int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help="maximum number of images to compare labels on, spread evenly over the source "
        f"(default: {DEFAULT_IMAGES})",
    )
    add_min_agreement(parser)


def _add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of the graph, each with None as its default."""
    _add_form_arguments(parser)
    graph = parser.add_argument_group("graph options", "only if the model is a checkpoint")
    _add_lowering_arguments(graph)
    graph.add_argument(
        "--opset",
        type=int,
        metavar="N",
        help=f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]}; int8 uses 19, but for "
        f"CPUs (default: {DEFAULT_OPSET})",
    )
    graph.add_argument(
        "--with-offsets",
        action="store_true",
        default=None,
        help="also return the learned offset fields, which alignseg offsets draws",
    )


def _add_form_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of what the graph takes and returns, each with None as its default."""
    form = parser.add_argument_group(
        "form options", "what the graph takes and returns, of a checkpoint or a float32 .onnx"
    )
    form.add_argument("--size", type=fixed_size, help=f"fixed {SIZE_HELP} (default: any size)")
    form.add_argument("--batch", type=int, metavar="N", help="fixed batch size (default: any)")
    form.add_argument(
        "--output",
        choices=choices_of(OutputKind),
        help="output of the graph: logits at 1/4 of the input size, labels at the input size, or "
        "probabilities (default: logits)",
    )
    form.add_argument(
        "--output-size",
        choices=choices_of(OutputSize),
        help="size of probabilities: image, the input size, or quarter, 1/4 of it (default: image)",
    )
    form.add_argument(
        "--label-type",
        choices=choices_of(LabelType),
        help="number format of labels (default: the smallest unsigned one)",
    )
    form.add_argument(
        "--layout",
        choices=choices_of(Layout),
        help="order of the output's axes, in which labels have a channel axis of 1 (default: nchw, "
        "and labels without a channel axis)",
    )
    form.add_argument(
        "--input",
        choices=choices_of(ImageInput),
        help="images that the graph takes: float32, normalised, or uint8-bgr or uint8-rgb, height "
        "x width x 3, which the graph normalises (default: float32)",
    )
    form.add_argument(
        "--remap",
        metavar="FILE.json",
        help="file that renames, merges or leaves out classes, and may set a threshold on the "
        "confidence; a graph that returns labels applies it itself, and this package applies it to "
        "the others (default: the classes of the model)",
    )


def _add_lowering_arguments(graph: argparse._ArgumentGroup) -> None:
    """Define the arguments for the nodes that sampling and upsampling become."""
    graph.add_argument(
        "--sampler",
        choices=[*choices_of(Sampler), AUTO_SAMPLER],
        help="how the graph samples at offsets: native uses GridSample; gather uses index "
        "arithmetic, for runtimes whose GridSample is wrong; plugin uses TensorRT plugins from "
        "the library in plugins/; auto takes native or gather, whichever is right in the small "
        "graphs of alignseg doctor (default: native)",
    )
    graph.add_argument(
        "--no-fuse",
        dest="fuse",
        action="store_false",
        default=None,
        help="with --sampler plugin, keep upsampling, sampling and sum of an alignment as "
        "separate nodes",
    )
    graph.add_argument(
        "--upsampling",
        choices=choices_of(Upsampling),
        help="how the graph upsamples features: matrices multiplies by matrices, for CPUs; resize "
        "uses ONNX Resize, for GPUs and int8 on CPUs (default: resize for TensorRT, for int8 on "
        "CPUs, and with --sampler plugin or --no-rewrites; else matrices)",
    )
    graph.add_argument(
        "--no-rewrites",
        dest="rewrites",
        action="store_false",
        default=None,
        help="do not apply the exact rewrites that save work",
    )
