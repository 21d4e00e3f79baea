"""Arguments of INT8, shared by the commands that quantise."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alignseg_infer.cli.arguments.inference import choices_of, size_policy_value
from alignseg_infer.datasets.image_sets import DEFAULT_LIMIT
from alignseg_infer.errors import OptionError
from alignseg_infer.export.int8.histograms import DEFAULT_METHOD, CalibrationMethod

if TYPE_CHECKING:  # loads ONNX and ONNX Runtime, which --help must not wait for
    from alignseg_infer.export.int8.calibration import CalibrationOptions
    from alignseg_infer.export.int8.from_onnx import Int8Options


def add_quantization_arguments(parser: argparse.ArgumentParser) -> None:
    """What `int8_options_from` reads."""
    group = parser.add_argument_group("INT8")
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="SOURCE",
        help="images like those the model will see: a folder, all below it; a .txt list of paths; "
        "or a video",
    )
    add_calibration_arguments(group)
    group.add_argument(
        "--keep-float",
        nargs="+",
        default=[],
        metavar="BLOCK",
        help="blocks not to quantise, such as stem layer1 RRB2b; alignseg sensitivity ranks them",
    )
    group.add_argument(
        "--int8-budget",
        type=float,
        metavar="PERCENT",
        help="keep the most sensitive blocks in float until at most so many percent of the pixels "
        "of the calibration images get another label than in FP32, such as 0.5 (default: no limit)",
    )


def add_calibration_arguments(group: argparse._ActionsContainer) -> None:
    """What `calibration_options_from` reads, and ``--calibration-images``."""
    group.add_argument(
        "--calibration-images",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"at most so many, spread evenly over the source (default: {DEFAULT_LIMIT})",
    )
    group.add_argument(
        "--calibration-method",
        choices=choices_of(CalibrationMethod),
        default=DEFAULT_METHOD.value,
        help=f"how ranges are chosen (default: {DEFAULT_METHOD})",
    )
    group.add_argument(
        "--calibration-size",
        type=size_policy_value,
        metavar="SIZE",
        help="network input: native, HEIGHTxWIDTH, or the longest side "
        "(default: the model's size if it is fixed, else native)",
    )
    group.add_argument(
        "--calibration-cache",
        type=Path,
        metavar="FILE",
        help="keeps what was seen: the same command goes on where it was cut, and does not "
        "calibrate twice",
    )


def calibration_options_from(arguments: argparse.Namespace) -> "CalibrationOptions":
    """The options in what `add_calibration_arguments` parsed."""
    from alignseg_infer.export.int8.calibration import CalibrationOptions

    return CalibrationOptions(
        method=CalibrationMethod(arguments.calibration_method),
        size=arguments.calibration_size,
        cache=arguments.calibration_cache,
        threads=getattr(arguments, "threads", None),
    )


def int8_options_from(arguments: argparse.Namespace) -> "Int8Options":
    """The options in what `add_quantization_arguments` parsed.

    Raises:
        OptionError: There are no images to calibrate with.
    """
    from alignseg_infer.export.int8.from_onnx import Int8Options
    from alignseg_infer.export.int8.quantize import QuantizationOptions

    if arguments.calibration is None:
        raise OptionError(
            "INT8 was asked for without images to calibrate with",
            "some 100 images like those the model will see",
            "--calibration FOLDER, LIST.txt or VIDEO",
        )
    return Int8Options(
        source=arguments.calibration,
        images=arguments.calibration_images,
        calibration=calibration_options_from(arguments),
        quantization=QuantizationOptions(keep_float=tuple(arguments.keep_float)),
        budget=arguments.int8_budget,
    )
