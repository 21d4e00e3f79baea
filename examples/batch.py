"""Segments a folder of images in worker processes, or on a Ray cluster, and prints what failed.

    python examples/batch.py demo-output/images out
    python examples/batch.py s3://bucket/photos s3://bucket/results --model MODEL.onnx --ray auto

Run it again after an interruption, or when images were added: it goes on where it was.
"""

import argparse
import sys

from alignseg_infer import AlignSegError, segment_files
from alignseg_infer.batch.manifest import read_manifest
from alignseg_infer.cli.streams import discard_stdout


def main() -> int:
    """Segment the images, and print the mean share of each class."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a folder, a glob, a .txt list, or an address")
    parser.add_argument("destination", help="a folder or an address")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--ray", help="auto, or HOST:PORT of a cluster")
    arguments = parser.parse_args()

    summary = segment_files(
        arguments.model,
        arguments.source,
        arguments.destination,
        formats=["labels"],
        workers=arguments.workers,
        ray=arguments.ray,
        progress=show,
    )
    print(
        f"{summary.done} segmented, {summary.failed} failed, {summary.up_to_date} left as they are"
    )
    for name, problem in summary.failures:
        print(f"  {name}: {problem}")

    totals: dict[str, float] = {}
    rows = [row for row in read_manifest(summary.destination).to_pylist() if row["shares"]]
    for row in rows:
        for label, share in row["shares"]:
            totals[label] = totals.get(label, 0.0) + share
    for label, total in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"  {label:<14} {total / len(rows):6.1%} of the pixels")
    return 1 if summary.failed else 0


def show(done: int, total: int, failed: int) -> None:
    """Show how many images are done."""
    print(f"\r{done} of {total}, {failed} failed ", end="", file=sys.stderr)


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        discard_stdout()
        status = 1
    except AlignSegError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status)
