"""The form and precision of a graph: arguments of the commands that export."""

import argparse
from pathlib import Path

from alignseg_infer.cli.arguments.checkpoint import CHECKPOINT_ARGUMENTS, add_checkpoint_arguments
from alignseg_infer.cli.arguments.int8 import INT8_ARGUMENTS, add_quantization_arguments
from alignseg_infer.cli.arguments.values import SIZE_HELP, choices_of, fixed_size
from alignseg_infer.export.recipe import Recipe, recipe_for
from alignseg_infer.export.verification.options import DEFAULT_IMAGES
from alignseg_infer.spec.model import (
    DEFAULT_OPSET,
    OPSETS,
    OutputKind,
    Precision,
    Sampler,
    Upsampling,
)

GRAPH_ARGUMENTS = (
    "size",
    "batch",
    "output",
    "sampler",
    "opset",
    "rewrites",
    "with_offsets",
    "fuse",
    "upsampling",
)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Define what `recipe_from` reads."""
    _add_precision_arguments(parser)
    _add_graph_arguments(parser)
    add_checkpoint_arguments(parser)


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """Return what the arguments of `add_recipe_arguments` say.

    Raises:
        OptionError, SizeError: A value cannot be used.
        DatasetError: There is nothing where images should be.
    """
    return recipe_for(
        precision=arguments.precision,
        graph={name: getattr(arguments, name) for name in GRAPH_ARGUMENTS},
        checkpoint={name: getattr(arguments, name) for name in CHECKPOINT_ARGUMENTS},
        int8={name: getattr(arguments, name) for name in INT8_ARGUMENTS},
        verification=arguments.verification,
        max_verification_images=arguments.max_verification_images,
    )


def _add_precision_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=choices_of(Precision),
        help="fp32; fp16 with exact sampling coordinates; or int8 convolutions in an fp16 graph, "
        "which needs --calibration (default: what the model is; fp32 for a checkpoint)",
    )
    add_quantization_arguments(parser)
    parser.add_argument(
        "--verification",
        type=Path,
        metavar="SOURCE",
        help="images to compare labels on: a folder, a .txt list, or a video (default: those of "
        "--calibration if given, else drawn streets, which show gross errors only)",
    )
    parser.add_argument(
        "--max-verification-images",
        type=int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help=f"use at most N of them, spread evenly (default: {DEFAULT_IMAGES})",
    )


def _add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    """Define `GRAPH_ARGUMENTS`; all of it None by default."""
    graph = parser.add_argument_group("the graph, if the model is a checkpoint")
    graph.add_argument("--size", type=fixed_size, help=f"fixed {SIZE_HELP} (default: any size)")
    graph.add_argument("--batch", type=int, help="fixed batch size (default: any)")
    graph.add_argument(
        "--output",
        choices=choices_of(OutputKind),
        help="logits at 1/4 size, or labels at input size (default: logits)",
    )
    _add_lowering_arguments(graph)
    graph.add_argument(
        "--opset",
        type=int,
        help=f"{OPSETS[0]} to {OPSETS[-1]} (default: {DEFAULT_OPSET}; int8 is always 19)",
    )
    graph.add_argument(
        "--with-offsets",
        action="store_true",
        default=None,
        help="also return the learned offset fields, for alignseg offsets",
    )


def _add_lowering_arguments(graph: argparse._ArgumentGroup) -> None:
    """Define how sampling, upsampling and what is around them are written."""
    graph.add_argument(
        "--sampler",
        choices=choices_of(Sampler),
        help="how offset sampling is written: native is GridSample, gather is index arithmetic "
        "for runtimes whose GridSample is wrong, plugin is nodes for TensorRT with the library "
        "of plugins/ (default: native)",
    )
    graph.add_argument(
        "--no-fuse",
        dest="fuse",
        action="store_false",
        default=None,
        help="with --sampler plugin: upsampling, sampling and sum of an alignment as nodes of "
        "their own",
    )
    graph.add_argument(
        "--upsampling",
        choices=choices_of(Upsampling),
        help="how features are upsampled: matrices is products of matrices, for CPUs; resize is "
        "ONNX Resize, for GPUs (default: resize for TensorRT and with --sampler plugin or "
        "--no-rewrites, else matrices)",
    )
    graph.add_argument(
        "--no-rewrites",
        dest="rewrites",
        action="store_false",
        default=None,
        help="leave out the exact rewrites that save work",
    )
