"""``alignseg offsets``: draws where the network's learned offsets point."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from alignseg_infer.backends import ENGINE_RUNNERS, RUNTIME_CHOICES, open_backend
from alignseg_infer.cli.arguments.inference import add_device_arguments
from alignseg_infer.cli.arguments.values import (
    SIZE_POLICY_HELP,
    add_destination,
    add_max_pixels,
    choices_of,
    image_path,
    size_policy_value,
)
from alignseg_infer.cli.streams import print_message
from alignseg_infer.errors import OptionError
from alignseg_infer.files.reading import real_path
from alignseg_infer.offsets.displacement import HIGH_PERCENTILE, Displacement, offsets_of_image
from alignseg_infer.offsets.pictures import offsets_sheet, pixels_text
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.images import load_image, write_image

HELP = "Draw the learned offset fields of one image, and print how far they move pixels."
EXAMPLE = "Example: alignseg offsets alignseg.onnx street.jpg -o offsets.png"
ENDINGS = (".png", ".jpg", ".jpeg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model",
        help="model to run: a checkpoint (.pth, .pt, .safetensors), demo, or an .onnx file that "
        "returns its offsets (alignseg export-onnx --with-offsets)",
    )
    parser.add_argument(
        "image", type=image_path, help="image file to run the model on; - for standard input"
    )
    add_destination(parser, "picture to write, .png or .jpg")
    parser.add_argument(
        "--field",
        choices=choices_of(OffsetField),
        help="draw only this field, larger (default: all fields)",
    )
    parser.add_argument("--size", type=size_policy_value, help=SIZE_POLICY_HELP)
    add_device_arguments(
        parser, [value for value in RUNTIME_CHOICES if value not in ENGINE_RUNNERS]
    )
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the picture and print the magnitudes."""
    _require_picture_path(arguments.destination, arguments.image)
    image = load_image(arguments.image, arguments.max_pixels)
    backend = open_backend(
        arguments.model,
        device=arguments.device,
        threads=arguments.threads,
        runtime=arguments.runtime,
    )
    seen, displacements = offsets_of_image(backend, image, arguments.size)
    fields = [OffsetField(arguments.field)] if arguments.field else list(displacements)
    chosen = [displacements[field] for field in fields]
    write_image(arguments.destination, offsets_sheet(seen, chosen))
    print_message(
        f"displacements in pixels of the {seen.shape[0]}x{seen.shape[1]} network input, on "
        f"{backend.name}"
    )
    print_message(format_magnitudes(chosen))
    print_message(str(arguments.destination))
    return 0


def format_magnitudes(displacements: Iterable[Displacement]) -> str:
    """Return how far each field moves pixels, as a table for people."""
    lines = [f"  {'field':<9}  {'size':>9}  {'median':>7}  {HIGH_PERCENTILE:>5} %  {'max':>7}"]
    for displacement in displacements:
        rows, columns = displacement.vectors.shape[:2]
        lengths = "  ".join(f"{pixels_text(value):>7}" for value in displacement.magnitudes)
        lines.append(f"  {displacement.field:<9}  {f'{rows}x{columns}':>9}  {lengths}")
    return "\n".join(lines)


def _require_picture_path(path: Path, image: Path) -> None:
    if path.suffix.lower() not in ENDINGS:
        raise OptionError(
            f"{path} does not end in {' or '.join(ENDINGS)}",
            "a file name with the ending of a picture",
            f"-o {path.stem or 'offsets'}.png",
        )
    if real_path(path) == real_path(image):
        raise OptionError(
            f"the picture would overwrite the image {image}",
            "another name for the picture",
            f"-o {path.stem}_offsets.png",
        )
