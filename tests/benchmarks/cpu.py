"""Times what a CPU can choose against the authors' network in PyTorch, interleaved in one run.

    python -m tests.benchmarks.cpu r101.pth r101.onnx r101-int8-cpu.onnx [--size 512x1024]

Each ``.onnx`` runs in ONNX Runtime and OpenVINO, and a float32 one in bfloat16 too where the CPU
has it. It is the network alone that is timed, from tensor to logits; `alignseg bench` times whole
calls of `Predictor`.
"""

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from alignseg_infer import AlignSegError
from alignseg_infer.backends import OnnxRunner, open_backend
from alignseg_infer.backends.processor import cpu_features, cpu_model, usable_cores
from alignseg_infer.benchmark import interleave
from alignseg_infer.benchmark.measure import come_to_rest
from alignseg_infer.cli.arguments.values import fixed_size
from alignseg_infer.models.checkpoint import load_checkpoint

WARM_UP_ROUNDS = 2
EAGER = "PyTorch eager, both heads"
PACKAGES = ("torch", "onnxruntime", "openvino")


def make_calls(
    checkpoint: Path, files: list[Path], tensor: np.ndarray
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the names and calls of what can run here."""
    network, given = load_checkpoint(checkpoint).model(), torch.from_numpy(tensor)
    yield EAGER, lambda: network(given)
    choices = [(OnnxRunner.ONNXRUNTIME, None), (OnnxRunner.OPENVINO, None)]
    size = tensor.shape[2], tensor.shape[3]
    for file, (runtime, precision) in itertools.product(
        files, [*choices, (OnnxRunner.OPENVINO, "bf16")]
    ):
        name = f"{file.name}, {runtime}" + (f", {precision}" if precision else "")
        try:
            backend = open_backend(file, runtime=runtime, precision=precision, size=size)
            backend.infer(tensor)
        except AlignSegError as error:
            print(f"not run: {name}: {error.problem}")
            continue
        yield name, partial(backend.infer, tensor)


def milliseconds(call: Callable[[], object]) -> float:
    """Return how long `call` takes, after the threads of the call before have come to rest."""
    come_to_rest()
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Time everything, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("files", type=Path, nargs="+", help="the first is what others are over")
    parser.add_argument("--size", type=fixed_size, default=(512, 1024))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{cpu_model()} ({' '.join(cpu_features())}), {usable_cores()} cores, {versions}")
    print(f"{platform.platform()}, 1x3x{'x'.join(map(str, arguments.size))}\n")
    tensor = np.random.default_rng(0).normal(0, 60, (1, 3, *arguments.size)).astype(np.float32)
    with torch.inference_mode():
        calls = dict(make_calls(arguments.checkpoint, arguments.files, tensor))
        turns = interleave([partial(milliseconds, call) for call in calls.values()])
        counted = itertools.islice(turns, WARM_UP_ROUNDS, WARM_UP_ROUNDS + arguments.rounds)
        times = np.array(list(counted)).T  # one row for each call
    print(f"| | median ms | min ms | times as fast as {EAGER} | as {list(calls)[1]} |")
    print("|---|---|---|---|---|")
    for name, row in zip(calls, times, strict=True):
        ratios = [f"{np.median(other) / np.median(row):.2f}" for other in times[:2]]
        print(f"| {name} | {np.median(row):.0f} | {row.min():.0f} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()
