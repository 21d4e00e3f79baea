"""The results of a benchmark: times of models side by side, as JSON and as Markdown."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Size
from alignseg_infer.backports import Self, StrEnum
from alignseg_infer.benchmark.footprint import Footprint
from alignseg_infer.benchmark.machine import Machine
from alignseg_infer.text import markdown_table, markdown_text

Floats64: TypeAlias = NDArray[np.float64]

FEWEST_CALLS = {0.9: 10, 0.99: 100}  # so that one call is beyond the quantile
RESAMPLES = 1000
FEWEST_RESAMPLED = 5  # rounds; resampling fewer says nothing
NONE = "-"


class Stage(StrEnum):
    """The stages that an image goes through; the columns of `Measured.calls`."""

    DECODE = "decode"
    PREPROCESS = "preprocess"
    INFER = "infer"
    POSTPROCESS = "postprocess"
    END_TO_END = "end to end"


PARTS = tuple(stage for stage in Stage if stage is not Stage.END_TO_END)


@dataclass(frozen=True)
class WarmUp:
    """The rounds that ran before the counted ones.

    Attributes:
        rounds: How many there were.
        settled: Whether the times were steady at the end.
    """

    rounds: int
    settled: bool


@dataclass(frozen=True)
class Ratio:
    """The time of one variant divided by the time of another in the same rounds.

    Attributes:
        median: Median over the rounds.
        quartiles: A quarter of the rounds is below the first value, a quarter above the second.
        interval: The medians of 95 % of bootstrap resamples of the rounds lie within it; None for
            fewer than five rounds.
    """

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        text = f"{self.median:.3f} ({self.quartiles[0]:.3f}-{self.quartiles[1]:.3f}"
        if self.interval is None:
            return text + ")"
        return text + f"; {self.interval[0]:.3f}-{self.interval[1]:.3f})"


@dataclass(frozen=True, eq=False)
class Measured:
    """How long one variant took.

    Attributes:
        name: Name of the model.
        batch: Images per call of the `Predictor`.
        backend: What ran it, e.g. ``onnxruntime (CPUExecutionProvider)``.
        input_size: (height, width) the network saw; with a sliding window, the tile.
        calls: (rounds, 5) float64, ms per image in the order of `Stage`: the time of a call divided
            by its number of images. The end-to-end time is measured around the call; the others
            come from `Segmentation.times`.
        footprint: Memory and loading time; None if they were not measured.
    """

    name: str
    batch: int
    backend: str
    input_size: Size
    calls: Floats64
    footprint: Footprint | None = None

    def of(self, stage: Stage) -> Floats64:
        """Return the times of one stage, (rounds,) float64, ms per image."""
        return self.calls[:, list(Stage).index(stage)]

    def quantile(self, share: float, stage: Stage = Stage.END_TO_END) -> float | None:
        """Return the ms per image that `share` of the calls do not exceed; None for too few calls.

        The 99th percentile of fewer than 100 calls would be little more than the slowest call.
        """
        times = self.of(stage)
        if len(times) < FEWEST_CALLS.get(share, 1):
            return None
        return float(np.quantile(times, share))

    @property
    def images_per_second(self) -> float:
        """Images per second according to the median end-to-end time."""
        return 1e3 / float(np.median(self.of(Stage.END_TO_END)))

    def ratio_to(self, other: Self) -> Ratio:
        """Return the end-to-end time per image divided by that of `other`, round by round."""
        return paired_ratio(self.of(Stage.END_TO_END), other.of(Stage.END_TO_END))


def paired_ratio(times: Floats64, reference: Floats64, seed: int = 0) -> Ratio:
    """Return the ratio of two series of times.

    Args:
        times: (rounds,) float64, in any unit.
        reference: (rounds,) float64, in the same unit, from the same rounds.
        seed: Seed of the bootstrap resamples.
    """
    ratios, rng = times / reference, np.random.default_rng(seed)
    low, middle, high = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
    if len(ratios) < FEWEST_RESAMPLED:
        return Ratio(middle, (low, high), None)
    medians = [np.median(rng.choice(ratios, len(ratios))) for _ in range(RESAMPLES)]
    first, last = map(float, np.quantile(medians, (0.025, 0.975)))
    return Ratio(middle, (low, high), (first, last))


@dataclass(frozen=True, eq=False)
class BenchmarkReport:
    """The result of `benchmark`.

    Attributes:
        measured: The times of each variant, in the order given.
        machine: The machine it ran on.
        images: How many different images were used.
        warm_up: The rounds that ran before the counted ones.
        partial: Whether the benchmark was interrupted.
        settings: What the caller wants to record.
    """

    measured: tuple[Measured, ...]
    machine: Machine
    images: int
    warm_up: WarmUp
    partial: bool
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many rounds were counted."""
        return len(self.measured[0].calls)

    def label(self, measured: Measured) -> str:
        """Return the name, with the batch if several variants have that name."""
        same = sum(measured.name == other.name for other in self.measured)
        return f"{measured.name}, batch {measured.batch}" if same > 1 else measured.name

    def with_footprint(self, index: int, footprint: Footprint | None) -> Self:
        """Return a copy with the memory and loading time of variant `index`."""
        measured = list(self.measured)
        measured[index] = replace(measured[index], footprint=footprint)
        return replace(self, measured=tuple(measured))

    def to_json(self) -> str:
        """Return everything, with the times of all calls, as one JSON object; unknowns are null."""
        facts = {
            "rounds": self.rounds,
            "partial": self.partial,
            "images": self.images,
            "warm_up": asdict(self.warm_up),
            "settings": dict(self.settings),
            "machine": {**asdict(self.machine), "busy": self.machine.busy},
            "measured": [self._facts_of(measured) for measured in self.measured],
        }
        return json.dumps(facts, default=str)

    def to_markdown(self) -> str:
        """Return a table with a row for each variant, and notes that explain it."""
        count = f"{'**partial:** ' if self.partial else ''}{self.rounds} rounds"
        said = [f"{key}: {value}" for key, value in self.settings.items() if value is not None]
        machine = self.machine
        blocks = [
            f"# Benchmark: {count}",
            *([markdown_text("; ".join(said) + ".")] if said else []),
            markdown_text(describe_machine(machine)),
            *(markdown_text(f"GPU after the last round: {gpu}.") for gpu in machine.gpus),
            *(
                [f"**Other work was running:** {markdown_text(machine.busy)}."]
                if machine.busy
                else []
            ),
            self._format_table(),
            self._write_notes(),
        ]
        return "\n\n".join(blocks) + "\n"

    def _facts_of(self, measured: Measured) -> dict[str, object]:
        first = self.measured[0]
        ratio = None if measured is first else asdict(measured.ratio_to(first))
        return {
            "name": measured.name,
            "batch": measured.batch,
            "backend": measured.backend,
            "input_size": list(measured.input_size),
            "images_per_second": measured.images_per_second,
            "milliseconds": {stage: _list_quantiles(measured, stage) for stage in Stage},
            "ratio_to_first": ratio,
            "footprint": measured.footprint and asdict(measured.footprint),
            "calls": {stage: measured.of(stage).round(4).tolist() for stage in Stage},
        }

    def _format_table(self) -> str:
        first, several = self.measured[0], len(self.measured) > 1
        header = [
            *("model", "input", "batch"),
            *(f"{stage} ms" for stage in Stage),
            *("min", "p90", "p99", "images/s"),
            *([f"time / {self.label(first)}"] if several else []),
            *("peak MB", "load s", "on"),
        ]
        return markdown_table(
            header, [self._format_row(measured, several) for measured in self.measured]
        )

    def _format_row(self, measured: Measured, several: bool) -> list[str]:
        first, footprint = self.measured[0], measured.footprint
        ratio = "1" if measured is first else str(measured.ratio_to(first))
        return [
            *(measured.name, "x".join(map(str, measured.input_size)), str(measured.batch)),
            *(milliseconds_text(measured.quantile(0.5, stage)) for stage in Stage),
            *(milliseconds_text(measured.quantile(share)) for share in (0, 0.9, 0.99)),
            f"{measured.images_per_second:.3g}",
            *([ratio] if several else []),
            f"{footprint.peak_mb:.0f}" if footprint else NONE,
            f"{footprint.load_ms / 1e3:.2f}" if footprint else NONE,
            measured.backend,
        ]

    def _write_notes(self) -> str:
        warm_up = "steady by then" if self.warm_up.settled else "**not steady by then**"
        notes = [
            "Times are milliseconds per image: the time of a call of the Predictor divided by its "
            "batch. Stages are medians; min, p90 and p99 are of the end-to-end time.",
            f"Each round ran every row once, in random order, after {self.warm_up.rounds} rounds "
            f"of warm-up ({warm_up}).",
        ]
        if len(self.measured) > 1:
            notes.append(
                "Ratios compare end-to-end times of the same round: median (quartiles"
                + ("; 95 % bootstrap interval)." if self.rounds >= FEWEST_RESAMPLED else ").")
            )
        first = self.measured[0]
        needs = [
            f"a p{round(100 * share)} needs {n} rounds"
            for share, n in FEWEST_CALLS.items()
            if first.quantile(share) is None
        ]
        if needs:
            notes.append(f"{NONE}: {', '.join(needs)}.")
        if any(measured.footprint for measured in self.measured):
            notes.append(
                "Peak MB is the most resident memory of a process that only loads this model and "
                f"calls it twice ({self._base_mb():.0f} before loading); load s is the time to "
                "load it."
            )
        return " ".join(notes)

    def _base_mb(self) -> float:
        bases = [measured.footprint.base_mb for measured in self.measured if measured.footprint]
        return max(bases, default=math.nan)


def _list_quantiles(measured: Measured, stage: Stage) -> dict[str, float | None]:
    shares = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99}
    return {name: measured.quantile(share, stage) for name, share in shares.items()}


def describe_machine(machine: Machine) -> str:
    """Return the facts about a machine in one sentence."""
    flags = f" ({', '.join(machine.flags)})" if machine.flags else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    cores = f"{machine.cores} core{'s' if machine.cores > 1 else ''}"
    load = "" if machine.load is None else f", load {machine.load:.2f} at the start"
    others = "" if machine.others is None else f", {machine.others:.1%} used by other processes"
    return (
        f"{machine.cpu}, {cores}{flags}{load}{others}; {machine.system}; "
        f"Python {machine.python}, {versions}; {machine.date}."
    )


def milliseconds_text(milliseconds: float | None) -> str:
    """Return milliseconds with about three digits, and a dash for None."""
    if milliseconds is None:
        return NONE
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"
