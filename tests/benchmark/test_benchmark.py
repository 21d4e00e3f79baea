"""The benchmark: its statistics compared with hand-made ones, its order, and the command."""

import gc
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer import AlignSegError, OptionError, Predictor, SizeError
from alignseg_infer.arrays import Image
from alignseg_infer.backend import Backend
from alignseg_infer.backends.opening import PredictorOptions, open_model
from alignseg_infer.benchmark import (
    BenchmarkReport,
    Measured,
    Stage,
    Variant,
    benchmark,
    interleave,
    measure,
)
from alignseg_infer.benchmark.footprint import Footprint, measure_footprint
from alignseg_infer.benchmark.machine import GpuState, Machine
from alignseg_infer.benchmark.picture import benchmark_figure
from alignseg_infer.benchmark.report import PARTS, WarmUp, paired_ratio
from alignseg_infer.cli import main
from alignseg_infer.cli.commands import bench
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.drawing.figures import pixels_of
from alignseg_infer.errors import INSTALL_BENCH
from alignseg_infer.spec.model import ExportSpec, OutputKind, Sampler
from tests.support.models import FakeBackend, FakeLabelBackend

MACHINE = Machine(
    cpu="Some CPU",
    cores=2,
    flags=("avx2",),
    system="Linux",
    python="3.11",
    versions={"numpy": "2"},
    date="2026-01-01T00:00:00+00:00",
    load=0.1,
    others=0.01,
    gpus=(),
)


class Slow(FakeBackend):
    """Takes a given time for each call, in seconds of `Clock`."""

    def __init__(self, clock: "Clock", seconds: Sequence[float]) -> None:
        super().__init__()
        self._clock, self._seconds = clock, list(seconds)

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        index = min(len(self.batches), len(self._seconds) - 1)
        self._clock.now += self._seconds[index]
        return super().infer(batch)


class Interrupted(FakeBackend):
    """Raises KeyboardInterrupt in the given call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self._call = call

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        if len(self.batches) == self._call:
            raise KeyboardInterrupt
        return super().infer(batch)


class Clock:
    """A clock that stands still unless it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "come_to_rest", lambda: None)


def measured(
    name: str, times: Sequence[float], batch: int = 1, parts: Sequence[float] = (1, 2, 3, 4)
) -> Measured:
    calls = np.array([[*parts, time] for time in times], np.float64)
    return Measured(name, batch, "fake", (64, 128), calls)


def report(*variants: Measured, **facts: Any) -> BenchmarkReport:
    defaults = {"machine": MACHINE, "images": 4, "warm_up": WarmUp(3, True), "partial": False}
    return BenchmarkReport(variants, **{**defaults, **facts})


def test_quantiles_by_hand() -> None:
    hundred = measured("a", range(1, 101))
    assert hundred.quantile(0.0) == 1
    assert hundred.quantile(0.5) == 50.5
    assert hundred.quantile(0.9) == pytest.approx(90.1)
    assert hundred.quantile(0.99) == pytest.approx(99.01)
    assert hundred.quantile(0.5, Stage.INFER) == 3
    assert hundred.images_per_second == pytest.approx(1e3 / 50.5)


@pytest.mark.parametrize(
    ("calls", "share", "known"),
    [(99, 0.99, False), (100, 0.99, True), (9, 0.9, False), (10, 0.9, True), (1, 0.5, True)],
)
def test_quantiles_that_too_few_calls_cannot_tell(calls: int, share: float, known: bool) -> None:
    assert (measured("a", range(1, calls + 1)).quantile(share) is not None) == known


def test_ratio_is_paired() -> None:
    """Rounds differ by a factor of 8, and variants by a factor of 2 in all rounds but one."""
    reference = np.array([1.0, 2, 4, 8, 1, 2, 4, 8, 1])
    times = 2 * reference
    times[0] = 5
    ratio = paired_ratio(times, reference)
    assert (ratio.median, ratio.quartiles) == (2, (2, 2))
    assert ratio.interval == (2, 2)
    assert str(ratio) == "2.000 (2.000-2.000; 2.000-2.000)"
    assert paired_ratio(times[:4], reference[:4]).interval is None


def test_interval_of_the_ratio() -> None:
    rng = np.random.default_rng(1)
    times = 3 * rng.lognormal(0, 0.1, 200)
    ratio = paired_ratio(times, np.ones(200))
    assert ratio == paired_ratio(times, np.ones(200))
    assert ratio.interval is not None
    low, high = ratio.interval
    # The median of 200 has a standard error of 1.2533 * 0.3 / sqrt(200) = 0.0266.
    assert 0.06 < high - low < 0.17
    assert ratio.quartiles[0] < low < ratio.median < high < ratio.quartiles[1]


def test_every_round_calls_each_once_in_an_order_of_its_own() -> None:
    called: list[int] = []
    turns = interleave([lambda n=n: called.append(n) or -n for n in range(4)])  # type: ignore[misc,func-returns-value]
    rounds = [next(turns) for _ in range(12)]
    assert rounds == [[0, -1, -2, -3]] * 12
    orders = [tuple(called[start : start + 4]) for start in range(0, 48, 4)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(orders)) > 6
    assert {order[0] for order in orders} == {0, 1, 2, 3}


def test_times_per_image(clock: Clock, image: Image) -> None:
    """A call of two images takes 10 s, which is 5 s each; warm-up ends in the third round."""
    backend = Slow(clock, [30, 10])
    found = benchmark([Variant("a", Predictor(backend, batch=2))], [image], rounds=6)
    (one,) = found.measured
    np.testing.assert_array_equal(one.of(Stage.INFER), [5e3] * 6)
    np.testing.assert_array_equal(one.of(Stage.END_TO_END), [5e3] * 6)
    np.testing.assert_array_equal(one.of(Stage.DECODE), [0] * 6)
    assert found.warm_up == WarmUp(3, settled=True)
    assert [shape[0] for shape in backend.batches] == [2] * 9
    assert (one.batch, one.backend, one.input_size) == (2, "fake", (90, 130))
    assert (found.rounds, found.images, found.partial) == (6, 1, False)


@pytest.mark.parametrize(("seconds", "rounds"), [(1, 2), (90, 5), (900, 10), (None, 10)])
def test_time_limit_of_warm_up(
    seconds: float | None, rounds: int, clock: Clock, image: Image
) -> None:
    """The calls take 10, 8, 6.4, ... s and do not settle; the first five take 33.6 s."""
    backend = Slow(clock, [10 * 0.8**number for number in range(20)])
    found = benchmark([Variant("a", Predictor(backend))], [image], rounds=1, seconds=seconds)
    assert found.warm_up == WarmUp(rounds, settled=False)


class Watched(Predictor):
    """Calls `seen` with the images of each call before it segments them."""

    def __init__(
        self, backend: Backend, seen: Callable[[list[Image]], None], batch: int = 1
    ) -> None:
        super().__init__(backend, batch=batch)
        self._seen = seen

    def __call__(self, image: Any, **options: Any) -> Any:
        self._seen(image)
        return super().__call__(image, **options)


def test_end_to_end_is_more_than_the_stages(clock: Clock, image: Image) -> None:
    def slowly(_: list[Image]) -> None:
        clock.now += 0.5

    predictor = Watched(Slow(clock, [1]), slowly)
    (one,) = benchmark([Variant("a", predictor)], [image], rounds=1).measured
    assert (one.quantile(0.5, Stage.INFER), one.quantile(0.5)) == (1e3, 1.5e3)


@pytest.mark.parametrize(
    ("seconds", "most", "rounds", "settled"),
    [
        ([1], 10, 3, True),
        ([9, 5, 1, 1], 10, 4, True),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1.5, 1], 10, 10, False),
        ([1, 1, 3, 1, 1], 10, 5, True),
        ([1], 2, 2, False),
        ([1], 0, 0, False),
    ],
)
def test_warm_up_is_not_counted(
    seconds: list[float], most: int, rounds: int, settled: bool, clock: Clock, image: Image
) -> None:
    backend = Slow(clock, seconds)
    variants = [Variant("a", Predictor(backend)), Variant("b", Predictor(Slow(clock, [1])))]
    found = benchmark(variants, [image], rounds=2, warm_up=most)
    assert found.warm_up == WarmUp(rounds, settled)
    assert len(backend.batches) == rounds + 2
    assert len(found.measured[0].calls) == 2
    assert ("**not steady by then**" in found.to_markdown()) != settled


@pytest.mark.parametrize(
    ("rounds", "seconds", "expected"), [(20, 70, 7), (6, 70, 6), (20, 1, 5), (3, 1, 3)]
)
def test_time_limit(rounds: int, seconds: float, expected: int, clock: Clock, image: Image) -> None:
    seen: list[tuple[int, int]] = []
    found = benchmark(
        [Variant("a", Predictor(Slow(clock, [10])))],
        [image],
        rounds=rounds,
        seconds=seconds,
        progress=lambda *count: seen.append(count),
    )
    assert found.rounds == expected
    assert seen == [(done, expected) for done in range(1, expected + 1)]


def test_threads_rest_before_each_call(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(measure, "come_to_rest", lambda: events.append("rest"))
    predictor = Watched(FakeBackend(), lambda _: events.append("call"))
    benchmark([Variant("a", predictor)], [image], rounds=2, warm_up=1)
    assert events == ["rest", "call"] * 3


def test_each_call_takes_the_next_images(image: Image) -> None:
    """All variants start with the same image in each round."""
    images = [np.full_like(image, value) for value in range(3)]
    seen: dict[int, list[list[int]]] = {1: [], 2: []}

    def watch(chunk: list[Image]) -> None:
        seen[len(chunk)].append([int(one[0, 0, 0]) for one in chunk])

    variants = [Variant("a", Watched(FakeBackend(), watch, batch)) for batch in (1, 2)]
    benchmark(variants, images, rounds=4, warm_up=0)
    assert seen == {1: [[0], [1], [2], [0]], 2: [[0, 1], [1, 2], [2, 0], [0, 1]]}


def test_interrupt_keeps_whole_rounds(image: Image) -> None:
    """After two rounds of warm-up, `b` is interrupted in the fourth round that counts."""
    variants = [
        Variant("a", Predictor(FakeBackend())),
        Variant("b", Predictor(Interrupted(5))),
    ]
    found = benchmark(variants, [image], rounds=50, warm_up=2)
    assert (found.partial, found.rounds) == (True, 3)
    assert [len(one.calls) for one in found.measured] == [3, 3]
    assert found.to_markdown().startswith("# Benchmark: **partial:** 3 rounds")
    assert json.loads(found.to_json())["partial"]


@pytest.mark.parametrize("call", [0, 2])
def test_interrupt_before_the_end_of_the_first_round(call: int, image: Image) -> None:
    with pytest.raises(KeyboardInterrupt):
        benchmark([Variant("a", Predictor(Interrupted(call)))], [image], warm_up=2)


def test_garbage_is_not_collected_while_measuring(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    class Watching(FakeBackend):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            seen.append(gc.isenabled())
            return super().infer(batch)

    assert gc.isenabled()
    benchmark([Variant("a", Predictor(Watching()))], [image], rounds=2)
    assert not any(seen)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 0},
        {"warm_up": -1},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"variants": []},
        {"images": []},
        {"variants": [Variant("a", Predictor(FakeBackend())) for _ in range(2)]},
    ],
)
def test_bad_options(options: dict[str, Any], image: Image) -> None:
    defaults = {"variants": [Variant("a", Predictor(FakeBackend()))], "images": [image]}
    with pytest.raises(OptionError):
        benchmark(**{**defaults, **options})


def test_rest_ends_when_the_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest ends after two slices of work, or at its limit if the work never ends."""
    monkeypatch.undo()
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    for works, slices in ((2, 3), (10**6, 25)):
        slept.clear()
        monkeypatch.setattr("time.process_time", lambda works=works: 0.02 * min(len(slept), works))
        measure.come_to_rest()
        assert slept == [measure.REST_SLICE] * slices


def test_json() -> None:
    footprint = Footprint(100.0, 20.0, 50.0, 200.5)
    found = report(measured("a", [10, 20, 30]), measured("a", [5, 10, 15], batch=4))
    facts = json.loads(found.with_footprint(1, footprint).to_json())
    first, second = facts["measured"]
    assert first["milliseconds"]["end to end"] == {
        "min": 10,
        "median": 20,
        "p90": None,
        "p99": None,
    }
    assert second["milliseconds"]["preprocess"]["median"] == 2
    assert second["calls"]["end to end"] == [5, 10, 15]
    assert (first["ratio_to_first"], second["ratio_to_first"]["median"]) == (None, 0.5)
    assert (first["footprint"], second["footprint"]["peak_mb"]) == (None, 200.5)
    assert facts["machine"]["cpu"] == "Some CPU"
    assert facts["warm_up"] == {"rounds": 3, "settled": True}


def rows(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_markdown_has_a_row_for_each_variant() -> None:
    found = report(
        measured("a", [10.0] * 10),
        measured("a", [20.0] * 10, batch=4),
        measured("b", [150.0] * 10),
        settings={"images": "4 streets", "size": None},
    ).with_footprint(0, Footprint(1234.0, 20.0, 50.0, 200.4))
    text = found.to_markdown()
    header, _, *lines = rows(text)
    table = [dict(zip(header, line, strict=True)) for line in lines]
    assert [(row["model"], row["batch"]) for row in table] == [("a", "1"), ("a", "4"), ("b", "1")]
    assert [row["end to end ms"] for row in table] == ["10.0", "20.0", "150"]
    assert [row["time / a, batch 1"] for row in table] == [
        "1",
        "2.000 (2.000-2.000; 2.000-2.000)",
        "15.000 (15.000-15.000; 15.000-15.000)",
    ]
    assert (table[0]["peak MB"], table[0]["load s"], table[1]["peak MB"]) == ("200", "1.23", "-")
    assert {row["p99"] for row in table} == {"-"}
    assert table[0]["p90"] == "10.0"
    assert table[0]["images/s"] == "100"
    assert "\nimages: 4 streets.\n" in text
    assert "-: a p99 needs 100 rounds." in text
    assert "Other work was running" not in text


def test_one_variant_has_no_ratio() -> None:
    text = report(measured("a", [10.0] * 100)).to_markdown()
    assert "time /" not in text
    assert "Ratios" not in text
    assert "needs 100" not in text


@pytest.mark.parametrize(
    ("load", "others", "reason"),
    [
        (0.1, 0.01, None),
        (3.0, 0.01, None),  # it was our own
        (0.1, 0.4, "other processes took 40%"),
        (3.0, None, "the load average was 3.0 at the start, on 2 cores"),
        (0.4, None, None),
        (None, None, None),
    ],
)
def test_other_work_is_told(load: float | None, others: float | None, reason: str | None) -> None:
    busy = replace(MACHINE, load=load, others=others)
    found = report(measured("a", [10.0]), machine=busy).to_markdown()
    assert (busy.busy or "").startswith(reason or "")
    assert (reason is None) == (busy.busy is None)
    assert ("**Other work was running:**" in found) == (reason is not None)


def test_gpu_is_in_the_report() -> None:
    gpu = GpuState("X", "570", "9.0", "P0", 1980, 1980, 2619, 1543, 81559)
    text = report(measured("a", [1.0]), machine=replace(MACHINE, gpus=(gpu,))).to_markdown()
    assert f"GPU after the last round: {gpu}." in text


def test_picture_shows_each_variant() -> None:
    parts = [(10, 5, 80, 5), (1, 1, 1, 97)]
    variants = [
        measured(name, [sum(part)] * 12, parts=part)
        for name, part in zip(("a", "b"), parts, strict=True)
    ]
    figure = benchmark_figure(report(*variants))
    times, shares = figure.axes
    assert [label.get_text() for label in times.get_yticklabels()] == ["a", "b"]
    (medians,) = times.lines
    np.testing.assert_array_equal(medians.get_xdata(), [100, 100])
    for stage, bars, *expected in zip(PARTS, shares.containers, *parts, strict=True):
        assert bars.get_label() == stage
        assert [bar.get_width() for bar in bars] == pytest.approx(expected)
    texts = [text.get_text() for text in times.texts]
    assert texts == ["100 ms, 10/s"] * 2


def test_picture_of_many_rows_is_higher() -> None:
    one, six = (
        pixels_of(benchmark_figure(report(*(measured(str(n), [1.0]) for n in range(count)))))
        for count in (1, 6)
    )
    assert six.shape[0] > 1.5 * one.shape[0]
    assert six.shape[1] == one.shape[1]


@pytest.mark.parametrize("times", [[0.001], [1.0] * 100, [1e6, 1e6 + 1], [3, 3, 4, 40]])
@pytest.mark.parametrize("name", ["a", "a" * 99, "a-long-name-" * 9])
def test_picture_of_any_times(times: list[float], name: str) -> None:
    """Nothing is cut at the borders, and there are ticks to read."""
    busy = replace(MACHINE, others=0.5, cpu="A CPU " * 30)
    figure = benchmark_figure(report(measured(name, times), measured("b", [7.0]), machine=busy))
    picture = pixels_of(figure)
    assert picture.dtype == np.uint8
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (border == 255).all()
    low, high = figure.axes[0].get_xlim()
    assert sum(low <= tick <= high for tick in figure.axes[0].get_xticks()) >= 2


def test_footprint(tmp_path: Path, image: Image) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), image)
    found = measure_footprint("demo", [tmp_path / "a.png"] * 2, {"size": (64, 96), "batch": 2})
    assert found is not None
    assert 20 < found.base_mb < found.peak_mb < 2000
    assert found.load_ms > 1
    assert found.first_call_ms > 0


def test_files_in_the_working_directory_are_not_imported(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not this one')")
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    monkeypatch.chdir(tmp_path)
    assert measure_footprint("demo", ["a.png"], {}) is not None


def test_footprint_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert measure_footprint(tmp_path / "none.onnx", [], {}) is None
    assert "could not be measured" in caplog.text


@pytest.fixture
def other_onnx(tmp_path: Path) -> Path:
    path = tmp_path / "other.onnx"
    path.write_bytes(model_path("demo").read_bytes())
    return path


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``fixed.onnx`` name a model that takes two images of 64x96."""
    export = ExportSpec(
        output=OutputKind.LABELS,
        sampler=Sampler.NATIVE,
        opset=18,
        rewrites=True,
        size=(64, 96),
        batch=2,
        exporter="test",
    )

    def opened(path: Path, options: PredictorOptions) -> Backend:
        fixed = str(path) == "fixed.onnx"
        return FakeLabelBackend(export) if fixed else open_model(path, options)

    monkeypatch.setattr(bench, "open_model", opened)


@pytest.fixture
def no_footprints(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace footprints, which take a second each; one test measures real ones."""
    asked: list[dict[str, Any]] = []

    def footprint(model: Path, images: list[Path], options: dict[str, Any]) -> Footprint:
        asked.append({"model": model, "images": len(images), **options})
        return Footprint(1.0, 2.0, 3.0, 4.0)

    monkeypatch.setattr(bench, "measure_footprint", footprint)
    return asked


def test_command(
    other_onnx: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_footprints: list[dict[str, Any]],
) -> None:
    out = tmp_path / "out"
    options = ["-o", str(out), "--size", "64x128", "--max-images", "2"]
    options += ["--batch", "1", "2", "--rounds", "3", "--threads", "1"]
    assert main(["bench", "demo", str(other_onnx), *options]) == 0
    printed, errors = capsys.readouterr()
    assert printed == (out / "benchmark.md").read_text()
    assert f"{out / 'benchmark.png'}\n" in errors
    header, _, *lines = rows(printed)
    table = [dict(zip(header, line, strict=True)) for line in lines]
    names = [(row["model"], row["batch"]) for row in table]
    assert names == [(name, batch) for name in ("demo", "other.onnx") for batch in "12"]
    assert {row["input"] for row in table} == {"64x128"}
    assert {row["peak MB"] for row in table} == {"4"}
    facts = json.loads((out / "benchmark.json").read_text())
    assert facts["settings"]["images"] == "2 drawn streets of 64x128, PNG"
    assert (facts["settings"]["threads"], facts["settings"]["size"]) == (1, "64x128")
    assert facts["rounds"] == 3
    assert facts["measured"][0]["milliseconds"]["decode"]["min"] > 0
    assert "onnxruntime" in facts["machine"]["versions"]
    picture = cv2.imread(str(out / "benchmark.png"))
    assert picture is not None
    asked = [(one["images"], one["batch"], one["size"]) for one in no_footprints]
    assert asked == [(1, 1, (64, 128)), (2, 2, (64, 128))] * 2


def test_two_runtimes(
    capsys: pytest.CaptureFixture[str], no_footprints: list[dict[str, Any]]
) -> None:
    command = "bench demo demo@openvino --size 64x128 --rounds 1 --max-images 1"
    assert main(command.split()) == 0
    header, _, *lines = rows(capsys.readouterr().out)
    table = [dict(zip(header, line, strict=True)) for line in lines]
    assert [row["model"] for row in table] == ["demo", "demo@openvino"]
    assert ["openvino" in row["on"] for row in table] == [False, True]
    assert [one["runtime"] for one in no_footprints] == [None, "openvino"]
    assert {str(one["model"]) for one in no_footprints} == {"demo"}


def test_command_with_images_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command works with a sliding window."""
    cv2.imwrite(str(tmp_path / "a.png"), Street(0).scene(size=(96, 128)).image)
    options = f"--images {tmp_path} --mode slide --tile 64x96 --rounds 1".split()
    assert main(["bench", "demo", *options]) == 0
    printed = capsys.readouterr().out
    header, _, row = rows(printed)
    found = dict(zip(header, row, strict=True))
    assert found["input"] == "64x96"
    assert float(found["peak MB"]) > 20
    assert f"images: 1 of 1 images of {tmp_path}; " in printed
    assert "mode: slide; tile: 64x96" in printed


def test_command_with_a_video(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_footprints: list[dict[str, Any]],
) -> None:
    path = str(tmp_path / "a.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
    rng = np.random.default_rng(0)
    for _ in range(5):
        writer.write(rng.integers(0, 256, (64, 96, 3), np.uint8))
    writer.release()
    assert main(["bench", "demo", "--images", path, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"images: 4 of 5 frames of {path}, as PNG" in printed
    assert rows(printed)[2][1] == "64x96"


@pytest.mark.parametrize(
    ("package", "options"), [("matplotlib", "-o out"), ("psutil", ""), ("pynvml", "-o out")]
)
def test_package_that_is_missing(
    package: str,
    options: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command says so before a model is opened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(bench, "open_model", None)
    assert main(["bench", "demo", *options.split()]) == 1
    errors = capsys.readouterr().err
    assert f"needs the package {package}, which is not installed" in errors
    assert f"try: {INSTALL_BENCH}" in errors
    assert not (tmp_path / "out").exists()


def test_table_alone_needs_no_charts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_footprints: list[dict[str, Any]],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "demo", "--size", "64x128", "--rounds", "1"]) == 0
    assert "# Benchmark: 1 rounds" in capsys.readouterr().out


def test_interrupted_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Warm-up takes at most ten rounds."""
    monkeypatch.setattr(bench, "open_model", lambda *_, **__: Interrupted(12))
    command = ["bench", "demo", "--size", "64x128", "-o", str(tmp_path)]
    assert main(command) == 130
    printed, errors = capsys.readouterr()
    assert re.search(r"interrupted after \d rounds", errors)
    assert printed.startswith("# Benchmark: **partial:** ")
    assert (tmp_path / "benchmark.md").read_text() == printed


def test_interrupt_while_memory_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure_footprint", interrupted)
    assert main(["bench", "demo", "--size", "64x128", "--rounds", "2"]) == 130
    assert "**partial:** 2 rounds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("none.onnx", "none.onnx does not exist"),
        ("model.tflite", "which no backend reads"),
        ("demo demo", "a model is given twice"),
        ("demo@tensorflow", "'tensorflow' is not a runtime"),
        ("demo --batch 1 1", "--batch 1 1"),
        ("demo --batch 0", "--batch 0"),
        ("demo --rounds 0", "--rounds 0"),
        ("demo --seconds -1", "--seconds -1.0"),
        ("demo --threads 0", "--threads 0"),
        ("demo --device tpu", "--device tpu"),
        ("demo --device cpu --on-device", "--on-device"),
        ("demo --images none", "none does not exist"),
        ("demo --max-images 0", "--max-images 0"),
        ("demo --max-images -3", "--max-images -3"),
        ("demo --size 8x8", "8x8"),
        ("demo --size 16", "16"),
        ("demo -o file", "cannot write into"),
        ("fixed.onnx --batch 1 3", "--batch 1 was given, but fixed.onnx was exported for 2"),
        ("fixed.onnx --batch 2 --size 96x96", "--size 96x96"),
    ],
)
def test_bad_command(
    options: str,
    message: str,
    fixed: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_footprints: list[dict[str, Any]],
) -> None:
    """The error comes before anything is measured."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("model.tflite").write_text("x")
    monkeypatch.setattr(bench, "benchmark", measured_only_if_options_are_bad)
    assert main(["bench", *options.split()]) == 1
    printed, errors = capsys.readouterr()
    assert not printed
    assert message in errors
    assert "  expected: " in errors
    assert "  try: " in errors


def measured_only_if_options_are_bad(*arguments: Any, **options: Any) -> BenchmarkReport:
    with pytest.raises(AlignSegError) as caught:
        benchmark(*arguments, **options)
    raise caught.value


def test_small_image_fails_at_once() -> None:
    backend = FakeBackend()
    with pytest.raises(SizeError):
        benchmark([Variant("a", Predictor(backend))], [np.zeros((8, 8, 3), np.uint8)])
    assert not backend.batches


def test_streets_have_the_size_of_a_fixed_model(
    fixed: None, capsys: pytest.CaptureFixture[str], no_footprints: list[dict[str, Any]]
) -> None:
    assert main(["bench", "fixed.onnx", "--batch", "2", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "4 drawn streets of 64x96" in printed
    assert rows(printed)[2][1:3] == ["64x96", "2"]


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "demo", "--batch", "one"])
    assert caught.value.code == 2
    assert "invalid int value: 'one'" in capsys.readouterr().err
