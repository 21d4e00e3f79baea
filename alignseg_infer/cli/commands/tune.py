"""``alignseg tune``: finds the fastest way to run a model on this machine, and keeps it."""

import argparse
import sys

from alignseg_infer.backends.tuned import TUNED
from alignseg_infer.cli.arguments.values import (
    IMAGES_HELP,
    SIZE_POLICY_HELP,
    add_destination,
    add_max_pixels,
    add_min_agreement,
    choices_of,
    given_place,
    size_policy_value,
)
from alignseg_infer.cli.commands.bench import MACHINE_PACKAGES
from alignseg_infer.cli.reports import write_report
from alignseg_infer.cli.streams import print_message, print_report
from alignseg_infer.cli.termination import EXIT_INTERRUPTED
from alignseg_infer.errors import INSTALL_BENCH
from alignseg_infer.files.reading import user_path
from alignseg_infer.files.writing import require_writable_folder
from alignseg_infer.packages import require_packages
from alignseg_infer.tuning import Goal, TuningOptions, tune
from alignseg_infer.tuning.options import DEFAULT_BATCH, DEFAULT_IMAGES, DEFAULT_SECONDS

HELP = (
    "Find the fastest runtime, precision and number of threads for a model on this machine's CPU, "
    "with labels as in FP32, and keep the choice for commands with the runtime tuned."
)
EXAMPLE = "Example: alignseg tune alignseg.onnx alignseg-int8.onnx --images DIR"
RESULTS = ("tuning.json", "tuning.md")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "models",
        nargs="+",
        type=user_path,
        help=".onnx files of one network, or demo: the first, in FP32, is tuned; the others, "
        "such as its INT8 version, may replace it",
    )
    parser.add_argument(
        "--images",
        type=given_place,
        metavar="SOURCE",
        help=f"images to compare labels on and to measure with, like those that the model will "
        f"see: {IMAGES_HELP} (default: drawn streets, for demo only)",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help=f"maximum number of images, spread evenly over the source (default: {DEFAULT_IMAGES})",
    )
    parser.add_argument(
        "--for",
        dest="goal",
        choices=choices_of(Goal),
        default=Goal.LATENCY.value,
        help="what to make fast: a single image (latency) or many (throughput) (default: latency)",
    )
    parser.add_argument("--size", type=size_policy_value, help=SIZE_POLICY_HELP)
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="with --for throughput, the batch size to compare with single images (default: "
        f"{DEFAULT_BATCH})",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        metavar="S",
        help=f"about how long to measure (default: {DEFAULT_SECONDS:.0f})",
    )
    add_min_agreement(parser)
    add_destination(parser, f"folder to write {' and '.join(RESULTS)} into", required=False)
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write it if there is a destination, and keep the choice."""
    from alignseg_infer.cli.progress import progress_bar

    require_packages(MACHINE_PACKAGES, INSTALL_BENCH)
    if arguments.destination:
        require_writable_folder(arguments.destination)
    options = TuningOptions(
        goal=arguments.goal,
        seconds=arguments.seconds,
        size=arguments.size,
        batch=arguments.batch,
        min_agreement=arguments.min_agreement,
        max_images=arguments.max_images,
        max_pixels=arguments.max_pixels,
    )
    report = tune(arguments.models, arguments.images, options, bars=progress_bar)
    print_report(report.to_markdown())
    if arguments.destination:
        contents = (report.to_json() + "\n", report.to_markdown())
        write_report(arguments.destination, dict(zip(RESULTS, contents, strict=True)))
    if report.partial:
        print_message("interrupted: nothing is kept, and an earlier choice stays", sys.stderr)
        return EXIT_INTERRUPTED
    place = report.keep()
    print_message(f"kept, and obeyed with the runtime {TUNED}: {place}", sys.stderr)
    return 0
