"""``alignseg doctor``: one page about this machine."""

import argparse

from alignseg_infer.cli.arguments.values import choices_of
from alignseg_infer.cli.streams import print_report
from alignseg_infer.doctor.goals import Goal

HELP = "Show what is installed here, whether it loads and computes correctly, and what to fix."
EXAMPLE = (
    "Example: alignseg doctor --for video. The exit code is 1 if anything that is installed is "
    "broken or, with --for, anything that the goal needs."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "--for",
        dest="goal",
        choices=choices_of(Goal),
        help="what this machine is for; the report then ends with what to install (default: "
        "check everything that is installed)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print all facts as JSON, for a bug report"
    )


def run(arguments: argparse.Namespace) -> int:
    """Examine the machine, and print the page."""
    from alignseg_infer.cli.progress import progress_bar
    from alignseg_infer.doctor.examination import examine
    from alignseg_infer.doctor.page import page_of

    with progress_bar("parts") as progress:
        report = examine(arguments.goal, progress=progress)
    print_report(report.to_json() if arguments.json else page_of(report))
    return 1 if report.broken else 0
