"""First contact with a GPU: tests, benchmarks and sanitizer runs, most valuable first.

    python3 -m tests.benchmarks.first_gpu -o DIR [--steps tests,kernels] [--minutes 15]

Each step is a process with a time limit of its own. A step that hangs is killed with everything it
started, and the next one begins. Each step writes to a file in DIR while it runs, and summary.md is
written again after every step, so results are kept if the run is cut off. The exit status is 1 if a
step failed, was killed, or was not reached. docs/gpu-results.md says what must be installed.
"""

import argparse
import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[2]
FARE_WELL = 5.0  # s between asking a step to end and killing it, in which pytest prints its results
LAST_LINES, LINE_LENGTH, TAIL = 12, 200, 8192
KERNEL_TESTS = "tests/gpu/test_gpu_kernels.py"
ALL_KERNELS = "test_sampling or test_labels or test_network_inputs"
SHARED_MEMORY = "(test_sampling and last) or test_labels or test_network_inputs"
GROUPS = {
    "kernels": ("add", "forms", "labels", "sample"),
    "sanitizer": ("memcheck", "racecheck", "initcheck"),
}


@dataclass(frozen=True)
class Step:
    """A step, which is one process.

    Attributes:
        name: Name of the step and of its files.
        command: The command that runs.
        limit: Seconds that it may take.
    """

    name: str
    command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Result:
    """How far a step got.

    Attributes:
        step: The step.
        status: ``ok``, ``waiting``, or what went wrong.
        seconds: How long it ran.
    """

    step: Step
    status: str = "waiting"
    seconds: float = 0.0


def all_steps(folder: Path, sample: int) -> list[Step]:
    """Return every step, in order.

    Args:
        folder: Where files are written.
        sample: N, if one in N of the tests of the kernels is to run under a sanitizer.
    """
    rest = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/gpu/test_*.py"))
    rest.remove(KERNEL_TESTS)
    return [
        Step("machine", benchmark("--machine"), 60),
        Step("tests", gpu_tests(KERNEL_TESTS, f"--junitxml={folder / 'tests.xml'}"), 180),
        Step("add", tables(folder / "add.md", "add"), 240),
        Step("forms", tables(folder / "forms.md", "forms"), 120),
        Step("labels", tables(folder / "labels.md", "labels,inputs"), 240),
        Step("networks", tables(folder / "networks.md", "networks", "--rounds", "10"), 360),
        Step("sample", tables(folder / "sample.md", "resources,sample"), 240),
        Step("memcheck", sanitized("memcheck", ALL_KERNELS, sample), 240),
        Step("racecheck", sanitized("racecheck", SHARED_MEMORY, 2 * sample), 240),
        Step("initcheck", sanitized("initcheck", ALL_KERNELS, 2 * sample), 240),
        Step("rest", gpu_tests(*rest, f"--junitxml={folder / 'rest.xml'}"), 420),
    ]


def benchmark(*options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.benchmarks.kernels", *options)


def tables(output: Path, names: str, *options: str) -> tuple[str, ...]:
    """Return the command for some tables of the benchmark."""
    return benchmark("--tables", names, *options, "-o", str(output))


def gpu_tests(*arguments: str) -> tuple[str, ...]:
    """Return a pytest command that prints reasons of skips, and stacks of what hangs."""
    options = (
        "-m",
        "gpu",
        "-q",
        "-rfEs",
        "-p",
        "no:cacheprovider",
        "-o",
        "faulthandler_timeout=60",
    )
    return (sys.executable, "-m", "pytest", *options, *arguments)


def sanitized(tool: str, chosen: str, sample: int) -> tuple[str, ...]:
    """Return a command for one in `sample` of the `chosen` tests, under compute-sanitizer."""
    tests = gpu_tests(KERNEL_TESTS, "-k", chosen, "--sample", str(sample))
    return ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *tests)


def run_steps(steps: Sequence[Step], folder: Path, seconds: float) -> int:
    """Run the steps in order, for at most `seconds`; return 0 if all are ok."""
    folder.mkdir(parents=True, exist_ok=True)
    results = [Result(step) for step in steps]
    end = time.monotonic() + seconds

    def note(index: int, result: Result) -> None:
        results[index] = result
        write_summary(results, folder)

    for index, step in enumerate(steps):
        left = end - time.monotonic()
        if left <= 0:
            note(index, Result(step, "not started: no time left"))
            continue
        note(index, Result(step, "running, or cut off"))
        note(index, run_step(dataclasses.replace(step, limit=min(step.limit, left)), folder))
        print(f"{step.name}: {results[index].status}, {results[index].seconds:.0f} s", flush=True)
    return 0 if all(result.status == "ok" for result in results) else 1


def run_step(step: Step, folder: Path) -> Result:
    """Run one step; its output is written to its file at once."""
    start = time.monotonic()
    with (folder / f"{step.name}.txt").open("wb") as log:
        try:
            process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,
            )
        except OSError as error:
            return Result(step, f"failed: {error}")
        try:
            code = process.wait(step.limit)
            status = "ok" if code == 0 else f"failed: exit status {code}"
        except subprocess.TimeoutExpired:
            status = f"killed after {step.limit:.0f} s"
        finally:
            end_group(process)
    return Result(step, status, time.monotonic() - start)


def environment() -> dict[str, str]:
    """Return the environment of a step, with our package and the usual place of CUDA."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    programs = [*filter(None, [os.environ.get("PATH")]), "/usr/local/cuda/bin"]
    found = {"PYTHONPATH": os.pathsep.join(paths), "PATH": os.pathsep.join(programs)}
    return {**os.environ, **found, "PYTHONUNBUFFERED": "1"}


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a step and everything it started, which are one process group."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(FARE_WELL)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(FARE_WELL)  # not for ever, since a driver may hold it


def write_summary(results: Sequence[Result], folder: Path) -> None:
    """Replace summary.md."""
    lines = ["| step | status | seconds | limit |", "|---|---|---|---|"]
    lines += [
        f"| {one.step.name} | {one.status} | {one.seconds:.0f} | {one.step.limit:.0f} |"
        for one in results
    ]
    for one in results:
        lines += ["", f"## {one.step.name}: {one.status}", "", f"`{shlex.join(one.step.command)}`"]
        ending = last_lines(folder / f"{one.step.name}.txt") if one.seconds else []
        if ending:
            lines += ["", "````text", *ending, "````"]
    new = folder / "summary.md.new"
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    new.replace(folder / "summary.md")


def last_lines(path: Path) -> list[str]:
    """Return the last lines that a step printed."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        text = file.read().decode(errors="replace")
    return [line[:LINE_LENGTH] for line in text.splitlines() if line.strip()][-LAST_LINES:]


def choose_steps(names: str, steps: Sequence[Step]) -> list[Step]:
    """Return the steps that are named, directly or by their group, in their usual order.

    Raises:
        ValueError: There is no such step.
    """
    wanted = {one for name in names.split(",") for one in GROUPS.get(name, (name,))}
    unknown = wanted - {step.name for step in steps}
    if unknown:
        known = ", ".join([*(step.name for step in steps), *GROUPS])
        raise ValueError(f"unknown step {', '.join(sorted(unknown))}; choose from {known}")
    return [step for step in steps if step.name in wanted]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "-o", "--destination", type=Path, required=True, help="folder for the results"
    )
    parser.add_argument(
        "--steps", help="comma-separated names; kernels and sanitizer name groups (default: all)"
    )
    parser.add_argument(
        "--minutes", type=float, default=45.0, help="time for all steps together (default: 45)"
    )
    parser.add_argument(
        "--sanitizer-sample",
        type=int,
        default=4,
        metavar="N",
        help="one in N of the kernels' tests runs under memcheck, one in 2 N under racecheck and "
        "initcheck (default: 4)",
    )
    return parser


def stop(number: int, frame: FrameType | None) -> None:
    """Exit on SIGTERM, which also ends the running step."""
    raise SystemExit(128 + number)


def main(make_steps: Callable[[Path, int], list[Step]] = all_steps) -> int:
    """Run what was asked for."""
    options = parser()
    arguments = options.parse_args()
    folder = arguments.destination.resolve()
    steps = make_steps(folder, arguments.sanitizer_sample)
    if arguments.steps is not None:
        try:
            steps = choose_steps(arguments.steps, steps)
        except ValueError as error:
            options.error(str(error))
    signal.signal(signal.SIGTERM, stop)
    return run_steps(steps, folder, 60 * arguments.minutes)


if __name__ == "__main__":
    sys.exit(main())
