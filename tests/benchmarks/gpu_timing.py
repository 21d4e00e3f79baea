"""Times the rows of a table on a GPU and checks what they computed; knows nothing of our kernels.

A row's calls run from a CUDA graph, so that no row pays for Python. The GPU sleeps until all work
is queued, so that the gap before a launch is not timed. Calls go through enough sets of inputs and
of outputs to leave the L2 cache. All rows of a table are interleaved. A row that fails costs no
other row.
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
    """How large everything is.

    Attributes:
        levels: Of alignments: sizes of the coarse and of the fine feature.
        context: Of the context module: its summary and what that is sampled to.
        channels: Of the decoder.
        classes: Of the logits.
        images: Each a size of an image and of its logits.
        network: Which network.
        bytes_per_graph: How much the sets of a row hold at least; several times an L2 cache.
        calls: How many calls are timed together, at least.
        network_calls: Of a network, each of which passes more memory than an L2 cache has.
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
    """What a benchmark runs on.

    Attributes:
        device: Where tensors are.
        sizes: How large they are.
        rounds: How often each row is timed.
        warm_seconds: How long all rows of a table run before.
        capture: Runs the work once and returns what repeats it, fast.
        clock: Runs a captured work; microseconds.
        launch: Starts one of our kernels.
        compiled: ``torch.compile``.
        watched: A profiler looks at what runs inside, under that name.
        state: Of clocks and power, at this moment.
        release: Gives back memory that no tensor holds.
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
        name: In the table.
        make: Set of inputs number i.
        call: Computes it from one set; returns what it wrote.
        needed: Bytes that must be read and written once; 0: not told.
        error: How wrong an output of set 0 is; None: it is no answer.
        tolerance: The largest error that is right.
    """

    name: str
    make: Callable[[int], Tensors]
    call: Callable[..., Any]
    needed: int = 0
    error: Callable[[Any], float] | None = None
    tolerance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that are compared.

    Attributes:
        title: What is computed.
        rows: In the order in which they are shown.
        base: Name of the row that speed-ups are over.
        calls: How many calls are timed together, at least; None: as `Sizes.calls` says.
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
        error: How wrong its output was; None: not known.
        failure: Why it did not run to its end; empty: it did.
    """

    spent: list[float] = field(default_factory=list)
    error: float | None = None
    failure: str = ""


COPY = "device copy"


def copy_row(rig: Rig, needed: int) -> Row:
    """A device copy that reads and writes `needed` bytes together."""

    def make(number: int) -> Tensors:
        return (torch.full((needed // 2,), number % 256, dtype=torch.uint8, device=rig.device),)

    return Row(name=COPY, make=make, call=lambda source: source.clone(), needed=needed)


class Prepared:
    """A row whose calls are captured; `held` are the outputs of its last pass, set 0 first."""

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
    """How many sets hold `Sizes.bytes_per_graph`; one where the bytes are not told."""
    return max(2, math.ceil(rig.sizes.bytes_per_graph / needed)) if needed else 1


def outcomes(rig: Rig, table: Table) -> dict[str, Outcome]:
    """Runs, times and checks all rows of a table."""
    results = {row.name: Outcome() for row in table.rows}
    ready: dict[str, Prepared] = {}

    def guarded(name: str, action: Work) -> None:
        try:
            action()
        except Exception as error:
            results[name].failure = described(error)
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
    """Whose turn it is: in each round every row that is still ready, in random order."""
    shuffle = random.Random(0)
    for _ in range(rounds):
        for name in shuffle.sample(list(ready), len(ready)):
            if name in ready:
                yield name


def check(one: Prepared, result: Outcome) -> None:
    """Sets the error of what the timed calls wrote."""
    if one.row.error is not None:
        result.error = float(one.row.error(one.held[0]))


def described(error: Exception) -> str:
    """In one cell of a table."""
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:160]}"


def is_right(row: Row, result: Outcome) -> bool:
    """Whether a row ran and its answer is within its tolerance; NaN is not."""
    if result.failure:
        return False
    return result.error is None or result.error <= row.tolerance


def report(rig: Rig, table: Table) -> tuple[str, bool]:
    """The table in Markdown, and whether all its rows are right."""
    results = outcomes(rig, table)
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
    """What is shown of one row after its name."""
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
    """Median and quartiles of the base's time over `spent`, round by round."""
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


def once(rig: Rig, table: Table) -> tuple[str, bool]:
    """Runs each row once after one call to warm up, for a profiler; what ran, and whether all."""
    lines, right = [], True
    for row in table.rows:
        try:
            tensors = row.make(0)
            row.call(*tensors)
            with rig.watched(f"{table.title}: {row.name}"):
                row.call(*tensors)
            lines.append(f"{table.title}: {row.name}")
        except Exception as error:
            lines.append(f"{table.title}: {row.name}: FAILED {described(error)}")
            right = False
    return "\n".join(lines), right
