"""Arguments that say what is saved of a result."""

import argparse

from alignseg_infer.cli.arguments.values import choices_of
from alignseg_infer.errors import OptionError
from alignseg_infer.results.saving import PICTURES, SavedFormat, parse_formats


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """Define ``--formats`` and ``--tolerance``."""
    choices = ", ".join(choices_of(SavedFormat))
    parser.add_argument(
        "--formats",
        type=_parse_formats,
        default=list(PICTURES),
        metavar="FORMAT,...",
        help=f"results to write for each image, separated by commas: {choices}; label-ids are "
        f"Cityscapes' own labels (default: {','.join(PICTURES)})",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="PIXELS",
        help="maximum distance, in pixels, between a simplified polygon and the exact outline, "
        "with --formats polygons (default: 0)",
    )


def _parse_formats(text: str) -> list[SavedFormat]:
    """Parse ``overlay,polygons``."""
    try:
        return parse_formats(text.split(","))
    except OptionError as error:
        raise argparse.ArgumentTypeError(
            f"{error.problem}; choose {error.expected}; try {error.fix}"
        ) from error
