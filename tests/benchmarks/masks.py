"""Times the work around the network, interleaved in one run, and prints Markdown.

    python -m tests.benchmarks.masks [--rounds 31]

It times labels from the demo model's logits for two streets, 19x257x513 to 1024x2048, against
PyTorch and OpenCV; preprocessing against OpenCV's; and colours and overlay. The time for labels
depends on how many cells between logits must be computed. This is not one of the tests, because
times depend on the machine.
"""

import argparse
import itertools
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from alignseg_infer.arrays import Floats, Image, Labels, Size
from alignseg_infer.benchmark import interleave
from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.drawing.masks import blend, colorize
from alignseg_infer.pixels.cell_labels import _find_unsure_cells
from alignseg_infer.pixels.postprocess import scores_from_logits
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.model import InputSpec

SIZE: Size = (1024, 2048)
HALF: Size = (512, 1024)
STREETS = ((FIRST_HELD_OUT + 3, 1.0), (FIRST_HELD_OUT, 0.0))  # seed, and seconds into the drive
WARM_UP_ROUNDS = 2


def with_torch(logits: Floats) -> Labels:
    tensor = torch.from_numpy(logits)[None]
    labels = F.interpolate(tensor, SIZE, mode="bilinear", align_corners=True).argmax(1)
    return np.asarray(labels[0].numpy(), np.uint8)


def with_opencv(logits: Floats) -> Labels:
    """Compute labels without align_corners, which OpenCV lacks, so they differ a little."""
    upsampled = [cv2.resize(plane, SIZE[::-1], interpolation=cv2.INTER_LINEAR) for plane in logits]
    return np.asarray(np.stack(upsampled).argmax(0), np.uint8)


def ours(logits: Floats) -> Labels:
    return scores_from_logits(logits, SIZE).labels


def blob(image: Image, size: Size) -> object:
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.dnn.blobFromImage(resized, 1.0, size[::-1], InputSpec().mean)


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def peak_megabytes(call: Callable[[], object]) -> float:
    """Return the most memory that NumPy uses at once, on top of what it used before."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def rows(title: str, calls: dict[str, Callable[[], object]], rounds: int) -> str:
    """Return a Markdown row for each call; ratios compare times of the same round."""
    turns = interleave([partial(milliseconds, call) for call in calls.values()])
    times = np.array(list(itertools.islice(turns, WARM_UP_ROUNDS, WARM_UP_ROUNDS + rounds)))
    lines = []
    for index, name in enumerate(calls):
        low, middle, high = np.quantile(times[:, index] / times[:, 0], (0.25, 0.5, 0.75))
        lines.append(
            f"| {title}: {name} | {np.median(times[:, index]):.1f} | {times[:, index].min():.1f} "
            f"| {middle:.2f} ({low:.2f}-{high:.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run everything and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    predictor = Predictor("demo")
    print(f"{torch.get_num_threads()} threads")
    lines = []
    for seed, seconds in STREETS:
        image = Street(seed).scene(seconds, SIZE).image
        tensor = preprocess(image, SIZE, predictor.spec.input)
        logits = np.asarray(predictor._stages.backend.infer(tensor)[0], np.float32)
        labels = ours(logits)
        share = _find_unsure_cells(logits, labels.dtype)[1].mean()
        print(f"street {seed}, {share:.0%} of cells computed; labels alike: ", end="")
        print(f"PyTorch {np.mean(labels == with_torch(logits)):.4%}, ", end="")
        print(f"OpenCV {np.mean(labels == with_opencv(logits)):.2%}; peak memory: ", end="")
        memory = {"ours": ours, "OpenCV": with_opencv}
        print({name: f"{peak_megabytes(partial(c, logits)):.0f} MB" for name, c in memory.items()})
        masks = {"ours": ours, "PyTorch": with_torch, "OpenCV and NumPy": with_opencv}
        calls: dict[str, Callable[[], object]] = {
            name: partial(call, logits) for name, call in masks.items()
        }
        lines.append(rows(f"labels, {share:.0%} computed", calls, rounds))
    print("\n| | median ms | min ms | times the first: median (quartiles) |\n|---|---|---|---|")
    print("\n".join(lines))
    for size in (SIZE, HALF):
        sized: dict[str, Callable[[], object]] = {
            "ours": partial(preprocess, image, size, InputSpec()),
            "resize and blobFromImage": partial(blob, image, size),
        }
        print(rows(f"preprocess to {size[0]}x{size[1]}", sized, rounds))
    colors: dict[str, Callable[[], object]] = {
        "overlay": lambda: blend(image, colorize(labels, CITYSCAPES), 0.5),
        "alone": lambda: colorize(labels, CITYSCAPES),
    }
    print(rows("colours", colors, rounds))


if __name__ == "__main__":
    main()
