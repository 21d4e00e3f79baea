"""``alignseg verify``: does a model label images as the float32 one does that it was made from?"""

import argparse
from pathlib import Path

from alignseg_infer.cli.arguments.values import SIZE_HELP, choices_of, fixed_size
from alignseg_infer.datasets.labelled import Dataset
from alignseg_infer.export.verification.options import DEFAULT_IMAGES, VerificationOptions

HELP = "Compare a float16 or int8 model, or an engine, with its float32 ONNX file, on images."
EXAMPLE = "Example: alignseg verify alignseg_fp16.engine --against alignseg.onnx --images DIR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument("model", type=Path, help="an engine or an .onnx file")
    parser.add_argument(
        "--against", type=Path, required=True, help="the float32 .onnx it was made from, or demo"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="SOURCE",
        help="images to compare labels on: a folder, a .txt list, or a video (default: those of "
        "--dataset if given, else drawn streets, which show gross errors only)",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help=f"use at most N of them, spread evenly (default: {DEFAULT_IMAGES})",
    )
    parser.add_argument(
        "--size",
        type=fixed_size,
        nargs="+",
        default=[],
        metavar="HxW",
        help=f"{SIZE_HELP}, or several, for an .onnx that takes any (default: that of the first "
        "image, its longest side at most 1024; engines are run at the corners of their profile)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:N (default: what the model implies)")
    labels = parser.add_argument_group("labelled images, to compare mean IoU too")
    labels.add_argument("--dataset", choices=choices_of(Dataset), help="the layout")
    labels.add_argument("--root", type=Path, help="the dataset's folder")
    labels.add_argument("--split", help="train, val or test (default: val; a folder has none)")


def run(arguments: argparse.Namespace) -> int:
    """Compares, prints the table, and records in an engine's facts that it was verified."""
    from alignseg_infer.cli.progress import progress_bar
    from alignseg_infer.export.verification.agreement import format_rows
    from alignseg_infer.export.verification.record import verify_and_record

    options = verification_options_from(arguments)
    with progress_bar("images") as progress:
        found = verify_and_record(arguments.model, arguments.against, options, progress)
    print(f"{arguments.model}, {found.backend}, against {found.reference}, on {found.images}")
    print(format_rows(found.rows))
    if found.miou_drop is not None:
        change = round(-found.miou_drop, 2) + 0.0  # no "-0.00"
        print(f"  mean IoU changes by {change:+.2f} percent points")
    print(f"passed: at least {found.required_agreement:.1%} alike in each row")
    return 0


def verification_options_from(arguments: argparse.Namespace) -> VerificationOptions:
    """Return what the arguments say.

    Raises:
        OptionError: Something is missing.
    """
    return VerificationOptions(
        images=arguments.images,
        max_images=arguments.max_images,
        size=tuple(arguments.size),
        device=arguments.device,
        dataset=arguments.dataset,
        root=arguments.root,
        split=arguments.split,
    )
