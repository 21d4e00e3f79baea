"""Segments a video file, a webcam, a stream, a folder of images, or a drawn street.

    python examples/video_demo.py --model demo --source street.mp4 --destination out.mp4
    python examples/video_demo.py

The second command draws a drive along a street, which is what the demo model knows.
"""

import argparse
import sys
from pathlib import Path

from alignseg_infer import AlignSegError, segment_video
from alignseg_infer.cli.streams import discard_stdout


def main() -> int:
    """Segment the source and print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="an .onnx, an .engine, or a checkpoint")
    parser.add_argument(
        "--source",
        default="streets",
        help="a video file, a webcam's index (0), rtsp://..., a folder of images, or streets",
    )
    parser.add_argument(
        "-o", "--destination", type=Path, default=Path("video-output/out.mp4"), help="the video"
    )
    arguments = parser.parse_args()

    print(f"{arguments.source}: Ctrl-C ends it")
    summary = segment_video(
        arguments.model,
        arguments.source,
        arguments.destination,
        legend=True,
        side_by_side=True,
        progress=show,
    )
    print(f"\n{summary.output}: {summary.frames} frames at {summary.fps:.1f} frames/s")
    for stage, milliseconds in summary.stages.items():
        print(f"  {stage:<12} {milliseconds:7.1f} ms per frame")
    return 0


def show(done: int, total: int | None) -> None:
    """Show how many frames are done."""
    print(f"\r{done} of {total or 'an unknown number'}", end="", file=sys.stderr)


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
