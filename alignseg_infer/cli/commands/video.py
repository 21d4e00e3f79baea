"""``alignseg video``: segments a video, camera, stream, folder or drawn drive into a video."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignseg_infer.backends import ENGINE_RUNNERS, OnnxRunner
from alignseg_infer.cli.arguments.inference import (
    add_inference_arguments,
    predictor_from,
)
from alignseg_infer.cli.arguments.values import (
    MODEL_HELP,
    add_destination,
    add_overlay_arguments,
    choices_of,
    exact_fraction,
)
from alignseg_infer.cli.streams import print_message
from alignseg_infer.errors import OptionError
from alignseg_infer.inference.averaging import Mode
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.video.display import Show
from alignseg_infer.video.options import VideoOptions

if TYPE_CHECKING:
    from alignseg_infer.video.display import Display
    from alignseg_infer.video.process import VideoSummary
    from alignseg_infer.video.render import OffsetView

HELP = "Segment a video, webcam, stream, folder of images or drawn drive into an H.264 video."
EXAMPLE = "Example: alignseg video demo streets -o out.mp4 --legend --side-by-side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "source",
        help="video to segment: a video file, a folder of images, the index of a webcam (0), "
        "rtsp://..., - for stdin, or streets for a drawn drive (streets:SEED for another one)",
    )
    add_destination(
        parser, "video file to write: .mp4, .mov or .mkv; not needed with --show", required=False
    )
    parser.add_argument(
        "--show",
        nargs="?",
        const=Show.AUTO.value,
        choices=choices_of(Show),
        help="show the video while it is segmented: in a window or in the browser; with auto, or "
        "without a value, in a window if one can be opened, otherwise in the browser",
    )
    _add_picture_arguments(parser)
    parser.add_argument(
        "--smoothing",
        type=float,
        default=0.0,
        metavar="F",
        help="weight of earlier frames' logits, from 0 to below 1 (default: 0, which segments each "
        "frame on its own)",
    )
    parser.add_argument(
        "--rate",
        type=exact_fraction,
        metavar="FPS",
        help="frames per second of a folder or drawn drive (default: 25)",
    )
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="stop after N frames (default: no limit)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="stop after S seconds of the source (default: no limit; 4 for a drawn drive)",
    )
    add_inference_arguments(parser)


def _add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    add_overlay_arguments(parser)
    parser.add_argument(
        "--legend", action="store_true", help="show the classes and their shares below the frame"
    )
    parser.add_argument(
        "--side-by-side", action="store_true", help="show the original frame on the left"
    )
    parser.add_argument(
        "--offsets",
        choices=choices_of(OffsetField),
        help="show this learned offset field on the right, as alignseg offsets draws it; the "
        "network then runs twice; not with --mode slide, --scales or --flip (default: none)",
    )
    parser.add_argument(
        "--crf",
        type=int,
        default=20,
        metavar="N",
        help="quality of the H.264 encoder, from 0 (lossless, largest) to 51 (default: 20)",
    )
    parser.add_argument(
        "--no-audio", dest="audio", action="store_false", help="do not copy the audio of a file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Segment the video and print a summary."""
    from alignseg_infer.cli.progress import frames_bar
    from alignseg_infer.video.process import segment_source
    from alignseg_infer.video.sources import drive_seconds, open_source

    if arguments.destination is None and arguments.show is None:
        arguments.parser.error("-o/--destination is missing, or --show to watch without a file")
    options = _options(arguments)
    _require_plain_offsets(arguments)
    _require_offset_runtime(arguments)
    source = open_source(
        arguments.source,
        rate=arguments.rate,
        seconds=drive_seconds(arguments.seconds, arguments.max_frames, arguments.rate),
        max_pixels=arguments.max_pixels,
    )
    with contextlib.closing(source):
        predictor = predictor_from(arguments, arguments.model)
        view = _open_offset_view(arguments)
        with _opened_display(arguments.show) as display, frames_bar() as progress:
            summary = segment_source(
                predictor,
                source,
                arguments.destination,
                options,
                progress,
                view=view,
                display=display,
            )
    print_message(summary_text(summary))
    return 0


@contextlib.contextmanager
def _opened_display(show: str | None) -> "Iterator[Display | None]":
    """Open the display that was asked for, say where it is, and close it at the end."""
    from alignseg_infer.video.showing import open_display

    if show is None:
        yield None
        return
    with contextlib.closing(open_display(show)) as display:
        print_message(f"shown in {display.where}", sys.stderr)
        yield display


def summary_text(summary: "VideoSummary") -> str:
    """Return what was done, as lines for people."""
    stages = ", ".join(f"{stage} {spent:.1f}" for stage, spent in summary.stages.items())
    lines = [
        f"{summary.output or 'shown'}: {summary.frames} frame{'s' * (summary.frames != 1)}, "
        f"{summary.duration:.2f} s",
        f"  processed in {summary.seconds:.1f} s, {summary.fps:.1f} frames/s on {summary.backend}",
        f"  ms per frame of each stage (they overlap): {stages}",
    ]
    counts = {
        "damaged frames left out": summary.damaged,
        "frames dropped to keep up": summary.dropped,
        "times the source was lost and came back": summary.reconnects,
    }
    lines += [f"  {what}: {count}" for what, count in counts.items() if count]
    return "\n".join([*lines, *(f"  {note}" for note in summary.notes)])


def _open_offset_view(arguments: argparse.Namespace) -> "OffsetView | None":
    from alignseg_infer.backends import open_backend
    from alignseg_infer.video.render import OffsetView

    if arguments.offsets is None:
        return None
    backend = open_backend(
        arguments.model,
        device=arguments.device,
        threads=arguments.threads,
        runtime=arguments.runtime,
    )
    return OffsetView(backend, OffsetField(arguments.offsets), arguments.size)


def _require_offset_runtime(arguments: argparse.Namespace) -> None:
    if arguments.offsets and arguments.runtime in ENGINE_RUNNERS:
        raise OptionError(
            f"--offsets was given with --runtime {arguments.runtime}, whose engines return no "
            "offset fields",
            "--offsets with a runtime that returns them",
            f"--runtime {OnnxRunner.ONNXRUNTIME}",
        )


def _require_plain_offsets(arguments: argparse.Namespace) -> None:
    """Check that nothing is averaged if offsets are shown: they cannot be averaged like logits.

    Raises:
        OptionError: Offsets and averaging were both asked for.
    """
    averaging = {
        f"--mode {arguments.mode}": arguments.mode != Mode.WHOLE,
        f"--scales {' '.join(f'{scale:g}' for scale in arguments.scales)}": (
            arguments.scales != [1.0]
        ),
        "--flip": arguments.flip,
    }
    given = [option for option, is_given in averaging.items() if is_given]
    if arguments.offsets and given:
        raise OptionError(
            f"--offsets was given with {', '.join(given)}",
            "a single run of the network over the whole frame, whose offsets can be shown",
            f"leave out {given[0]}, or --offsets",
        )


def _options(arguments: argparse.Namespace) -> VideoOptions:
    return VideoOptions(
        opacity=arguments.opacity,
        outline=arguments.outline,
        legend=arguments.legend,
        side_by_side=arguments.side_by_side,
        smoothing=arguments.smoothing,
        crf=arguments.crf,
        audio=arguments.audio,
        max_frames=arguments.max_frames,
        seconds=arguments.seconds,
    )
