"""Finds the fastest candidate: all are looked at, clear losers drop out, and the best race."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backends import OnnxRunner
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.backends.tuned import Choice, ChosenFile, Fingerprint
from alignseg_infer.benchmark import BenchmarkReport, Variant, benchmark
from alignseg_infer.errors import AlignSegError, OptionError
from alignseg_infer.pixels.images import ImageSource
from alignseg_infer.predictor import Predictor
from alignseg_infer.progress import Progress, ProgressBars, no_bar
from alignseg_infer.tuning.candidates import Candidate, ModelFile, reference_of
from alignseg_infer.tuning.inputs import (
    find_images,
    list_rows,
    names_of,
    open_file,
    require_fit,
    require_full_batches,
    require_unchanged,
)
from alignseg_infer.tuning.labels import compare, label_all, require_judging, require_variety
from alignseg_infer.tuning.options import TuningOptions
from alignseg_infer.tuning.report import Outcome, Row, TuningReport

LOOK_SHARE = 0.6  # of the time, in which all candidates are looked at
LOOK_ROUNDS = 3
HALVING_ROUNDS = 5  # the fewest whose ratio has an interval
RACE_SHARE = 0.8  # of the time, until which more than the last ones may race
FINAL_ROUNDS = 100
FINALISTS = 3
CLEAR_LOSER = 1.4  # times the best; of the three that look the fastest, times the reference
TIE = 1.02  # times the best; of these, the one with the most equal labels is chosen


def tune(
    models: Sequence[str | Path],
    images: str | Path | Sequence[ImageSource] | None = None,
    options: TuningOptions | None = None,
    *,
    bars: ProgressBars = no_bar,
) -> TuningReport:
    """Find the fastest way to run a network on this machine's CPU that labels like FP32.

    Ctrl-C ends it early: what was measured until then is returned, marked as partial, and nothing
    is chosen.

    Args:
        models: ``.onnx`` files of one network, or ``demo``; the first is in FP32, and the others
            are compared with it.
        images: What to compare labels on and to measure with: a source of images as for
            `calibration` in `export_onnx`, or a list of images as `Predictor` takes them. None for
            drawn streets, for ``demo`` only.
        options: What is to be fast, and how long may be measured.
        bars: Makes progress bars.

    Raises:
        OptionError: Options or models cannot be used, or the time is too short to measure anything.
        DatasetError: Images cannot be read, or cannot tell whether labels agree.
        MissingDependencyError: A package that describes the machine is not installed.
        ImageError: An image of a list cannot be read.
        ModelError: A file cannot be used.
        TuningError: A file was changed meanwhile.
        KeyboardInterrupt: Ctrl-C was pressed before anything was measured.
    """
    from alignseg_infer.benchmark.watch import MachineWatch

    options = options or TuningOptions()
    names = names_of(models)
    watch, here = MachineWatch(), Fingerprint.here()
    first = open_file(models[0], names[0])
    reference = reference_of(first)
    require_fit(first, options.goal)
    what, pixels = find_images(images, first, options)
    require_judging(pixels, what)
    files = [first, *map(open_file, models[1:], names[1:])]
    require_full_batches(files, options, len(pixels))
    rows = list_rows(files, reference, options)
    search = _Search(rows, pixels, options)
    interrupted = not search.run(bars)
    require_unchanged(files)
    chosen = next((row for row in rows if row.outcome is Outcome.CHOSEN), None)
    if interrupted and not any(row.rounds for row in rows):
        raise KeyboardInterrupt
    return TuningReport(
        model=first.model,
        rows=rows,
        choice=_choice(chosen, first, options, search.input_sizes, here) if chosen else None,
        goal=options.goal,
        images=what,
        input_sizes=search.input_sizes,
        machine=watch.facts(),
        partial=interrupted,
        settings={
            "seconds": options.seconds,
            "size": options.size,
            "min_agreement": options.min_agreement,
        },
    )


class _Search:
    """Measures candidates and writes into their rows what it finds.

    Args:
        rows: One for each candidate; the first is the reference.
        images: The images.
        options: What is asked for.
    """

    def __init__(self, rows: list[Row], images: list[Image], options: TuningOptions) -> None:
        self._rows, self._images, self._options = rows, images, options
        self._reference = self._open(rows[0].candidate)
        self._start = time.perf_counter()
        self.input_sizes: tuple[Size, ...] = ()

    def run(self, bars: ProgressBars) -> bool:
        """Measure; return whether it came to its end, and not to Ctrl-C."""
        try:
            with bars("candidates") as progress:
                self._look_at_all(progress)
            with bars("rounds") as progress:
                self._race(progress)
        except KeyboardInterrupt:
            for row in self._rows:
                if row.rounds and row.outcome is Outcome.NOT_MEASURED:
                    row.outcome = Outcome.MEASURED
            return False
        return True

    def _open(self, candidate: Candidate) -> Predictor:
        return Predictor(
            candidate.file.model,
            size=self._options.size,
            max_pixels=self._options.max_pixels,
            **candidate.options(),
        )

    def _seconds(self) -> float:
        """Return how long it has taken so far."""
        return time.perf_counter() - self._start

    def _look_at_all(self, progress: Progress | None) -> None:
        """Compare the labels of each candidate, and its time in a few rounds."""
        first, *others = self._rows
        begin = self._seconds()
        results = label_all(self._reference, self._images)
        took = self._seconds() - begin
        self.input_sizes = tuple(dict.fromkeys(result.input_size for result in results))
        self._labels = [result.labels for result in results]
        bound = min(row.required for row in self._rows)
        require_variety(self._labels, first.candidate.file.spec.classes.names, bound)
        first.agreement = compare(results, self._labels)
        dropped: dict[tuple[str, str, str], Row] = {}
        for done, row in enumerate(others, 1):
            same = dropped.get(row.candidate.kind)
            if row.outcome is Outcome.NOT_OFFERED:
                pass
            elif same:
                row.outcome, row.reason = same.outcome, same.reason
            elif self._seconds() > LOOK_SHARE * self._options.seconds:
                row.reason = f"the {self._options.seconds:g} seconds were over"
            else:
                self._look_at(row)
                if row.outcome is not Outcome.MEASURED:
                    dropped[row.candidate.kind] = row
            if progress:
                progress(done, len(others))
        self._require_time(took)

    def _look_at(self, row: Row) -> None:
        try:
            predictor = self._open(row.candidate)
            results = label_all(predictor, self._images)
        except AlignSegError as error:
            row.outcome, row.reason = Outcome.NOT_OFFERED, " ".join(error.problem.split())
            return
        row.backend = predictor.backend
        row.agreement = compare(results, self._labels)
        if not row.agreement.passes(row.required):
            row.outcome = Outcome.LABELS_DIFFER
            row.reason = f"{row.required:.1%} of the pixels have to get the same label"
            return
        self._measure([row], [predictor], rounds=LOOK_ROUNDS, warm_up=1)
        row.outcome = Outcome.MEASURED

    def _measure(
        self,
        rows: Sequence[Row],
        predictors: Sequence[Predictor],
        *,
        rounds: int,
        warm_up: int,
        seconds: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Measure candidates beside the reference, and write the figures into their rows."""
        all_rows = [self._rows[0], *rows]
        variants = [
            Variant(str(row.candidate), predictor)
            for row, predictor in zip(all_rows, [self._reference, *predictors], strict=True)
        ]
        report: BenchmarkReport = benchmark(
            variants,
            self._images,
            rounds=rounds,
            seconds=seconds,
            warm_up=warm_up,
            progress=progress,
        )
        for row, measured in zip(all_rows, report.measured, strict=True):
            row.take(measured, report)
        if report.partial:
            raise KeyboardInterrupt

    def _require_time(self, took: float) -> None:
        """Check that something was measured besides the reference.

        Raises:
            OptionError: The time was over before.
        """
        rows = self._rows[1:]
        late = [row for row in rows if row.outcome is Outcome.NOT_MEASURED]
        if any(row.rounds for row in rows) or not late:
            return
        per_image = took / len(self._images)
        needed = took + len(late) * (took + 2 * (LOOK_ROUNDS + 1) * per_image)
        raise OptionError(
            f"seconds={self._options.seconds:g} were over before anything was measured: to label "
            f"{len(self._images)} images as they are takes {took:.1f}",
            "time to measure each candidate",
            f"seconds={math.ceil(needed / LOOK_SHARE) + 1}; or a smaller size= or max_images=",
        )

    def _race(self, progress: Progress | None) -> None:
        """Let the fastest race each other and the reference; half of them drop out at a time."""
        measured = sorted(
            (row for row in self._rows if row.outcome is Outcome.MEASURED), key=_ratio
        )
        best = min([1.0, *map(_ratio, measured)])
        racing = [
            row
            for place, row in enumerate(measured)
            if _ratio(row) <= CLEAR_LOSER * (1.0 if place < FINALISTS else best)
        ]
        if not self._has_time_for(racing):
            racing = racing[:FINALISTS]
        _drop(measured, racing)
        predictors = {id(row): self._open(row.candidate) for row in racing}
        while len(racing) > FINALISTS:
            self._measure(
                racing, [predictors[id(row)] for row in racing], rounds=HALVING_ROUNDS, warm_up=1
            )
            left = max(FINALISTS, math.ceil(len(racing) / 2))
            fastest = sorted(racing, key=_ratio)[:left]
            _drop(racing, fastest)
            racing = fastest
            predictors = {id(row): predictors[id(row)] for row in racing}
        if racing:
            self._measure(
                racing,
                [predictors[id(row)] for row in racing],
                rounds=FINAL_ROUNDS,
                warm_up=10,
                seconds=max(1.0, self._options.seconds - self._seconds()),
                progress=progress,
            )
        for row in (self._rows[0], *racing):
            row.outcome = Outcome.FINALIST
        choose(self._rows[0], racing).outcome = Outcome.CHOSEN

    def _has_time_for(self, rows: Sequence[Row]) -> bool:
        """Return whether some time is left for the last ones if all of `rows` race first."""
        calls = [(row.milliseconds or 0.0) * row.candidate.batch for row in (self._rows[0], *rows)]
        race = (HALVING_ROUNDS + 1) * sum(calls) / 1e3
        return self._seconds() + race <= RACE_SHARE * self._options.seconds


def choose(reference: Row, finalists: Sequence[Row]) -> Row:
    """Return the row that wins.

    It is faster than the reference beyond doubt; of those that are as fast as the fastest but for
    `TIE`, it has the most equal labels.
    """
    faster = [row for row in finalists if _is_faster(row)]
    if not faster:
        return reference
    best = min(map(_ratio, faster))
    close = [row for row in faster if _ratio(row) <= TIE * best]
    return max(close, key=lambda row: (_agreement(row), -_ratio(row)))


def _drop(rows: Sequence[Row], left: Sequence[Row]) -> None:
    """Say of all rows but those that are left that they were slower."""
    for row in rows:
        if not any(row is each for each in left):
            row.outcome = Outcome.SLOWER


def _is_faster(row: Row) -> bool:
    return row.ratio is not None and row.ratio.interval is not None and row.ratio.interval[1] < 1


def _ratio(row: Row) -> float:
    return row.ratio.median if row.ratio else math.inf


def _agreement(row: Row) -> float:
    return row.agreement.share if row.agreement else 0.0


def _choice(
    row: Row, first: ModelFile, options: TuningOptions, sizes: tuple[Size, ...], here: Fingerprint
) -> Choice:
    candidate, file = row.candidate, row.candidate.file
    other = ChosenFile(path=os.path.abspath(file.model), sha256=file.sha256)
    assert row.agreement is not None
    return Choice(
        model_sha256=first.sha256,
        file=None if file is first else other,
        runtime=candidate.runtime.value,
        precision=candidate.precision,
        threads=candidate.threads,
        batch=candidate.batch,
        size=_size_to_ask_for(candidate, first, options),
        goal=options.goal.value,
        agreement=row.agreement.share,
        milliseconds=row.milliseconds or 0.0,
        ratio=row.ratio.median if row.ratio else 1.0,
        input_sizes=sizes,
        fingerprint=here,
    )


def _size_to_ask_for(candidate: Candidate, first: ModelFile, options: TuningOptions) -> Size | None:
    """Return the only size for which a candidate is the choice; None if the size does not matter.

    OpenVINO compiled a file of any size for the one that was asked for, so that its speed is known
    for this size only.
    """
    fixed, in_openvino = candidate.file.export.size, candidate.runtime is OnnxRunner.OPENVINO
    compiles_for_one = candidate.batch == 1 and candidate.precision != RunPrecision.BF16
    if fixed is None and in_openvino and compiles_for_one:
        return options.size if isinstance(options.size, tuple) else None
    return None if fixed == first.export.size else fixed
