"""``alignseg batch``: very many images, in several processes or on several machines."""

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from alignseg_infer.api import segment_files
from alignseg_infer.cli.arguments.formats import add_format_arguments
from alignseg_infer.cli.arguments.inference import add_inference_arguments, predictor_from
from alignseg_infer.cli.arguments.values import MODEL_HELP, add_overlay_arguments
from alignseg_infer.cli.streams import print_message
from alignseg_infer.errors import INSTALL_BATCH
from alignseg_infer.packages import require_packages

if TYPE_CHECKING:
    from alignseg_infer.batch.run import BatchSummary

HELP = (
    "Segment very many images in a run that can be resumed, with a manifest that records the "
    "result of each."
)
EXAMPLE = "Example: alignseg batch alignseg.onnx photos/ -o results/ --formats labels,coco"
FAILURES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "source",
        help="a folder and its subfolders, a glob in quotes, a .txt list of paths, the manifest of "
        "an earlier run, or an address such as s3://bucket/photos",
    )
    parser.add_argument(
        "-o",
        "--destination",
        required=True,
        help="folder or address to write the results and the manifest to",
    )
    add_overlay_arguments(parser)
    add_format_arguments(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of worker processes; several share the cores of the CPU (default: 1, or with "
        "--ray as many as the cluster has room for)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="segment the images on the nodes of a Ray cluster: auto for this machine's cluster, "
        "or HOST:PORT; each worker takes one CPU, or as many as --threads says",
    )
    parser.add_argument(
        "--shard",
        metavar="N/COUNT",
        help="segment only this part of the images, such as 3/16, so that several machines can "
        "share the work",
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="also try again the images that failed in an earlier run",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace results that were made with another model or other options",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only count what is missing, changed and failed"
    )
    add_inference_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Segment the images, and print a summary."""
    from alignseg_infer.cli.progress import images_bar

    require_packages(("pyarrow",), INSTALL_BATCH)
    predictor = predictor_from(arguments, arguments.model)
    # Ray prints what happens to nodes on stdout, which is for the summary.
    with images_bar() as progress, contextlib.redirect_stdout(sys.stderr):
        summary = segment_files(
            predictor,
            arguments.source,
            arguments.destination,
            formats=arguments.formats,
            opacity=arguments.opacity,
            tolerance=arguments.tolerance,
            outline=arguments.outline,
            workers=arguments.workers,
            ray=arguments.ray,
            shard=arguments.shard,
            retry_failed=arguments.retry_failed,
            replace=arguments.replace,
            dry_run=arguments.dry_run,
            progress=progress,
        )
    _print_failures(summary)
    print_message(summary_text(summary, dry_run=arguments.dry_run))
    return 1 if summary.failed else 0


def summary_text(summary: "BatchSummary", *, dry_run: bool = False) -> str:
    """Return what was done, or would be done, as lines for people."""
    counts = {
        "missing": summary.missing,
        "changed": summary.changed,
        "failed before": summary.failed_before,
        "up to date": summary.up_to_date,
    }
    states = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    first = f"{summary.destination}: {summary.found} images{f' ({states})' if states else ''}"
    if dry_run:
        return f"{first}\n  nothing was segmented (--dry-run)"
    tried = summary.done + summary.failed
    speed = f", {tried / summary.seconds:.1f} images/s" if tried else ""
    lines = [
        first,
        f"  {summary.done} segmented, {summary.failed} failed, in {summary.seconds:.1f} s{speed}",
    ]
    if summary.failed:
        lines.append("  the manifest says why; to try them again: --retry-failed")
    return "\n".join(lines)


def _print_failures(summary: "BatchSummary") -> None:
    for name, problem in summary.failures[:FAILURES_SHOWN]:
        print_message(f"failed: {name}: {problem}", sys.stderr)
    more = summary.failed - FAILURES_SHOWN
    if more > 0:
        print_message(f"and {more} more, which the manifest names", sys.stderr)
