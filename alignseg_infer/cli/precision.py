"""Arguments of commands that write a model in another precision, and how they do it."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alignseg_infer.cli.arguments import choices_of, require_no_checkpoint_arguments
from alignseg_infer.cli.quantization import add_quantization_arguments, int8_options_from
from alignseg_infer.cli.verify import add_verification_images
from alignseg_infer.images import Image
from alignseg_infer.spec import Precision

if TYPE_CHECKING:  # loads PyTorch, which --help must not wait for
    from alignseg_infer.export.onnx_graph import ExportOptions

GRAPH_ARGUMENTS = ("size", "batch", "output", "sampler", "opset", "no_rewrites", "with_offsets")


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


def in_precision(source: Path, target: Path, arguments: argparse.Namespace) -> None:
    """Writes the float32 ``.onnx`` `source` as `target` in ``--precision`` fp16 or int8.

    Prints the comparison of the two to stderr.

    Raises:
        AlignSegError: As `export.to_precision.onnx_in_precision` does.
    """
    from alignseg_infer.cli.progress import progress_bar
    from alignseg_infer.export.agreement import format_rows
    from alignseg_infer.export.to_precision import onnx_in_precision

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
    from alignseg_infer.export.calibration_images import calibration_images

    source = arguments.verify_images or arguments.calibration
    if source is None:
        return None
    return list(calibration_images(source, arguments.verify_images_limit).read())


def float32_onnx(
    model: Path, target: Path, arguments: argparse.Namespace, options: "ExportOptions"
) -> Path:
    """The model as an ``.onnx``: itself if it is one, else an export of the checkpoint.

    Args:
        model: What the user named.
        target: Where to export to.
        arguments: Parsed, with those of `add_checkpoint_arguments` and `GRAPH_ARGUMENTS`.
        options: What the graph of an export is to be.

    Raises:
        OptionError: Options were given that an ``.onnx`` does not leave open.
        AlignSegError: As `export.to_onnx.export_onnx` does.
    """
    if model.suffix.lower() == ".onnx":
        names = [name for name in GRAPH_ARGUMENTS if hasattr(arguments, name)]
        require_no_checkpoint_arguments(arguments, model, *names)
        return model
    from alignseg_infer.cli.checkpoints import describe_assumptions, load_checkpoint_as_asked
    from alignseg_infer.export.parity import format_comparisons
    from alignseg_infer.export.to_onnx import export_onnx

    checkpoint = load_checkpoint_as_asked(arguments)
    print(describe_assumptions(checkpoint), file=sys.stderr)
    report = export_onnx(checkpoint, target, options)
    print(format_comparisons(report.comparisons, options.output), file=sys.stderr)
    return report.path
