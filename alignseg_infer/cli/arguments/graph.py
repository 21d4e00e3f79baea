"""The form and precision of a graph: arguments of the commands that export, and what they do."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alignseg_infer.arrays import Image
from alignseg_infer.cli.arguments.inference import (
    choices_of,
    fixed_size,
    require_no_checkpoint_arguments,
    require_packages,
)
from alignseg_infer.cli.arguments.int8 import add_quantization_arguments, int8_options_from
from alignseg_infer.cli.commands.verify import add_verification_images
from alignseg_infer.errors import INSTALL_EXPORT, INSTALL_ONNX, DatasetError, OptionError
from alignseg_infer.spec.model import (
    DEFAULT_OPSET,
    OPSETS,
    OutputKind,
    Precision,
    Sampler,
    Upsampling,
)

if TYPE_CHECKING:  # loads PyTorch, which --help must not wait for
    from alignseg_infer.export.graph.onnx_graph import ExportOptions

ONNX_PACKAGES = ("onnx", "onnxscript", "onnx_ir")
GRAPH_ARGUMENTS = (
    "size",
    "batch",
    "output",
    "sampler",
    "opset",
    "no_rewrites",
    "with_offsets",
    "no_fuse",
    "upsampling",
)


def add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    """What `export_options_from` reads; all of it None by default."""
    graph = parser.add_argument_group("the graph, if the model is a checkpoint")
    graph.add_argument(
        "--size", type=fixed_size, help="fix the input to HEIGHTxWIDTH (default: any size)"
    )
    graph.add_argument("--batch", type=int, help="fix the batch size (default: any)")
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


def _add_lowering_arguments(graph: "argparse._ArgumentGroup") -> None:
    """How sampling, upsampling and what is around them are written."""
    graph.add_argument(
        "--sampler",
        choices=choices_of(Sampler),
        help="how offset sampling is written: native is GridSample, gather is index arithmetic "
        "for runtimes whose GridSample is wrong, plugin is nodes for TensorRT with the library "
        "of plugins/ (default: native)",
    )
    graph.add_argument(
        "--no-fuse",
        action="store_true",
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
        action="store_true",
        default=None,
        help="leave out the exact rewrites that save work",
    )


def export_options_from(arguments: argparse.Namespace) -> "ExportOptions":
    """What the arguments of `add_graph_arguments` say.

    Raises:
        OptionError, SizeError: A value cannot be used.
    """
    from alignseg_infer.export.graph.onnx_graph import ExportOptions

    return ExportOptions(
        output=OutputKind(arguments.output or OutputKind.LOGITS),
        sampler=Sampler(arguments.sampler or Sampler.NATIVE),
        size=arguments.size,
        batch=arguments.batch,
        opset=DEFAULT_OPSET if arguments.opset is None else arguments.opset,
        rewrites=not arguments.no_rewrites,
        with_offsets=bool(arguments.with_offsets),
        fuse=not arguments.no_fuse,
        upsampling=Upsampling(arguments.upsampling) if arguments.upsampling else None,
    )


def add_precision_arguments(parser: argparse.ArgumentParser) -> None:
    """What `in_precision` reads."""
    parser.add_argument(
        "--precision",
        choices=choices_of(Precision),
        help="fp32; fp16 with exact sampling coordinates; or int8 convolutions in an fp16 graph, "
        "which needs --calibration (default: what the model is; fp32 for a checkpoint)",
    )
    add_quantization_arguments(parser)
    add_verification_images(parser, "--verify-images")


def require_precision_arguments(arguments: argparse.Namespace) -> None:
    """Checks what belongs to ``--precision``, before anything takes long.

    Raises:
        OptionError: Something of INT8 was given for another precision, or is missing.
        DatasetError: There is nothing where images should be.
    """
    int8 = arguments.precision == Precision.INT8
    given = {
        "--calibration": arguments.calibration,
        "--calibration-size": arguments.calibration_size,
        "--calibration-cache": arguments.calibration_cache,
        "--keep-float": arguments.keep_float,
        "--int8-budget": arguments.int8_budget,
    }
    for option, value in given.items():
        if value not in (None, []) and not int8:
            raise OptionError(
                f"{option} was given, but not --precision int8",
                "options of INT8 with INT8 only",
                "--precision int8; images to compare on are named with --verify-images",
            )
    if int8:
        int8_options_from(arguments)
    for folder in (arguments.calibration, arguments.verify_images):
        if folder is not None and not folder.exists():
            raise DatasetError(
                f"{folder} does not exist", "a folder, a list, or a video", f"ls {folder.parent}"
            )


def in_precision(source: Path, target: Path, arguments: argparse.Namespace) -> None:
    """Writes the float32 ``.onnx`` `source` as `target` in ``--precision`` fp16 or int8.

    Prints the comparison of the two to stderr.

    Raises:
        AlignSegError: As `export.to_precision.onnx_in_precision` does.
    """
    from alignseg_infer.cli.progress import progress_bar
    from alignseg_infer.export.to_precision import onnx_in_precision
    from alignseg_infer.export.verification.agreement import format_rows

    precision = Precision(arguments.precision)
    found = onnx_in_precision(
        source,
        target,
        precision,
        int8=int8_options_from(arguments) if precision is Precision.INT8 else None,
        images=verification_images(arguments),
        bars=progress_bar,
    )
    print(f"{precision} against fp32 on {found.images}, {found.backend}:", file=sys.stderr)
    print(format_rows(found.rows), file=sys.stderr)


def verification_images(arguments: argparse.Namespace) -> list[Image] | None:
    """The images of ``--verify-images``, else some of those to calibrate with, else None."""
    from alignseg_infer.datasets.image_sets import choose_images

    source = arguments.verify_images or arguments.calibration
    if source is None:
        return None
    return list(choose_images(source, arguments.verify_images_limit).read())


def require_packages_for(model: Path) -> None:
    """Checks that what it takes to export `model` is installed: without PyTorch for an ``.onnx``.

    Raises:
        MissingDependencyError: A package is not.
    """
    if model.suffix.lower() == ".onnx":
        require_packages(ONNX_PACKAGES, INSTALL_ONNX)
    else:
        require_packages(("torch", *ONNX_PACKAGES), INSTALL_EXPORT)


def float32_onnx(model: Path, target: Path, arguments: argparse.Namespace) -> Path:
    """The model as an ``.onnx``: itself if it is one, else an export of the checkpoint.

    Args:
        model: What the user named.
        target: Where to export to.
        arguments: Parsed, with those of `add_checkpoint_arguments` and `GRAPH_ARGUMENTS`.

    Raises:
        OptionError: Options were given that an ``.onnx`` does not leave open, or make no sense.
        AlignSegError: As `export.to_onnx.export_onnx` does.
    """
    if model.suffix.lower() == ".onnx":
        require_no_checkpoint_arguments(arguments, model, *GRAPH_ARGUMENTS)
        return model
    from alignseg_infer.cli.checkpoints import describe_assumptions, load_checkpoint_as_asked
    from alignseg_infer.export.to_onnx import export_onnx
    from alignseg_infer.export.verification.parity import format_comparisons

    options = export_options_from(arguments)
    checkpoint = load_checkpoint_as_asked(arguments)
    print(describe_assumptions(checkpoint), file=sys.stderr)
    report = export_onnx(checkpoint, target, options)
    print(format_comparisons(report.comparisons, options.output), file=sys.stderr)
    return report.path
