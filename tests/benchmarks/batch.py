"""How fast a batch is, against a threaded stream; and whether its memory stays flat.

    python -m tests.benchmarks.batch [--images 200] [--rounds 5] [--small 20000]

Rates are those from the first result to the last, since a batch also starts a process. The variants
take turns, so that ratios within a round hold on a machine that does other things, too. The stream
writes the same files with as little as possible: encode, write.
"""

import argparse
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import psutil

from alignseg_infer import Predictor, segment_files
from alignseg_infer.batch.manifest import part_names, read_manifest
from alignseg_infer.batch.stores import Folder
from alignseg_infer.demo.streets import Street

FORMATS = ["labels"]


class Clock:
    """Times of results; the rate leaves the start out."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, *counts: int) -> None:
        self.times.append(time.perf_counter())

    def rate(self) -> float:
        """Images per second from the fifth result on, when all stages are at work."""
        return (len(self.times) - 5) / (self.times[-1] - self.times[4])


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    scenes = [Street(seed).scene(size=size).image for seed in range(8)]
    for number in range(count):
        scenes[number % 8][0, 0] = (number % 256, number // 256 % 256, 7)
        path = folder / f"{number // 1000:03}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), scenes[number % 8])


def stream(photos: Path, out: Path, depth: int, threads: int | None) -> float:
    clock, predictor = Clock(), Predictor("demo", threads=threads)
    paths = sorted(photos.rglob("*.png"))
    with predictor.stream(paths, depth=depth) as results:
        for path, result in zip(paths, results, strict=True):
            target = out / path.relative_to(photos).parent
            target.mkdir(parents=True, exist_ok=True)
            for name, content in result.encode_files(path.stem, formats=FORMATS).items():
                (target / name).write_bytes(content)
            clock()
    return clock.rate()


def batch(photos: Path, out: Path, workers: int, threads: int | None) -> float:
    clock = Clock()
    model = Predictor("demo", threads=threads)
    segment_files(model, photos, out, formats=FORMATS, workers=workers, progress=clock)
    return clock.rate()


VARIANTS: dict[str, Callable[[Path, Path], float]] = {
    "stream, depth 2": lambda photos, out: stream(photos, out, 2, None),
    "stream, depth 8": lambda photos, out: stream(photos, out, 8, None),
    "batch, 1 worker": lambda photos, out: batch(photos, out, 1, None),
    "batch, 1 worker of 2 threads": lambda photos, out: batch(photos, out, 1, 2),
    "batch, 2 workers of 1 thread": lambda photos, out: batch(photos, out, 2, 1),
}


def measure_rates(folder: Path, images: int, rounds: int) -> None:
    write_photos(folder / "photos", images, (128, 256))
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(rounds):
        names = list(VARIANTS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rates[name].append(VARIANTS[name](folder / "photos", folder / "out"))
            shutil.rmtree(folder / "out")
    for name, found in rates.items():
        print(
            f"{name}: {statistics.median(found):.1f} images/s ({min(found):.1f}..{max(found):.1f})"
        )
    pairs = itertools.product(["batch, 1 worker"], ["stream, depth 2", "stream, depth 8"])
    for one, other in [*pairs, ("batch, 2 workers of 1 thread", "batch, 1 worker of 2 threads")]:
        ratios = [mine / its for mine, its in zip(rates[one], rates[other], strict=True)]
        low, high = min(ratios), max(ratios)
        print(f"{one} / {other}: median {statistics.median(ratios):.3f} ({low:.3f}..{high:.3f})")


def measure_memory(folder: Path, images: int) -> None:
    photos, out = folder / "small", folder / "small-out"
    write_photos(photos, images, (32, 64))
    own, seen = psutil.Process(), {}

    def sample(done: int, total: int, failed: int) -> None:
        if done % max(1, total // 10) == 0:
            workers = sum(child.memory_info().rss for child in own.children())
            seen[done] = own.memory_info().rss / 1e6, workers / 1e6

    start = time.perf_counter()
    summary = segment_files(
        Predictor("demo", threads=1), photos, out, formats=FORMATS, progress=sample
    )
    print(f"{images} small images: {images / summary.seconds:.1f} images/s")
    for done, (here, worker) in seen.items():
        print(f"  after {done}: {here:.0f} MB here, {worker:.0f} MB in the worker")
    store = Folder(out, "x")
    parts = part_names(store)
    size = sum((out / part).stat().st_size for part in parts)
    print(f"manifest: {len(parts)} parts, {size / images:.0f} bytes per image")
    start = time.perf_counter()
    read_manifest(str(out))
    print(f"reading it: {1e6 * (time.perf_counter() - start) / images:.1f} us per image")
    start = time.perf_counter()
    segment_files("demo", photos, out, formats=FORMATS)
    print(f"a second run: {1e6 * (time.perf_counter() - start) / images:.1f} us per image")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.images:
            measure_rates(Path(name), arguments.images, arguments.rounds)
        if arguments.small:
            measure_memory(Path(name), arguments.small)


if __name__ == "__main__":
    main()
