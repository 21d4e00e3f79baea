"""``alignseg verify``: checks that a model labels images like the float32 model it came from."""

import argparse

from alignseg_infer.backends import OnnxRunner
from alignseg_infer.cli.arguments.inference import AT_RUNTIME_HELP, add_precision, split_runtime
from alignseg_infer.cli.arguments.values import (
    DATASET_HELP,
    IMAGES_HELP,
    ROOT_HELP,
    SIZE_HELP,
    SPLIT_HELP,
    add_max_pixels,
    add_min_agreement,
    choices_of,
    fixed_size,
    given_place,
)
from alignseg_infer.cli.streams import print_message
from alignseg_infer.datasets.labelled import Dataset
from alignseg_infer.export.verification.options import DEFAULT_IMAGES, VerificationOptions
from alignseg_infer.files.reading import user_path

HELP = "Check that a model, in a runtime and precision, labels images as its float32 .onnx does."
EXAMPLE = "Example: alignseg verify alignseg_fp16.engine --against alignseg.onnx --images DIR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model",
        type=user_path,
        help=f"model to verify: an engine or an .onnx file{AT_RUNTIME_HELP}",
    )
    parser.add_argument(
        "--against",
        type=user_path,
        metavar="REFERENCE",
        help="float32 .onnx file that the model was made from, or demo, which runs in ONNX Runtime "
        "(default, if a runtime is named: the model itself)",
    )
    parser.add_argument(
        "--images",
        type=given_place,
        metavar="SOURCE",
        help=f"images to compare labels on: {IMAGES_HELP} (default: those of --dataset if given, "
        "else drawn streets, which show gross errors only)",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help="maximum number of images to compare labels on, spread evenly over the source "
        f"(default: {DEFAULT_IMAGES})",
    )
    parser.add_argument(
        "--size",
        type=fixed_size,
        nargs="+",
        default=[],
        metavar="HxW",
        help=f"{SIZE_HELP}, or several, for an .onnx file that accepts any size; OpenVINO compiles "
        "it for each size, as predict --size does; an engine runs at the corners of its profile "
        "(default: the first image's size, scaled down to at most 1024 pixels)",
    )
    parser.add_argument(
        "--device",
        help="device to run the model on: cpu, cuda or cuda:N (default: cuda for an engine, else "
        "cpu)",
    )
    parser.add_argument(
        "--runtime",
        choices=choices_of(OnnxRunner),
        help="runtime to run an .onnx file with (default: onnxruntime, in which float16 and int8 "
        "files round as on a GPU)",
    )
    add_precision(parser)
    add_min_agreement(parser)
    labels = parser.add_argument_group("dataset options", "labelled images to compare mean IoU on")
    labels.add_argument("--dataset", choices=choices_of(Dataset), help=DATASET_HELP)
    labels.add_argument("--root", type=given_place, metavar="FOLDER", help=ROOT_HELP)
    labels.add_argument("--split", help=SPLIT_HELP)
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the table, and record in an engine's facts that it was verified."""
    from alignseg_infer.cli.progress import progress_bar
    from alignseg_infer.export.verification.agreement import format_rows
    from alignseg_infer.export.verification.record import verify_and_record

    model, chosen = split_runtime(arguments.model, choices_of(OnnxRunner))
    vars(arguments).update(chosen)
    options = verification_options_from(arguments)
    with progress_bar("images") as progress:
        found = verify_and_record(model, arguments.against, options, progress)
    print_message(f"{model} on {found.backend}, compared with {found.reference} on {found.images}:")
    print_message(format_rows(found.rows))
    if found.miou_drop is not None:
        change = round(-found.miou_drop, 2) + 0.0  # no "-0.00"
        print_message(f"  mean IoU changes by {change:+.2f} percentage points")
    print_message(
        f"passed: in each row, at least {found.required_agreement:.1%} of the pixels have the same "
        "label"
    )
    return 0


def verification_options_from(arguments: argparse.Namespace) -> VerificationOptions:
    """Return the options that the arguments ask for.

    Raises:
        OptionError: A value cannot be used, or needs another one.
    """
    return VerificationOptions(
        images=arguments.images,
        max_images=arguments.max_images,
        size=tuple(arguments.size),
        device=arguments.device,
        runtime=arguments.runtime,
        precision=arguments.precision,
        dataset=arguments.dataset,
        root=arguments.root,
        split=arguments.split,
        max_pixels=arguments.max_pixels,
        min_agreement=arguments.min_agreement,
    )
