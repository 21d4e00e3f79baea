"""Arguments of INT8, shared by the commands that quantise."""

import argparse
from pathlib import Path

from alignseg_infer.cli.arguments.values import SIZE_POLICY_HELP, choices_of, size_policy_value
from alignseg_infer.datasets.image_sets import DEFAULT_MAX_IMAGES
from alignseg_infer.export.int8.histograms import DEFAULT_METHOD, CalibrationMethod
from alignseg_infer.export.int8.options import CalibrationOptions

INT8_ARGUMENTS = (
    "calibration",
    "max_calibration_images",
    "calibration_method",
    "calibration_size",
    "calibration_cache",
    "keep_float",
    "int8_budget",
)


def add_quantization_arguments(parser: argparse.ArgumentParser) -> None:
    """Define `INT8_ARGUMENTS`."""
    group = parser.add_argument_group("INT8")
    add_calibration_arguments(
        group,
        "images like those the model will see: a folder, all below it; a .txt list of paths; "
        "or a video",
    )
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
        help="keep the most sensitive blocks in float until at most this percentage of the pixels "
        "of the calibration images gets another label than in FP32, such as 0.5 (default: no "
        "limit)",
    )


def add_calibration_arguments(
    group: argparse._ActionsContainer, images: str, *, required: bool = False
) -> None:
    """Define ``--calibration``, how many of its images to use, and what calibration takes.

    Args:
        group: Gets them.
        images: What the images are, for people.
        required: Whether they have to be given.
    """
    group.add_argument("--calibration", type=Path, metavar="SOURCE", required=required, help=images)
    group.add_argument(
        "--max-calibration-images",
        type=int,
        default=DEFAULT_MAX_IMAGES,
        metavar="N",
        help=f"use at most N of them, spread evenly (default: {DEFAULT_MAX_IMAGES})",
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
        help=f"while calibrating, {SIZE_POLICY_HELP}",
    )
    group.add_argument(
        "--calibration-cache",
        type=Path,
        metavar="FILE",
        help="keeps what was seen: the same command goes on where it was cut, and does not "
        "calibrate twice",
    )


def calibration_options_from(arguments: argparse.Namespace) -> CalibrationOptions:
    """Return the options in what `add_calibration_arguments` parsed."""
    return CalibrationOptions(
        method=CalibrationMethod(arguments.calibration_method),
        size=arguments.calibration_size,
        cache=arguments.calibration_cache,
        threads=arguments.threads,
    )
