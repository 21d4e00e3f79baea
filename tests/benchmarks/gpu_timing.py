"""Times the rows of a table on a GPU and checks their results; knows nothing of our kernels.

The calls of a row run from a CUDA graph, so that no row pays for Python. The GPU sleeps until all
work is queued, so that the gap before a launch is not timed. Calls use enough different sets of
inputs and outputs to leave the L2 cache. All rows of a table are interleaved. If a row fails, the
others still run.
"""

import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignseg_infer.cuda.plans import Launch
from alignseg_infer.spec.model import NetworkSpec

Work: TypeAlias = Callable[[], object]
Tensors: TypeAlias = tuple[Tensor, ...]
Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of everything.

    Attributes:
        levels: Sizes of the coarse and the fine feature of each alignment.
        context: Size of the context module's summary, and the size it is sampled to.
        channels: Channels of the decoder.
        classes: Classes of the logits.
        images: Sizes of each image and its logits.
        network: The network.
        bytes_per_graph: Least number of bytes in the sets of a row; several times an L2 cache.
        calls: Least number of calls that are timed together.
        network_calls: The same for networks, whose calls each use more memory than an L2 cache.
    """

    levels: tuple[tuple[Size, Size], ...]
    context: tuple[Size, Size]
    channels: int
    classes: int
    images: tuple[tuple[Size, Size], ...]
    network: NetworkSpec
    bytes_per_graph: float
    calls: int
    network_calls: int


@dataclass(frozen=True, kw_only=True)
class Rig:
    """The device and functions that a benchmark runs on.

    Attributes:
        device: Where tensors are stored.
        sizes: How large they are.
        rounds: How often each row is timed.
        warm_seconds: How long all rows of a table run before they are timed.
        capture: Runs the work once and returns a function that repeats it fast.
        clock: Runs captured work and returns microseconds.
        launch: Starts one of our kernels.
        compiled: Compiles a function with ``torch.compile``.
        watched: Lets a profiler record the block under a name.
        state: Describes the present clocks and power.
        release: Frees memory that no tensor holds.
        resources: Registers, local bytes, shared bytes and blocks per multiprocessor of a kernel,
            given its source, its name and its threads.
    """

    device: torch.device
    sizes: Sizes
    rounds: int
    warm_seconds: float
    capture: Callable[[Work], Work]
    clock: Callable[[Work], float]
    launch: Callable[[Launch], None]
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
    watched: Callable[[str], AbstractContextManager[object]]
    state: Callable[[], str]
    release: Callable[[], None]
    resources: Callable[[str, str, int], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to compute something.

    Attributes:
        name: Name in the table.
        make: Makes the set of inputs with a number.
        call: Computes the result from one set and returns what it wrote.
        needed: Bytes that must be read and written once; 0 if unknown.
        error: Returns how wrong an output for set 0 is; None if it is not to be checked.
        tolerance: Largest error that counts as right.
    """

    name: str
    make: Callable[[int], Tensors]
    call: Callable[..., Any]
    needed: int = 0
    error: Callable[[Any], float] | None = None
    tolerance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows to compare.

    Attributes:
        title: What the rows compute.
        rows: The rows, in the order in which they are shown.
        base: Name of the row that speed-ups are relative to.
        calls: Least number of calls that are timed together; None for `Sizes.calls`.
    """

    title: str
    rows: Sequence[Row]
    base: str
    calls: int | None = None


@dataclass
class Outcome:
    """What happened to a row.

    Attributes:
        spent: Microseconds per call, one for each round.
        error: How wrong its output was; None if unknown.
        failure: Why it did not run to its end; empty if it did.
    """

    spent: list[float] = field(default_factory=list)
    error: float | None = None
    failure: str = ""


COPY = "device copy"


def copy_row(rig: Rig, needed: int) -> Row:
    """Return a row for a device copy that reads and writes `needed` bytes in total."""

    def make(number: int) -> Tensors:
        return (torch.full((needed // 2,), number % 256, dtype=torch.uint8, device=rig.device),)

    return Row(name=COPY, make=make, call=lambda source: source.clone(), needed=needed)


class Prepared:
    """A row whose calls are captured; `held` has the outputs of its last pass, set 0 first."""

    def __init__(self, rig: Rig, row: Row, least_calls: int) -> None:
        self.row = row
        count = set_count(rig, row.needed)
        self.calls = count * math.ceil(least_calls / count)
        self._sets = [row.make(number) for number in range(count)]
        self.held: deque[Any] = deque(maxlen=count)
        self.replay = rig.capture(self._pass)

    def _pass(self) -> None:
        held: deque[Any] = deque(maxlen=len(self._sets))  # so that outputs rotate like inputs
        for tensors in itertools.islice(itertools.cycle(self._sets), self.calls):
            held.append(self.row.call(*tensors))
        self.held = held


def set_count(rig: Rig, needed: int) -> int:
    """Return how many sets hold `Sizes.bytes_per_graph`; one if the bytes are unknown."""
    return max(2, math.ceil(rig.sizes.bytes_per_graph / needed)) if needed else 1


def run_rows(rig: Rig, table: Table) -> dict[str, Outcome]:
    """Run, time and check all rows of a table."""
    results = {row.name: Outcome() for row in table.rows}
    ready: dict[str, Prepared] = {}

    def guarded(name: str, action: Work) -> None:
        try:
            action()
        except Exception as error:
            results[name].failure = describe(error)
            ready.pop(name, None)

    def prepare(row: Row) -> None:
        ready[row.name] = Prepared(rig, row, table.calls or rig.sizes.calls)

    def time_once(name: str) -> None:
        results[name].spent.append(rig.clock(ready[name].replay) / ready[name].calls)

    for row in table.rows:
        guarded(row.name, partial(prepare, row))
    end = time.perf_counter() + rig.warm_seconds
    while ready and time.perf_counter() < end:
        for name, one in list(ready.items()):
            guarded(name, partial(rig.clock, one.replay))
    for name in turns(rig.rounds, ready):
        guarded(name, partial(time_once, name))
    for name, one in list(ready.items()):
        guarded(name, partial(check, one, results[name]))
    return results


def turns(rounds: int, ready: Mapping[str, object]) -> Iterator[str]:
    """Yield whose turn it is: in each round every row still ready, in random order."""
    shuffle = random.Random(0)
    for _ in range(rounds):
        for name in shuffle.sample(list(ready), len(ready)):
            if name in ready:
                yield name


def check(one: Prepared, result: Outcome) -> None:
    """Set the error of what the timed calls wrote."""
    if one.row.error is not None:
        result.error = float(one.row.error(one.held[0]))


def describe(error: Exception) -> str:
    """Describe an error in one cell of a table."""
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:160]}"


def is_right(row: Row, result: Outcome) -> bool:
    """Return whether a row ran and its error is within the tolerance; NaN is not."""
    if result.failure:
        return False
    return result.error is None or result.error <= row.tolerance


def report(rig: Rig, table: Table) -> tuple[str, bool]:
    """Return the table in Markdown, and whether all of its rows are right."""
    results = run_rows(rig, table)
    told = any(row.needed for row in table.rows)
    heads = [table.title, "median us", "min us"]
    heads += ["MB needed", "GB/s", "of the copy's (quartiles)"] if told else []
    heads += ["speed-up (quartiles)", "error"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in table.rows:
        cells = [row.name, *row_cells(table, row, results)]
        lines.append(f"| {' | '.join(cells + [''] * (len(heads) - len(cells)))} |")
    lines += ["", f"Speed-ups, in pairs of one round, over: {table.base}. {rig.state()}"]
    return "\n".join(lines), all(is_right(row, results[row.name]) for row in table.rows)


def row_cells(table: Table, row: Row, results: Mapping[str, Outcome]) -> list[str]:
    """Return the cells of one row after its name."""
    result = results[row.name]
    if result.failure:
        return [f"FAILED {result.failure}"]
    spent = np.array(result.spent)
    cells = [f"{np.median(spent):.2f}", f"{spent.min():.2f}"]
    if row.needed:
        needed = {one.name: one.needed for one in table.rows}
        cells += [f"{row.needed / 1e6:.1f}", f"{row.needed / np.median(spent) / 1e3:.0f}"]
        scale = row.needed / needed.get(COPY, row.needed)
        cells.append(quartiles(results.get(COPY), spent / scale, "{:.0%} ({:.0%}-{:.0%})"))
    cells.append(quartiles(results.get(table.base), spent, "{:.2f} ({:.2f}-{:.2f})"))
    return [*cells, error_cell(row, result)]


def quartiles(base: Outcome | None, spent: NDArray[np.float64], form: str) -> str:
    """Return median and quartiles of the base's time divided by `spent`, round by round."""
    if base is None or base.failure:
        return "-"
    low, middle, high = np.percentile(np.array(base.spent) / spent, (25, 50, 75))
    return form.format(middle, low, high)


def error_cell(row: Row, result: Outcome) -> str:
    if result.error is None:
        return "-"
    if is_right(row, result):
        return f"{result.error:.1e}"
    return f"WRONG {result.error:.1e}, allowed {row.tolerance:.0e}"


def run_once(rig: Rig, table: Table) -> tuple[str, bool]:
    """Run each row once for a profiler, after a warm-up; return what ran, and whether all did."""
    lines, right = [], True
    for row in table.rows:
        try:
            tensors = row.make(0)
            row.call(*tensors)
            with rig.watched(f"{table.title}: {row.name}"):
                row.call(*tensors)
            lines.append(f"{table.title}: {row.name}")
        except Exception as error:
            lines.append(f"{table.title}: {row.name}: FAILED {describe(error)}")
            right = False
    return "\n".join(lines), right
