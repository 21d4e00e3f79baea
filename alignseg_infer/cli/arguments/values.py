"""Parsers for the values of arguments, and help texts that commands share."""

import argparse
import re
from fractions import Fraction
from pathlib import Path

from alignseg_infer.arrays import InputShape, Size
from alignseg_infer.backports import StrEnum
from alignseg_infer.datasets.addresses import is_address, local_path, plain_place
from alignseg_infer.files.reading import user_path
from alignseg_infer.pixels.encoded import MAX_PIXELS

SIZE_HELP = "size of the network's input, HEIGHTxWIDTH"
OTHER_SIZES_HELP = (
    "or a number of pixels to scale the image's longest side to; or native for the image's own "
    "size (default: the model's size if it is fixed, else native)"
)
SIZE_POLICY_HELP = f"{SIZE_HELP}; {OTHER_SIZES_HELP}"
MODEL_HELP = (
    "model to run: an .onnx file, an engine (.engine, .plan, .trt), a checkpoint (.pth, .pt, "
    ".safetensors), or demo for the model that comes with the package"
)
IMAGES_HELP = (
    "a folder and its subfolders, a glob, a .txt list of paths or addresses, the manifest of a "
    "batch, an address such as s3://bucket/photos, an image, or a video"
)
THREADS_HELP = "number of CPU threads (default: chosen by the runtime)"
DATASET_HELP = "layout of the dataset's folder"
ROOT_HELP = "folder of the dataset, or an address such as s3://bucket/streets"
SPLIT_HELP = "split to use: train, val or test; the layout folder has no splits (default: val)"


def choices_of(kind: type[StrEnum]) -> list[str]:
    """Return the values of `kind` as argparse should show them."""
    return [member.value for member in kind]


def fixed_size(text: str) -> Size:
    """Parse ``512x1024`` into (height, width)."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write HEIGHTxWIDTH, such as 512x1024"
        )
    return int(height), int(width)


def given_path(text: str) -> Path:
    """Parse a path. An empty one would be the working folder, which nobody has asked for."""
    if not text:
        raise argparse.ArgumentTypeError(
            "the path is empty; write . for the working folder, or look whether a variable of the "
            "shell has a value"
        )
    return user_path(text)


def given_place(text: str) -> str:
    """Parse the path or the address of images. An empty one is refused, as by `given_path`."""
    return plain_place(text) if is_address(text) else str(given_path(local_path(text)))


def image_path(text: str) -> Path:
    """Parse the path of an image; ``-`` is standard input."""
    return Path("/dev/stdin") if text == "-" else given_path(text)


def size_policy_value(text: str) -> str | int | Size:
    """Parse ``native``, ``512x1024`` (height x width), or ``1024`` (the longest side)."""
    if text == "native":
        return text
    if text.isdecimal():
        return int(text)
    try:
        return fixed_size(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write native, HEIGHTxWIDTH such as 512x1024, or a longest "
            "side such as 1024"
        ) from error


def tile_value(text: str) -> int | Size:
    """Parse ``872``, or ``512x1024`` (height x width)."""
    return int(text) if text.isdecimal() else fixed_size(text)


def fraction(text: str) -> float:
    """Parse ``1/3`` or ``0.5``."""
    return float(exact_fraction(text))


def exact_fraction(text: str) -> Fraction:
    """Parse ``30000/1001`` or ``29.97`` without rounding it."""
    try:
        _, _, exponent = text.lower().partition("e")
        # Fraction writes out all digits of 1e999999999, so long exponents are refused.
        value = Fraction(text if len(exponent) < 4 else "")
        float(value)  # raises OverflowError if it is too large for a float
        return value
    except (ValueError, ArithmeticError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number; write 0.5 or 1/3, for example"
        ) from error


def scale_value(text: str) -> float:
    """Parse one of the scales; explain what to do if the next argument was taken for a scale."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number; put -- between scales and files: --scales 0.5 1 -- "
            "street.jpg"
        ) from error


def input_shape(text: str) -> InputShape:
    """Parse ``1x512x1024``, which is images x height x width."""
    if not re.fullmatch(r"\d+x\d+x\d+", text.lower()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a shape; write IMAGESxHEIGHTxWIDTH, such as 1x512x1024"
        )
    return InputShape(*map(int, text.lower().split("x")))


def add_max_pixels(parser: argparse._ActionsContainer) -> None:
    """Define ``--max-pixels``, the limit for images that are read."""
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="largest number of pixels of an image file; larger ones are refused before they are "
        f"decoded, since a small file can take all memory (default: {MAX_PIXELS})",
    )


def add_min_agreement(parser: argparse._ActionsContainer) -> None:
    """Define ``--min-agreement``, the gate for a model that was converted."""
    parser.add_argument(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="share of the pixels, 0 to 1, that must get the same label as in float32 (default: "
        "0.999 for fp32, 0.995 for fp16, 0.98 for int8)",
    )


def add_destination(
    parser: argparse.ArgumentParser,
    what: str,
    default: Path | None = None,
    *,
    required: bool = True,
) -> None:
    """Define ``-o`` or ``--destination``, which says where results are written.

    Args:
        parser: The parser to add it to.
        what: The help text.
        default: The destination if the user gives none.
        required: Whether the user must give it if there is no default.
    """
    parser.add_argument(
        "-o",
        "--destination",
        type=given_path,
        default=default,
        required=required and default is None,
        help=what,
    )


def add_overlay_arguments(parser: argparse.ArgumentParser) -> None:
    """Define how classes are drawn over the image."""
    parser.add_argument(
        "--opacity",
        type=float,
        default=0.5,
        metavar="F",
        help="opacity of the class colours over the image, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--outline",
        action="store_true",
        help="draw a white line where classes meet, so that dark classes can be seen",
    )
