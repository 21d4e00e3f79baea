"""What tuning found: a row for each candidate, and what is the best."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from alignseg_infer.arrays import Size
from alignseg_infer.backends import OnnxRunner
from alignseg_infer.backends.tuned import Choice, advice, keep_choice
from alignseg_infer.backports import StrEnum
from alignseg_infer.benchmark import BenchmarkReport, Measured, Ratio, Stage
from alignseg_infer.benchmark.machine import Machine
from alignseg_infer.benchmark.report import describe_machine, milliseconds_text
from alignseg_infer.errors import TuningError
from alignseg_infer.text import markdown_table, markdown_text
from alignseg_infer.tuning.candidates import Candidate, Goal
from alignseg_infer.tuning.labels import Agreement

NONE = "-"


class Outcome(StrEnum):
    """What became of a candidate."""

    CHOSEN = "chosen"
    FINALIST = "finalist"
    MEASURED = "measured"
    SLOWER = "slower, dropped early"
    LABELS_DIFFER = "labels differ"
    NOT_OFFERED = "not offered here"
    NOT_MEASURED = "not measured"


@dataclass
class Row:
    """A candidate and what was found of it.

    Attributes:
        candidate: The candidate.
        outcome: What became of it.
        reason: Why, where the outcome does not say it.
        agreement: How many pixels get the same label as in the reference; None if unknown.
        required: The share of them that was required, 0..1.
        milliseconds: Median time per image in its last rounds; None if it was not measured.
        ratio: That time over the reference's in the same rounds; None if it was not measured.
        rounds: How many rounds that were.
        backend: What ran it.
    """

    candidate: Candidate
    outcome: Outcome = Outcome.NOT_MEASURED
    reason: str = ""
    agreement: Agreement | None = None
    required: float = 1.0
    milliseconds: float | None = None
    ratio: Ratio | None = None
    rounds: int = 0
    backend: str = ""

    def take(self, measured: Measured, report: BenchmarkReport) -> None:
        """Take the figures of a benchmark whose first variant is the reference."""
        self.milliseconds = float(np.median(measured.of(Stage.END_TO_END)))
        self.ratio = measured.ratio_to(report.measured[0])
        self.rounds = report.rounds
        self.backend = measured.backend


@dataclass(frozen=True)
class TuningReport:
    """The result of `tune`.

    Attributes:
        model: The model that was tuned: a path, or ``demo``.
        rows: What was found of each candidate; the first is the reference.
        choice: What is the best; None if tuning was interrupted.
        goal: What was to be fast.
        images: What the images are, for people.
        input_sizes: The (height, width) that the network saw.
        machine: The machine it ran on.
        partial: Whether tuning was interrupted.
        settings: What else the figures depend on.
    """

    model: str | Path
    rows: Sequence[Row]
    choice: Choice | None
    goal: Goal
    images: str
    input_sizes: tuple[Size, ...]
    machine: Machine
    partial: bool
    settings: Mapping[str, object] = field(default_factory=dict)

    def keep(self) -> Path:
        """Write the choice beside the model, or into the cache folder, and return the file.

        Raises:
            TuningError: Tuning was interrupted, so that there is no choice.
            OutputError: It cannot be written.
        """
        if self.choice is None:
            raise TuningError(
                "tuning was interrupted, so that nothing was chosen",
                "a tuning that ran to its end, which seconds= may shorten",
                advice(self.model),
            )
        return keep_choice(self.model, self.choice)

    def to_json(self) -> str:
        """Return everything as one JSON object; unknowns are null."""
        facts = {
            "model": str(self.model),
            "goal": self.goal,
            "partial": self.partial,
            "images": self.images,
            "input_sizes": self.input_sizes,
            "settings": dict(self.settings),
            "machine": {**asdict(self.machine), "busy": self.machine.busy},
            "candidates": [_facts_of(row) for row in self.rows],
            "choice": self.choice and json.loads(self.choice.to_json()),
        }
        return json.dumps(facts, default=str)

    def to_markdown(self) -> str:
        """Return a table with a row for each candidate, and notes that explain it."""
        sizes = ", ".join(f"{height}x{width}" for height, width in self.input_sizes)
        busy = self.machine.busy
        blocks = [
            f"# Tuning for {self.goal}{': **partial**' if self.partial else ''}",
            markdown_text(f"{self.images}; the network sees {sizes}."),
            markdown_text(describe_machine(self.machine)),
            *([f"**Other work was running:** {markdown_text(busy)}."] if busy else []),
            markdown_table(_HEADER, [_cells(row) for row in self._sorted()]),
            *_reasons(self.rows),
            _NOTES,
            *self._hint(),
            self._verdict(),
        ]
        return "\n\n".join(blocks) + "\n"

    def _sorted(self) -> list[Row]:
        """Return the rows, the outcomes in their order and the fastest first."""
        order = list(Outcome)
        return sorted(
            self.rows,
            key=lambda row: (
                order.index(row.outcome),
                row.ratio.median if row.ratio else 0.0,
            ),
        )

    def _hint(self) -> list[str]:
        """Say how OpenVINO may be faster, if it raced without knowing that images have one size."""
        raced = any(
            row.rounds and row.candidate.runtime is OnnxRunner.OPENVINO for row in self.rows
        )
        any_size = self.rows[0].candidate.file.export.size is None and not self.settings.get("size")
        if not (raced and any_size and len(self.input_sizes) == 1 and self.goal is Goal.LATENCY):
            return []
        [(height, width)] = self.input_sizes
        return [
            "The network saw images of one size only. OpenVINO may be faster if it compiles for "
            f"this size: `alignseg tune MODEL --images DIR --size {height}x{width}` tunes for it."
        ]

    def _verdict(self) -> str:
        if self.choice is None:
            return "**Nothing was chosen**, since tuning was interrupted."
        chosen = next(row for row in self.rows if row.outcome is Outcome.CHOSEN)
        if chosen is self.rows[0]:
            return (
                f"**Chosen: {markdown_text(str(chosen.candidate))}**, as without tuning: nothing "
                "that labels alike is faster beyond doubt."
            )
        return (
            f"**Chosen: {markdown_text(str(chosen.candidate))}**, which takes "
            f"{self.choice.ratio:.2f} of the time and labels {self.choice.agreement:.2%} of the "
            "pixels alike."
        )


_HEADER = (
    *("model", "runtime", "precision", "threads", "batch", "labels alike", "worst image"),
    *("ms an image", "time / first in FP32", "rounds", "outcome"),
)
_NOTES = (
    "Labels alike is the share of pixels with the label of the first model in FP32 on ONNX "
    "Runtime. Times are of a call of the Predictor with images in memory, divided by its batch. "
    "Ratios compare it with the first model in the same rounds: median (quartiles; 95 % bootstrap "
    "interval where there were five rounds). The finalists were measured together; compare their "
    "ratios, and those of others only roughly."
)


def _cells(row: Row) -> list[str]:
    candidate, agreement = row.candidate, row.agreement
    threads = candidate.threads
    return [
        *(candidate.file.name, str(candidate.runtime), candidate.computes_in),
        *("default" if threads is None else str(threads), str(candidate.batch)),
        f"{agreement.share:.3%}" if agreement else NONE,
        f"{agreement.worst:.3%}" if agreement else NONE,
        milliseconds_text(row.milliseconds),
        str(row.ratio) if row.ratio else NONE,
        str(row.rounds) if row.rounds else NONE,
        str(row.outcome),
    ]


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Return why candidates dropped out, once for each reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            names = found.setdefault(f"{row.outcome}: {row.reason}", [])
            alone = row.outcome is Outcome.NOT_MEASURED  # others of its kind may be measured
            names.append(str(row.candidate) if alone else ", ".join(row.candidate.kind))
    lines = [
        f"- {markdown_text('; '.join(dict.fromkeys(names)) + ', ' + why)}"
        for why, names in found.items()
    ]
    return ["\n".join(lines)] if lines else []


def _facts_of(row: Row) -> dict[str, object]:
    candidate = row.candidate
    return {
        "model": candidate.file.name,
        "runtime": candidate.runtime,
        "precision": candidate.computes_in,
        "threads": candidate.threads,
        "batch": candidate.batch,
        "backend": row.backend or None,
        "outcome": row.outcome,
        "reason": row.reason or None,
        "agreement": row.agreement and asdict(row.agreement),
        "required_agreement": row.required,
        "milliseconds": row.milliseconds,
        "ratio": row.ratio and asdict(row.ratio),
        "rounds": row.rounds,
    }
