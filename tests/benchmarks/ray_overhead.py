"""What a Ray cluster costs per image and per run, against worker processes of the same number.

    python -m tests.benchmarks.ray_overhead [--images 1200] [--rounds 3]

The cluster has two nodes of one CPU on this machine. Each round times both with a sixth of the
images and with all, in turn: what a run costs at its start drops out of the difference.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from alignseg_infer import Predictor, segment_files
from alignseg_infer.pixels.images import encode_image

NODES = 2
MEMORY = 80 << 20  # bytes of a node's object store


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1200, help="of the longer run")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    node = {"num_cpus": 1, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        with tempfile.TemporaryDirectory() as folder:
            compare(cluster.address, Path(folder), arguments.images, arguments.rounds)
    finally:
        cluster.shutdown()


def compare(address: str, folder: Path, images: int, rounds: int) -> None:
    counts = (images // 6, images)
    for count in counts:
        write_images(folder / str(count), count)
    costs: dict[str, list[tuple[float, float]]] = {"processes": [], "Ray": []}
    for _ in range(rounds):
        for name, found in costs.items():
            ray = address if name == "Ray" else None
            short, long = (seconds_of(folder / str(count), ray) for count in counts)
            each = (long - short) / (counts[1] - counts[0])
            found.append((1000 * each, short - each * counts[0]))
    print("| | ms per image, median (least, most) | s per run, median (least, most) |")
    print("|---|---|---|")
    for name, found in costs.items():
        print(f"| {name} | {spread([one for one, _ in found])} | {spread([s for _, s in found])} |")
    pairs = zip(costs["Ray"], costs["processes"], strict=True)
    print(f"Ray's part, ms per image: {spread([a[0] - b[0] for a, b in pairs])}")


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (64, 96, 3), np.uint8)
        (folder / f"{number:05}.png").write_bytes(encode_image(pixels, ".png"))


def seconds_of(source: Path, ray: str | None) -> float:
    with tempfile.TemporaryDirectory() as destination:
        start = time.perf_counter()
        summary = segment_files(
            Predictor("demo", threads=1),
            source,
            destination,
            formats=["labels"],
            workers=NODES,
            ray=ray,
        )
        assert summary.failed == 0
        return time.perf_counter() - start


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}, {max(values):.1f})"


if __name__ == "__main__":
    main()
