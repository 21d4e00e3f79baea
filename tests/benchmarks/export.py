"""Times the exported network against PyTorch, interleaved in one run, and prints Markdown.

    python -m tests.benchmarks.export [--size 256x512] [--rounds 31] [--threads 2]

Every round runs all variants once, in random order; the first rounds are not counted. Weights are
seeded, not trained, which does not change the times. This is not one of the tests, because times
depend on the machine.
"""

import argparse
import itertools
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from alignseg_infer.arrays import Size
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.benchmark import interleave
from alignseg_infer.cli.arguments.values import fixed_size
from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.to_onnx import onnx_from_checkpoint
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.checkpoint import load_checkpoint, save_checkpoint
from alignseg_infer.spec.model import InputSpec, ModelSpec, NetworkSpec, Upsampling
from tests.support.seeded import seeded_state_dict

WARM_UP_ROUNDS = 2
BASELINE = "ONNX, any size"


def write_checkpoint(backbone: str, path: Path) -> None:
    """Write seeded weights as a checkpoint."""
    spec = NetworkSpec(backbone=backbone)
    model = AlignSeg(spec)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    state = seeded_state_dict(shapes)
    model.load_state_dict({key: torch.from_numpy(np.asarray(v)) for key, v in state.items()})
    save_checkpoint(path, model, ModelSpec(network=spec, input=InputSpec(), classes=CITYSCAPES))


def make_calls(checkpoint: Path, size: Size, threads: int) -> dict[str, Callable[[], object]]:
    """Return the calls to time, by name."""
    loaded = load_checkpoint(checkpoint)
    model = loaded.model()
    tensor = torch.randn(1, 3, *size) * 60
    calls: dict[str, Callable[[], object]] = {"PyTorch eager, both heads": lambda: model(tensor)}
    exports = {
        BASELINE: ExportOptions(),
        "ONNX, any size, no rewrites": ExportOptions(rewrites=False),
        "ONNX, any size, resize": ExportOptions(upsampling=Upsampling.RESIZE),
        "ONNX, fixed size": ExportOptions(size=size, batch=1),
        "ONNX, fixed size, no rewrites": ExportOptions(size=size, batch=1, rewrites=False),
        "ONNX, fixed size, resize": ExportOptions(size=size, batch=1, upsampling=Upsampling.RESIZE),
    }
    for index, (name, options) in enumerate(exports.items()):
        path = onnx_from_checkpoint(loaded, checkpoint.with_suffix(f".{index}.onnx"), options).path
        backend = OnnxRuntimeBackend(path, threads=threads)
        calls[name] = lambda backend=backend: backend.infer(tensor.numpy())  # type: ignore[misc]
    return calls


def time_interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds per call for each variant, round by round."""
    turns = interleave([partial(milliseconds, call) for call in calls.values()])
    counted = itertools.islice(turns, WARM_UP_ROUNDS, WARM_UP_ROUNDS + rounds)
    return {
        name: list(times) for name, times in zip(calls, zip(*counted, strict=True), strict=True)
    }


def milliseconds(call: Callable[[], object]) -> float:
    """Return how long `call` takes."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def format_table(network: str, times: dict[str, list[float]]) -> str:
    """Return one Markdown row per variant; ratios compare times of the same round."""
    lines = [
        f"| {network} | median ms | min ms | time / {BASELINE}: median (quartiles) |",
        "|---|---|---|---|",
    ]
    baseline = np.array(times[BASELINE])
    for name, values in times.items():
        low, middle, high = np.quantile(np.array(values) / baseline, (0.25, 0.5, 0.75))
        lines.append(
            f"| {name} | {np.median(values):.0f} | {min(values):.0f} "
            f"| {middle:.2f} ({low:.2f}-{high:.2f}) |"
        )
    pairs = [
        ("rewrites, any size", "ONNX, any size, no rewrites", BASELINE),
        ("rewrites, fixed size", "ONNX, fixed size, no rewrites", "ONNX, fixed size"),
        ("matrices against resize, any size", "ONNX, any size, resize", BASELINE),
        ("matrices against resize, fixed size", "ONNX, fixed size, resize", "ONNX, fixed size"),
        ("fixed against any size", BASELINE, "ONNX, fixed size"),
        ("ONNX against eager", "PyTorch eager, both heads", BASELINE),
    ]
    for title, slow, fast in pairs:
        of_medians = np.median(times[slow]) / np.median(times[fast])
        paired = np.median(np.array(times[slow]) / np.array(times[fast]))
        lines.append(f"\n{title}: {of_medians:.3f}x of medians, {paired:.3f}x paired median")
    return "\n".join(lines)


def export_peak_gigabytes(checkpoint: Path) -> float:
    """Return the peak memory of a process that exports `checkpoint` for any size; on Linux."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["export-onnx", str(checkpoint), "-o", f"{folder}/model.onnx"]
        program = (
            "import alignseg_infer.cli as cli\n"
            f"cli.main({arguments!r})\n"
            "print(open('/proc/self/status').read())"
        )
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    # Not getrusage: its value for a child includes the memory that its parent had at the fork.
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    return int(kilobytes) / 1e6


def help_seconds() -> float:
    """Return how long ``alignseg predict --help`` takes: the median of five runs."""
    command = [sys.executable, "-m", "alignseg_infer", "predict", "--help"]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    """Run everything and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=fixed_size, default=(256, 512))
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "numpy"))
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, {versions}")
    print(f"input 1x3x{arguments.size[0]}x{arguments.size[1]}, {arguments.rounds} rounds\n")
    everything = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for backbone in ("resnet101", "resnet18"):
            checkpoint = Path(folder) / f"{backbone}.pth"
            write_checkpoint(backbone, checkpoint)
            calls = make_calls(checkpoint, arguments.size, arguments.threads)
            everything[backbone] = time_interleaved(calls, arguments.rounds)
            print(format_table(backbone, everything[backbone]), "\n", flush=True)
        peak = export_peak_gigabytes(Path(folder) / "resnet101.pth")
    print(
        f"export of resnet101: peak {peak:.2f} GB; alignseg predict --help: {help_seconds():.2f} s"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
