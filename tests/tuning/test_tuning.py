"""Tuning: its choice among stand-ins with known times and labels, and a real one of the demo."""

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import alignseg_infer
from alignseg_infer import (
    AlignSegError,
    DatasetError,
    ImageError,
    MissingDependencyError,
    ModelError,
    OptionError,
    Predictor,
    TuningError,
)
from alignseg_infer.arrays import Image, Size
from alignseg_infer.backends import OnnxRunner
from alignseg_infer.backends.tuned import choice_of
from alignseg_infer.benchmark import measure
from alignseg_infer.benchmark.report import paired_ratio
from alignseg_infer.cli import main
from alignseg_infer.demo.streets import Street
from alignseg_infer.files import caches
from alignseg_infer.pixels.images import ImageSource, read_image
from alignseg_infer.spec.model import ExportSpec, OutputKind, Precision
from alignseg_infer.tuning import Goal, Outcome, Row, TuningOptions, TuningReport, inputs, search
from alignseg_infer.tuning import candidates as candidates_module
from alignseg_infer.tuning import tune as find_fastest
from alignseg_infer.tuning.candidates import Candidate, ModelFile, list_candidates, why_unfit
from alignseg_infer.tuning.labels import Agreement, compare, require_judging, require_variety
from tests.support.models import LOGITS_EXPORT as EXPORT
from tests.support.models import SMALL_SPEC, FakeBackend

ROUNDS = 12  # of the last race; stand-ins take the same time in each


class Clock:
    """A clock that stands still unless it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(FakeBackend):
    """Takes `milliseconds` for each image, and labels the first `wrong` rows otherwise."""

    def __init__(self, stand_ins: "StandIns", export: ExportSpec, name: str) -> None:
        super().__init__(replace(SMALL_SPEC, export=export))
        self._stand_ins, self._key, self.name = stand_ins, name, name

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        stand_ins = self._stand_ins
        stand_ins.calls.append(self._key)
        if len(stand_ins.calls) - 1 == stand_ins.interrupted_in:
            raise KeyboardInterrupt
        milliseconds, wrong = stand_ins.facts[self._key]
        stand_ins.clock.now += len(batch) * milliseconds / 1e3
        changed = batch.copy()
        changed[:, 0, :wrong] = 18 - changed[:, 0, :wrong]
        return super().infer(changed)


class StandIns:
    """Predictors of files that do not exist, with known times (ms) and wrong rows.

    `facts` has ``"file runtime precision threads"``, or ``"first"`` for the reference. Threads are
    2 and 1. What is not listed raises the error of a runtime that is not installed.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.facts: dict[str, tuple[float, int]] = {}
        self.exports: dict[str, ExportSpec] = {}
        self.calls: list[str] = []
        self.interrupted_in = -1

    def __call__(
        self,
        model: str | Path,
        *,
        size: Size | None = None,
        runtime: str = "onnxruntime",
        precision: str | None = None,
        threads: int | None = None,
        batch: int = 1,
        max_pixels: int = 10**6,
    ) -> Predictor:
        file = Path(model).stem
        export = self.exports.get(file, EXPORT)
        key = f"{file} {runtime} {precision or export.precision} {threads}"
        key = "first" if threads is None else key
        if key not in self.facts:
            raise MissingDependencyError(f"{key} is not installed", "it", "pip install it")
        return Predictor(Timed(self, export, key), size=size, batch=batch, max_pixels=max_pixels)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> StandIns:
    clock = Clock()
    found = StandIns(clock)
    found.facts = {"first": (10, 0)}
    monkeypatch.setattr("time.perf_counter", clock)
    monkeypatch.setattr(measure, "come_to_rest", lambda: None)
    monkeypatch.setattr("gc.collect", lambda: 0)  # 30 ms, between all rounds
    monkeypatch.setattr(search, "FINAL_ROUNDS", ROUNDS)
    for module in (search, inputs):
        monkeypatch.setattr(module, "Predictor", found)
    monkeypatch.setattr(candidates_module, "thread_counts", lambda: [2, 1])
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"the first")
    return path


@pytest.fixture
def images(image: Image) -> list[Image]:
    return [image] * 4


def rows_of(report: TuningReport) -> dict[str, Row]:
    """The rows by runtime, precision and threads, and file and batch where there are several."""
    found = {}
    for row in report.rows[1:]:
        each = row.candidate
        key = f"{each.runtime} {each.computes_in} {each.threads}"
        key += f" x{each.batch}" if each.batch > 1 else ""
        key = f"{each.file.name} {key}" if each.file.name != "a.onnx" else key
        found[key] = row
    return found


def outcomes(report: TuningReport) -> dict[str, str]:
    return {key: row.outcome.name for key, row in rows_of(report).items()}


def test_the_fastest_that_labels_alike_is_chosen(
    stand_ins: StandIns, model: Path, images: list[Image]
) -> None:
    """One of three is faster still, but labels otherwise; its single thread is not tried."""
    stand_ins.facts |= {
        "a onnxruntime fp32 2": (9, 0),
        "a onnxruntime fp32 1": (20, 0),
        "a openvino fp32 2": (5, 0),
        "a openvino fp32 1": (9, 0),
        "a openvino bf16 2": (2, 40),
        "a openvino bf16 1": (1, 0),
    }
    report = find_fastest([model], images, TuningOptions(seconds=20))
    assert outcomes(report) == {
        "onnxruntime fp32 2": "FINALIST",
        "openvino fp32 2": "CHOSEN",
        "openvino bf16 2": "LABELS_DIFFER",
        "onnxruntime fp32 1": "SLOWER",
        "openvino fp32 1": "FINALIST",
        "openvino bf16 1": "LABELS_DIFFER",
    }
    rows = rows_of(report)
    assert rows["openvino fp32 2"].milliseconds == pytest.approx(5)
    assert rows["openvino fp32 2"].ratio is not None
    assert rows["openvino fp32 2"].ratio.median == pytest.approx(0.5)
    assert rows["openvino fp32 2"].rounds == ROUNDS
    assert rows["onnxruntime fp32 1"].rounds == search.LOOK_ROUNDS
    assert rows["openvino bf16 2"].agreement is not None
    assert rows["openvino bf16 2"].agreement.share < 0.8
    assert rows["openvino bf16 1"].agreement is None
    assert "a openvino bf16 1" not in stand_ins.calls
    choice = report.choice
    assert choice is not None
    assert (choice.runtime, choice.precision, choice.threads) == ("openvino", None, 2)
    assert (choice.batch, choice.file, choice.size) == (1, None, None)
    assert choice.agreement == 1.0
    assert choice.ratio == pytest.approx(0.5)
    assert choice.input_sizes == ((90, 130),)
    assert not report.partial
    text = report.to_markdown()
    assert "**Chosen: a.onnx, openvino, fp32, 2 threads**, which takes 0.50 of the time" in text
    assert "a.onnx, openvino, bf16, labels differ: 99.5% of the pixels have to get" in text


def test_what_is_kept_is_obeyed(stand_ins: StandIns, model: Path, images: list[Image]) -> None:
    stand_ins.facts |= {"a openvino bf16 2": (5, 0)}
    report = find_fastest([model], images, TuningOptions(seconds=20))
    assert report.keep() == model.with_name("a.tuned.json")
    obeyed = choice_of(model)
    assert obeyed.choice == report.choice
    assert (obeyed.choice.precision, obeyed.model) == ("bf16", model)


@pytest.mark.parametrize("changed", ["a.onnx", "int8.onnx"])
@pytest.mark.parametrize("removed", [False, True])
def test_a_file_that_is_changed_meanwhile(
    changed: str,
    removed: bool,
    stand_ins: StandIns,
    model: Path,
    images: list[Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was measured is of a file that is gone, whether that one won or not."""
    other = model.with_name("int8.onnx")
    other.write_bytes(b"the other")

    class Changing(Timed):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            path = model.with_name(changed)
            if removed:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(b"another one")
            return super().infer(batch)

    stand_ins.facts |= {"a openvino fp32 2": (5, 0)}
    find_fastest([model, other], images, TuningOptions(seconds=20))
    monkeypatch.setitem(globals(), "Timed", Changing)
    with pytest.raises(TuningError, match=f"{changed} was changed while it was tuned") as caught:
        find_fastest([model, other], images, TuningOptions(seconds=20))
    assert caught.value.fix == f"alignseg tune {model} {other} --images DIR"
    assert not model.with_name("a.tuned.json").exists()


def test_a_runtime_that_is_not_installed(
    stand_ins: StandIns, model: Path, images: list[Image]
) -> None:
    """It is asked for once in each precision, and the others compete."""
    stand_ins.facts |= {"a onnxruntime fp32 2": (9, 0), "a onnxruntime fp32 1": (5, 0)}
    report = find_fastest([model], images, TuningOptions(seconds=20))
    rows = rows_of(report)
    assert rows["openvino fp32 2"].outcome is Outcome.NOT_OFFERED
    assert rows["openvino fp32 2"].reason == "a openvino fp32 2 is not installed"
    assert rows["openvino fp32 1"].reason == rows["openvino fp32 2"].reason
    assert rows["onnxruntime fp32 1"].outcome is Outcome.CHOSEN
    assert report.to_markdown().count("a openvino fp32 2 is not installed") == 1


def test_a_candidate_that_fails_while_it_runs(
    stand_ins: StandIns, model: Path, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Timed):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            if self.name.startswith("a openvino"):
                raise ModelError("it fails", "that it runs", "another")
            return super().infer(batch)

    monkeypatch.setitem(globals(), "Timed", Broken)
    stand_ins.facts |= {"a openvino fp32 2": (5, 0), "a onnxruntime fp32 2": (9, 0)}
    report = find_fastest([model], images, TuningOptions(seconds=20))
    assert rows_of(report)["openvino fp32 2"].outcome is Outcome.NOT_OFFERED
    assert rows_of(report)["openvino fp32 2"].reason == "it fails"


def test_nothing_is_faster(stand_ins: StandIns, model: Path, images: list[Image]) -> None:
    """The choice is what runs without tuning, and can be kept."""
    stand_ins.facts |= {"a openvino fp32 2": (10, 0), "a onnxruntime fp32 2": (11, 0)}
    report = find_fastest([model], images, TuningOptions(seconds=20))
    assert report.rows[0].outcome is Outcome.CHOSEN
    assert report.choice is not None
    assert (report.choice.runtime, report.choice.threads) == ("onnxruntime", None)
    assert "as without tuning" in report.to_markdown()
    report.keep()
    assert choice_of(model).choice.ratio == 1


def test_all_are_much_slower(stand_ins: StandIns, model: Path, images: list[Image]) -> None:
    stand_ins.facts |= {"a openvino fp32 2": (30, 0)}
    report = find_fastest([model], images, TuningOptions(seconds=20))
    assert report.rows[0].outcome is Outcome.CHOSEN
    assert outcomes(report)["openvino fp32 2"] == "SLOWER"
    assert report.choice is not None
    assert report.choice.milliseconds == pytest.approx(10)


def test_half_of_many_drop_out_at_a_time(
    stand_ins: StandIns, model: Path, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight that are nearly as fast: four are left, and then three, beside the reference."""
    monkeypatch.setattr(candidates_module, "thread_counts", lambda: list(range(1, 9)))
    stand_ins.facts |= {f"a onnxruntime fp32 {n}": (7 - 0.1 * n, 0) for n in range(1, 9)}
    report = find_fastest([model], images, TuningOptions(seconds=20))
    counts = {n: rows_of(report)[f"onnxruntime fp32 {n}"].rounds for n in range(1, 9)}
    assert counts == {1: 5, 2: 5, 3: 5, 4: 5, 5: 5, 6: ROUNDS, 7: ROUNDS, 8: ROUNDS}
    chosen = rows_of(report)["onnxruntime fp32 8"]
    assert chosen.outcome is Outcome.CHOSEN
    assert chosen.ratio is not None
    assert chosen.ratio.median == pytest.approx(0.62)


def test_only_three_race_if_time_is_short(
    stand_ins: StandIns, model: Path, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look at all takes 0.78 of 1.4 s; a race of nine would take 0.38 s more."""
    monkeypatch.setattr(candidates_module, "thread_counts", lambda: list(range(1, 9)))
    stand_ins.facts |= {f"a onnxruntime fp32 {n}": (7 - 0.1 * n, 0) for n in range(1, 9)}
    report = find_fastest([model], images, TuningOptions(seconds=1.4))
    rounds = [rows_of(report)[f"onnxruntime fp32 {n}"].rounds for n in range(1, 9)]
    assert rounds[:5] == [search.LOOK_ROUNDS] * 5
    assert min(rounds[5:]) >= 5


def finalist(ratios: list[float], share: float) -> Row:
    file = ModelFile("a.onnx", "a.onnx", replace(SMALL_SPEC, export=EXPORT), "")
    candidate = Candidate(file, OnnxRunner.OPENVINO, None, 2, 1)
    row = Row(candidate, agreement=Agreement(share, share))
    row.ratio = paired_ratio(np.array(ratios), np.ones(len(ratios)))
    return row


def test_what_wins() -> None:
    """Doubt speaks for what runs without tuning, and a tie for the most equal labels."""
    reference = finalist([1.0] * 20, 1.0)
    fast, close = finalist([0.5] * 20, 0.99), finalist([0.505] * 20, 0.999)
    slower = finalist([0.52] * 20, 1.0)
    assert search.choose(reference, [fast, slower]) is fast
    assert search.choose(reference, [fast, close, slower]) is close
    doubtful = finalist([0.9, 1.1] * 10, 1.0)
    assert search.choose(reference, [doubtful]) is reference
    assert search.choose(reference, [finalist([0.5] * 4, 1.0)]) is reference  # no interval
    assert search.choose(reference, []) is reference


def test_another_file_wins(
    stand_ins: StandIns, model: Path, images: list[Image], tmp_path: Path
) -> None:
    other = tmp_path / "int8.onnx"
    other.write_bytes(b"the other")
    stand_ins.exports["int8"] = replace(EXPORT, precision=Precision.INT8)
    stand_ins.facts |= {
        "int8 onnxruntime int8 2": (6, 1),
        "int8 openvino int8 2": (4, 1),
        "a openvino fp32 2": (9, 0),
    }
    stand_ins.facts["first"] = (10, 0)
    options = TuningOptions(seconds=20, min_agreement=0.9)
    report = find_fastest([model, other], images, options)
    rows = rows_of(report)
    assert rows["int8.onnx openvino int8 2"].outcome is Outcome.CHOSEN
    assert {key for key in rows if "bf16" in key} == {"openvino bf16 2", "openvino bf16 1"}
    assert report.choice is not None
    assert report.choice.file is not None
    assert report.choice.file.path == str(other)
    assert 0.9 < report.choice.agreement < 1
    report.keep()
    assert choice_of(model).model == other
    assert find_fastest([model, other], images, TuningOptions(seconds=20)).choice != report.choice


def test_many_images_may_be_to_be_fast(
    stand_ins: StandIns, model: Path, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes 4 ms and 2 ms for each image, so that eight together take 2.5 ms each."""

    class Batches(Timed):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            stand_ins.clock.now += 4e-3
            return super().infer(batch)

    monkeypatch.setitem(globals(), "Timed", Batches)
    stand_ins.facts = {"first": (2, 0), "a onnxruntime fp32 2": (2, 0)}
    options = TuningOptions(seconds=20, goal=Goal.THROUGHPUT, batch=8)
    report = find_fastest([model], images * 2, options)
    rows = rows_of(report)
    assert rows["onnxruntime fp32 2 x8"].outcome is Outcome.CHOSEN
    assert rows["onnxruntime fp32 2 x8"].milliseconds == pytest.approx(2.5)
    assert report.choice is not None
    assert (report.choice.batch, report.choice.goal) == (8, "throughput")
    assert TuningOptions(goal=Goal.THROUGHPUT).batches == [1, 4]
    assert TuningOptions().batches == [1]


@pytest.mark.parametrize(
    ("batch", "fixed", "words", "fix"),
    [
        (10**9, None, "batch=1000000000, with 4 images", "max_images=1000000000 or more, "),
        (5, None, "batch=5, with 4 images", "max_images=5 or more, "),
        (None, 5, "batch=5, which fixed.onnx takes in each call, with 4 images", "max_images=5 "),
        (4, 4, "", ""),
        (None, None, "", ""),
    ],
)
def test_batches_that_images_do_not_fill(
    batch: int | None,
    fixed: int | None,
    words: str,
    fix: str,
    stand_ins: StandIns,
    model: Path,
    images: list[Image],
) -> None:
    """Nothing is run, since a part of a batch is labelled otherwise than a whole one is timed."""
    other = model.with_name("fixed.onnx")
    other.write_bytes(b"the other")
    stand_ins.exports["fixed"] = replace(EXPORT, batch=fixed)
    options = TuningOptions(seconds=20, goal=Goal.THROUGHPUT, batch=batch)
    if not words:
        assert find_fastest([model, other], images, options).choice
        return
    with pytest.raises(OptionError, match=words) as caught:
        find_fastest([model, other], images, options)
    assert caught.value.fix.startswith(fix)
    assert not stand_ins.calls


def test_time_is_over(stand_ins: StandIns, model: Path, images: list[Image]) -> None:
    """Four labels and a first look of the first candidate take 0.12 of 0.18 s."""
    stand_ins.facts |= {"a onnxruntime fp32 2": (10, 0), "a openvino fp32 2": (5, 0)}
    report = find_fastest([model], images, TuningOptions(seconds=0.18))
    rows = rows_of(report)
    assert rows["onnxruntime fp32 2"].outcome is Outcome.FINALIST
    assert rows["openvino fp32 2"].outcome is Outcome.NOT_MEASURED
    assert rows["openvino fp32 2"].reason == "the 0.18 seconds were over"
    assert report.rows[0].rounds >= 5
    assert report.choice is not None
    text = report.to_markdown()
    assert "a.onnx, openvino, fp32, 2 threads; " in text
    assert "not measured: the 0.18 seconds were over" in text


def test_too_little_time_for_anything(
    stand_ins: StandIns, model: Path, images: list[Image]
) -> None:
    """The seconds that the error advises are enough for all."""
    stand_ins.facts = {
        "first": (3000, 0),
        "a onnxruntime fp32 2": (3000, 0),
        "a openvino fp32 2": (2000, 0),
        "a onnxruntime fp32 1": (3000, 0),
    }
    with pytest.raises(OptionError, match="seconds=2 were over") as caught:
        find_fastest([model], images, TuningOptions(seconds=2))
    advised = re.match(r"seconds=(\d+);", caught.value.fix)
    assert advised is not None
    report = find_fastest([model], images, TuningOptions(seconds=float(advised[1])))
    assert Outcome.NOT_MEASURED not in {row.outcome for row in report.rows}


def total_calls(stand_ins: StandIns, model: Path, images: list[Image]) -> int:
    find_fastest([model], images, TuningOptions(seconds=20))
    count = len(stand_ins.calls)
    stand_ins.calls.clear()
    return count


def test_ctrl_c_keeps_what_was_measured(
    stand_ins: StandIns, model: Path, images: list[Image]
) -> None:
    """At any call: nothing is chosen; rows with figures have whole rounds."""
    stand_ins.facts |= {"a onnxruntime fp32 2": (10, 0), "a openvino fp32 2": (5, 0)}
    count = total_calls(stand_ins, model, images)
    kept: list[TuningReport] = []
    for number in [*range(0, 40, 3), count // 2, count - 2]:
        stand_ins.calls.clear()
        stand_ins.interrupted_in = number
        try:
            report = find_fastest([model], images, TuningOptions(seconds=20))
        except KeyboardInterrupt:
            assert not kept, "nothing was measured before, and something now"
            continue
        kept.append(report)
        assert report.partial
        assert report.choice is None
        assert any(row.rounds for row in report.rows)
        outcomes = {row.outcome for row in report.rows if row.rounds}
        assert outcomes == {Outcome.MEASURED}  # none of the two drops out
        assert "**partial**" in report.to_markdown()
        assert json.loads(report.to_json())["choice"] is None
        with pytest.raises(TuningError, match="interrupted"):
            report.keep()
    assert len(kept) > 5
    assert kept[-1].rows[0].rounds > search.HALVING_ROUNDS


def test_fixed_sizes(stand_ins: StandIns, model: Path, images: list[Image], tmp_path: Path) -> None:
    """A file of fixed size stands in only where that size is asked for."""
    other = tmp_path / "fixed.onnx"
    other.write_bytes(b"the other")
    stand_ins.exports["fixed"] = replace(EXPORT, size=(90, 130))
    stand_ins.facts |= {"fixed onnxruntime fp32 2": (5, 0), "a onnxruntime fp32 2": (9, 0)}
    report = find_fastest([model, other], images, TuningOptions(seconds=20))
    row = rows_of(report)["fixed.onnx onnxruntime fp32 2"]
    assert row.outcome is Outcome.NOT_OFFERED
    assert "tune with size=(90, 130)" in row.reason
    report = find_fastest([model, other], images, TuningOptions(seconds=20, size=(90, 130)))
    assert report.choice is not None
    assert report.choice.size == (90, 130)
    assert report.choice.file is not None


def test_what_openvino_compiles_for(stand_ins: StandIns, model: Path, images: list[Image]) -> None:
    """A choice that was measured for one size holds there only; the report says how to measure."""
    stand_ins.facts |= {"a openvino fp32 2": (5, 0), "a onnxruntime fp32 2": (9, 0)}
    report = find_fastest([model], images, TuningOptions(seconds=20))
    assert report.choice is not None
    assert report.choice.size is None
    assert "`alignseg tune MODEL --images DIR --size 90x130`" in report.to_markdown()
    report = find_fastest([model], images, TuningOptions(seconds=20, size=(90, 130)))
    assert report.choice is not None
    assert (report.choice.runtime, report.choice.size) == ("openvino", (90, 130))
    assert "compiles for this size" not in report.to_markdown()
    for faster, milliseconds in (("openvino bf16", 2), ("onnxruntime fp32", 1)):
        stand_ins.facts[f"a {faster} 2"] = (milliseconds, 0)
        report = find_fastest([model], images, TuningOptions(seconds=20, size=(90, 130)))
        assert report.choice is not None
        assert report.choice.runtime == faster.split()[0]
        assert report.choice.size is None


def file_of(**changes: Any) -> ModelFile:
    return ModelFile("b.onnx", "b", replace(SMALL_SPEC, export=replace(EXPORT, **changes)), "")


@pytest.mark.parametrize(
    ("changes", "size", "goal", "words"),
    [
        ({}, None, Goal.LATENCY, None),
        ({"precision": Precision.INT8}, None, Goal.LATENCY, None),
        ({"size": (64, 96)}, (64, 96), Goal.LATENCY, None),
        ({"size": (64, 96)}, None, Goal.LATENCY, "takes 64x96 only: tune with size=(64, 96)"),
        ({"size": (64, 96)}, (64, 64), Goal.LATENCY, "takes 64x96 only"),
        ({"batch": 4}, None, Goal.LATENCY, "takes 4 images per call"),
        ({"batch": 4}, None, Goal.THROUGHPUT, None),
        ({"batch": 1}, None, Goal.LATENCY, None),
        ({"output": OutputKind.LABELS}, None, Goal.LATENCY, "returns labels"),
    ],
)
def test_files_that_can_stand_in(
    changes: dict[str, Any], size: Size | None, goal: Goal, words: str | None
) -> None:
    said = why_unfit(file_of(**changes), file_of(), size, goal)
    assert (said is None) if words is None else (said and words in said)


def test_files_that_cannot_stand_in() -> None:
    classes = replace(SMALL_SPEC.classes, names=tuple(f"c{n}" for n in range(19)))
    other = replace(file_of().spec, classes=classes)
    said = why_unfit(ModelFile("b", "b", other, ""), file_of(), None, Goal.LATENCY)
    assert said == "it has other classes than b"
    black = replace(SMALL_SPEC.classes, colors=((0, 0, 0),) * 19)
    other = replace(file_of().spec, classes=black)
    said = why_unfit(ModelFile("b", "b", other, ""), file_of(), None, Goal.LATENCY)
    assert said == "its classes have other colours than those of b"
    said = why_unfit(file_of(), file_of(size=(64, 96)), None, Goal.LATENCY)
    assert said == "it takes any size, and b takes 64x96 only: give it first"


def test_candidates() -> None:
    """Bfloat16 is for FP32 files in OpenVINO, and a fixed batch stays as it is."""
    files = [file_of(), file_of(precision=Precision.INT8, batch=2)]
    found = list(list_candidates(files, [1, 4], [2, 1]))
    kinds = [(each.computes_in, each.runtime.value, each.threads, each.batch) for each in found]
    assert kinds[:8] == [
        *(("fp32", "onnxruntime", 2, batch) for batch in (1, 4)),
        *(("fp32", "openvino", 2, batch) for batch in (1, 4)),
        *(("bf16", "openvino", 2, batch) for batch in (1, 4)),
        *(("int8", runtime, 2, 2) for runtime in ("onnxruntime", "openvino")),
    ]
    assert len(kinds) == 16
    required = {each.computes_in: each.required_agreement for each in found}
    assert required == {"fp32": 0.999, "bf16": 0.995, "int8": 0.98}


def test_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, physical, expected in (
        (8, 4, [8, 4, 1]),
        (2, 2, [2, 1]),
        (1, 1, [1]),
        (2, 4, [2, 1]),
    ):
        monkeypatch.setattr(candidates_module, "thread_limit", lambda most=most: most)
        monkeypatch.setattr(candidates_module, "physical_cores", lambda count=physical: count)
        assert candidates_module.thread_counts() == expected


@pytest.mark.parametrize(
    ("share", "worst", "bound", "passes"),
    [
        (0.995, 0.99, 0.995, True),
        (0.9949, 0.99, 0.995, False),
        (0.999, 0.9899, 0.995, False),
        (1.0, 1.0, 1.0, True),
        (0.9999, 0.9999, 1.0, False),
    ],
)
def test_bounds(share: float, worst: float, bound: float, passes: bool) -> None:
    assert Agreement(share, worst).passes(bound) == passes


def test_agreement_counts_pixels(image: Image) -> None:
    """A small image counts for less in the share, and is the worst one."""
    predictor = Predictor(FakeBackend())
    small = image[:64, :64]
    results = predictor([image, small])
    labels = [results[0].labels, results[1].labels + 1]
    found = compare(results, labels)
    assert found == Agreement(90 * 130 / (90 * 130 + 64 * 64), 0.0)


def test_images_that_can_judge(image: Image) -> None:
    require_judging([image] * 4, "here")
    require_judging([image[:64, :64]] * 4, "here")
    with pytest.raises(DatasetError, match="here: 3 images"):
        require_judging([image] * 3, "here")
    with pytest.raises(DatasetError, match="the smallest image has 63x130"):
        require_judging([image, image, image, image[:63]], "here")


def test_labels_that_can_judge() -> None:
    """A model that says road everywhere must not pass."""
    labels = np.zeros((10, 100), np.uint8)
    labels[0, :30] = 1  # 97 % are of one class
    require_variety([labels], ["road", "sky"], 0.98)
    with pytest.raises(DatasetError, match=r"labels 97\.00% of all pixels as 'road'"):
        require_variety([labels], ["road", "sky"], 0.97)


def test_images_of_one_class(stand_ins: StandIns, model: Path, image: Image) -> None:
    stand_ins.facts |= {"a onnxruntime fp32 2": (10, 0)}
    with pytest.raises(DatasetError, match=r"labels 100\.00% of all pixels as 'sidewalk'"):
        find_fastest([model], [np.full_like(image, 1)] * 4, TuningOptions(seconds=20))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": Precision.INT8}, "a.onnx is in int8, and it was given first"),
        ({"batch": 4}, "a.onnx cannot be tuned for one image"),
    ],
)
def test_first_files_that_cannot_be_tuned(
    changes: dict[str, Any], words: str, stand_ins: StandIns, model: Path, images: list[Image]
) -> None:
    stand_ins.exports["a"] = replace(EXPORT, **changes)
    with pytest.raises(OptionError, match=words):
        find_fastest([model], images)


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"seconds": 0}, "seconds=0"),
    ({"seconds": float("nan")}, "seconds=nan"),
    ({"seconds": float("inf")}, "seconds=inf"),
    ({"goal": "energy"}, "goal='energy'"),
    ({"batch": 4}, "batch=4 was given with goal='latency'"),
    ({"batch": 1, "goal": "throughput"}, "batch=1"),
    ({"min_agreement": 0}, "min_agreement=0"),
    ({"min_agreement": 1.1}, "min_agreement=1.1"),
    ({"max_images": 0}, "0 images"),
    ({"size": (8, 8)}, "8x8"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_bad_options(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), Street(number).scene(size=(64, 96)).image)
    with pytest.raises(AlignSegError, match=words) as caught:
        alignseg_infer.tune("demo", tmp_path, **options)
    assert caught.value.fix


def test_bad_models_and_images(tmp_path: Path, model: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"x")
    bad: list[tuple[Any, Any, type[AlignSegError], str]] = [
        ([], None, OptionError, "the models are none"),
        (["demo", "demo"], None, OptionError, "the models are demo, demo"),
        (tmp_path / "a.pth", None, OptionError, "its ending says what runs it"),
        (tmp_path / "none.onnx", None, ModelError, "does not exist"),
        (model, None, ModelError, "a.onnx"),
        ("demo", tmp_path / "none", DatasetError, "does not exist"),
        (["demo", tmp_path / "none.onnx"], None, ModelError, "does not exist"),
    ]
    for models, images, error, words in bad:
        with pytest.raises(error, match=words):
            alignseg_infer.tune(models, images)


def test_unreadable_images(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="4 of 4 images"):
        alignseg_infer.tune("demo", tmp_path)


def test_lists_of_images(model: Path, image: Image, tmp_path: Path) -> None:
    """Paths and arrays, as Predictor takes them; of many, some are taken evenly."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image)
    first = ModelFile(model, "a", file_of().spec, "")
    listed: list[ImageSource] = [path, str(path), path.read_bytes(), image]
    what, found = inputs.find_images(listed, first, TuningOptions())
    assert what == "4 images in memory"
    assert len(found) == 4
    for each in found:
        np.testing.assert_array_equal(each, image)
    many = [np.full_like(image, number) for number in range(40)]
    what, found = inputs.find_images(many, first, TuningOptions(max_images=4))
    assert what == "4 of 40 images in memory"
    assert [int(each[0, 0, 0]) for each in found] == [5, 15, 25, 35]


def test_lists_that_cannot_be_used(image: Image, tmp_path: Path) -> None:
    bad: list[tuple[Any, type[AlignSegError], str]] = [
        (3, OptionError, "images= is int"),
        (image, OptionError, "images= is an array"),
        (b"x", OptionError, "images= is bytes"),
        ([tmp_path / "none.png"], ImageError, "none.png"),
        ([None] * 4, ImageError, "an image was given as None"),
        ([], DatasetError, "0 images"),
    ]
    for images, error, words in bad:
        with pytest.raises(error, match=words):
            alignseg_infer.tune("demo", images)


def test_images_have_to_be_named(stand_ins: StandIns, model: Path) -> None:
    with pytest.raises(OptionError, match="images= was not given") as caught:
        find_fastest([model])
    assert caught.value.fix == f"alignseg tune {model} --images DIR"


# The demo model, measured.


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    folder = tmp_path / "streets"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), Street(number).scene(size=(64, 128)).image)
    return folder


def test_command(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo is tuned in a few seconds; what was kept is obeyed."""
    out = tmp_path / "out"
    assert main(f"tune demo --images {streets} --seconds 8 -o {out}".split()) == 0
    printed, errors = capsys.readouterr()
    assert printed.startswith("# Tuning for latency\n")
    assert (out / "tuning.md").read_text() == printed
    facts = json.loads((out / "tuning.json").read_text())
    assert facts["input_sizes"] == [[64, 128]]
    assert facts["images"] == f"4 of 4 images of {streets}"
    rows = facts["candidates"]
    assert [row["outcome"] for row in rows].count("chosen") == 1
    assert rows[0]["agreement"] == {"share": 1.0, "worst": 1.0}
    measured = [row for row in rows[1:] if row["rounds"]]
    assert measured
    for row in measured:
        assert row["agreement"]["share"] >= row["required_agreement"]
        assert row["milliseconds"] > 0
        assert "onnxruntime" in row["backend"] or "openvino" in row["backend"]
    kept = re.search(r"kept, and obeyed with the runtime tuned: (.*\.json)", errors)
    assert kept is not None
    choice = facts["choice"]
    assert json.loads(Path(kept[1]).read_text()) == choice
    predictor = Predictor("demo", runtime="tuned")
    assert choice["runtime"] in predictor.backend
    image = read_image(streets / "0.png")
    expected = Predictor("demo")(image).labels
    assert np.mean(predictor(image).labels == expected) >= 0.99


def test_python(streets: Path) -> None:
    counted: set[str] = set()
    report = alignseg_infer.tune(
        "demo",
        [read_image(path) for path in sorted(streets.iterdir())],
        seconds=5,
        progress=lambda what, done, total: counted.add(what),
    )
    assert (
        {"candidates"} <= counted <= {"candidates", "rounds"}
    )  # a slow CPU has no time for rounds
    assert report.images == "4 images in memory"
    assert report.keep().is_file()


class InterruptedLater:
    """Makes predictors, the `number`-th of which is interrupted in its third call."""

    def __init__(self, number: int) -> None:
        self._left = itertools.count(-number + 1)

    def __call__(self, *arguments: Any, **options: Any) -> Predictor:
        interrupts = next(self._left) == 0

        class Interrupting(Predictor):
            calls = 0

            def __call__(self, image: Any, **more: Any) -> Any:
                self.calls += 1
                if interrupts and self.calls == 3:
                    raise KeyboardInterrupt
                return super().__call__(image, **more)

        return Interrupting(*arguments, **options)


@pytest.mark.parametrize(("number", "measured"), [(2, False), (3, True)])
def test_ctrl_c_in_the_command(
    number: int,
    measured: bool,
    streets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_cache: Path,
) -> None:
    """The first predictor is the reference; the first candidate is interrupted, or the second."""
    monkeypatch.setattr(search, "Predictor", InterruptedLater(number))
    command = f"tune demo --images {streets} --seconds 60 -o {tmp_path / 'out'}"
    assert main(command.split()) == 130
    printed, errors = capsys.readouterr()
    assert "interrupted" in errors
    assert printed.startswith("# Tuning for latency: **partial**") == measured
    assert (tmp_path / "out" / "tuning.md").exists() == measured
    assert not (own_cache / caches.CHOICES).exists()


@pytest.mark.slow
def test_a_choice_that_cannot_be_kept(
    streets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was measured is printed and written before."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALIGNSEG_CACHE", str(tmp_path / "file"))
    out = tmp_path / "out"
    assert main(f"tune demo --images {streets} --seconds 3 -o {out}".split()) == 1
    printed, errors = capsys.readouterr()
    assert printed.startswith("# Tuning for latency\n")
    assert (out / "tuning.json").exists()
    assert "error: the choice for demo can be kept neither" in errors
    monkeypatch.setenv(
        *errors.split("try: export ")[1].strip().replace("FOLDER", "there").split("=")
    )
    monkeypatch.chdir(tmp_path)
    assert main(f"tune demo --images {streets} --seconds 3".split()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("demo --batch 4", "--batch 4 was given with --for latency"),
        ("demo --seconds 0", "--seconds 0"),
        ("demo --max-images 3", "3 images"),
        ("demo --for throughput --batch 9", "--batch 9, with 8 images"),
        ("demo --size 32x64", "the smallest image has 32x64 pixels"),
        ("demo --min-agreement 2", "--min-agreement 2"),
        ("demo -o file", "cannot write into"),
        ("demo demo", "the models are demo, demo"),
        ("none.onnx", "none.onnx does not exist"),
    ],
)
def test_bad_command(
    options: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert main(["tune", *options.split()]) == 1
    printed, errors = capsys.readouterr()
    assert not printed
    assert message in errors
    assert "  expected: " in errors
    assert "  try: " in errors


@pytest.mark.parametrize("package", ["psutil", "cpuinfo", "pynvml"])
def test_package_that_is_missing(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["tune", "demo"]) == 1
    assert f"needs the package {package}, which is not installed" in capsys.readouterr().err
