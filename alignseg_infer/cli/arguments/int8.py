"""Arguments for INT8, shared by the commands that quantise."""

import argparse

from alignseg_infer.cli.arguments.values import (
    IMAGES_HELP,
    OTHER_SIZES_HELP,
    SIZE_HELP,
    add_max_pixels,
    choices_of,
    given_place,
    size_policy_value,
)
from alignseg_infer.datasets.image_sets import DEFAULT_MAX_IMAGES
from alignseg_infer.export.int8.histograms import DEFAULT_METHOD, CalibrationMethod
from alignseg_infer.export.int8.options import CalibrationOptions
from alignseg_infer.files.reading import user_path


def add_quantization_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of INT8."""
    group = parser.add_argument_group("INT8 options")
    add_calibration_arguments(group, "images to calibrate with, like those the model will see")
    group.add_argument(
        "--keep-float",
        nargs="+",
        default=[],
        metavar="BLOCK",
        help="blocks that stay in float, such as stem layer1 RRB2b; alignseg sensitivity ranks "
        "the blocks",
    )
    group.add_argument(
        "--int8-budget",
        type=float,
        metavar="PERCENT",
        help="maximum percentage of the calibration images' pixels that may get another label "
        "than in FP32, such as 0.5; the most sensitive blocks stay in float until it is met "
        "(default: no limit)",
    )


def add_calibration_arguments(
    group: argparse._ActionsContainer, images: str, *, required: bool = False
) -> None:
    """Define ``--calibration`` and the arguments that say how to calibrate.

    Args:
        group: The parser or group to add them to.
        images: What the images are for, in the help text.
        required: Whether the user must give images.
    """
    group.add_argument(
        "--calibration",
        type=given_place,
        metavar="SOURCE",
        required=required,
        help=f"{images}: {IMAGES_HELP}",
    )
    group.add_argument(
        "--max-calibration-images",
        type=int,
        default=DEFAULT_MAX_IMAGES,
        metavar="N",
        help="maximum number of images to calibrate with, spread evenly over the source (default: "
        f"{DEFAULT_MAX_IMAGES})",
    )
    group.add_argument(
        "--calibration-method",
        choices=choices_of(CalibrationMethod),
        default=DEFAULT_METHOD.value,
        help=f"how to choose the range of each tensor (default: {DEFAULT_METHOD})",
    )
    group.add_argument(
        "--calibration-size",
        type=size_policy_value,
        metavar="SIZE",
        help=f"{SIZE_HELP}, during calibration; {OTHER_SIZES_HELP}",
    )
    group.add_argument(
        "--calibration-cache",
        type=user_path,
        metavar="FILE",
        help="file that keeps the measured ranges, so that the same command continues after an "
        "interruption and does not calibrate twice (default: one in the folder that alignseg "
        "cache list shows)",
    )
    add_max_pixels(group)


def calibration_options_from(arguments: argparse.Namespace) -> CalibrationOptions:
    """Return the options that the arguments of `add_calibration_arguments` ask for."""
    return CalibrationOptions(
        method=CalibrationMethod(arguments.calibration_method),
        size=arguments.calibration_size,
        cache=arguments.calibration_cache,
        threads=arguments.threads,
    )
