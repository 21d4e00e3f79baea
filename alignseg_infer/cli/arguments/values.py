"""How the values of arguments are parsed."""

import argparse
import re
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

from alignseg_infer.arrays import InputShape, Size

SIZE_HELP = "size of the network's input, HEIGHTxWIDTH"
SIZE_POLICY_HELP = (
    f"{SIZE_HELP}; or a number, to which the image's longest side is scaled; or native, the "
    "image's own size (default: the model's size if it is fixed, else native)"
)


def choices_of(kind: type[StrEnum]) -> list[str]:
    """The values of `kind`, as argparse is to show them."""
    return [member.value for member in kind]


def fixed_size(text: str) -> Size:
    """``512x1024`` as (height, width)."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x1024")
    return int(height), int(width)


def size_policy_value(text: str) -> str | int | Size:
    """``native``, ``512x1024`` (height x width), or ``1024`` (the longest side)."""
    if text == "native":
        return text
    if text.isdecimal():
        return int(text)
    try:
        return fixed_size(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not native, HEIGHTxWIDTH such as 512x1024, or a longest side such as 1024"
        ) from error


def tile_value(text: str) -> int | Size:
    """``872``, or ``512x1024`` (height x width)."""
    return int(text) if text.isdecimal() else fixed_size(text)


def fraction(text: str) -> float:
    """``1/3`` or ``0.5``."""
    return float(exact_fraction(text))


def exact_fraction(text: str) -> Fraction:
    """``30000/1001`` or ``29.97``."""
    try:
        _, _, exponent = text.lower().partition("e")
        value = Fraction(text if len(exponent) < 4 else "")  # 1e999999999 would have all digits
        float(value)  # not too large for one
        return value
    except (ValueError, ArithmeticError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 0.5 or 1/3") from error


def scale_value(text: str) -> float:
    """One of the scales; says what to do when it is the next argument that ended up here."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number; put -- between scales and files: --scales 0.5 1 -- street.jpg"
        ) from error


def input_shape(text: str) -> InputShape:
    """``1x512x1024`` as images, height, width."""
    if not re.fullmatch(r"\d+x\d+x\d+", text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is not IMAGESxHEIGHTxWIDTH: 1x512x1024")
    return InputShape(*map(int, text.lower().split("x")))


def add_destination(
    parser: argparse.ArgumentParser,
    what: str,
    default: Path | None = None,
    *,
    required: bool = True,
) -> None:
    """Define ``-o`` or ``--destination``: where results are written.

    Args:
        parser: Gets it.
        what: What is written there, for people.
        default: Where it is written if nothing is said.
        required: Whether it has to be given where there is no default.
    """
    parser.add_argument(
        "-o",
        "--destination",
        type=Path,
        default=default,
        required=required and default is None,
        help=what,
    )
