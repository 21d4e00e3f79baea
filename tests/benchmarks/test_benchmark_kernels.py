"""A dry run of the GPU benchmark on the CPU, with small sizes and a clock that is set."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignseg_infer.cuda.plans import Launch
from tests.benchmarks import kernels as benchmark_kernels
from tests.benchmarks.gpu_sampling_tables import add_table, sample_table
from tests.benchmarks.gpu_timing import (
    COPY,
    Rig,
    Row,
    Sizes,
    Table,
    Work,
    copy_row,
    report,
    run_once,
)
from tests.benchmarks.kernels import CHOICES, TABLES, benchmark, parser, pick_rows
from tests.support.host_entries import ENTRIES, run_kernel
from tests.support.models import SMALL

TINY = Sizes(
    levels=(((5, 9), (9, 17)), ((3, 5), (5, 9)), ((2, 3), (3, 5)), ((2, 3), (2, 3))),
    context=((3, 3), (3, 5)),
    channels=8,
    classes=19,
    images=(((64, 128), (17, 33)), ((32, 64), (9, 17))),
    network=SMALL,
    bytes_per_graph=1e4,
    calls=3,
    network_calls=1,
)
CPU = torch.device("cpu")


@dataclass
class Told:
    """What the stubs were asked to do.

    Attributes:
        clocked: How often each captured work was timed.
        launched: Kernels, by their names.
        watched: What a profiler would have seen.
    """

    clocked: dict[Work, int] = field(default_factory=dict)
    launched: set[str] = field(default_factory=set)
    watched: list[str] = field(default_factory=list)


def dry_rig(told: Told, clock: Callable[[Work], float] | None = None) -> Rig:
    """Make a rig that runs each captured work once, and our launches on the CPU."""

    def captured(work: Work) -> Work:
        work()
        return lambda: None

    def counted(work: Work) -> float:
        told.clocked[work] = told.clocked.get(work, 0) + 1
        return 600.0

    def launch(launch: Launch) -> None:
        told.launched.add(launch.kernel)
        run_kernel(launch.kernel, launch.params, launch.blocks, launch.threads)

    @contextlib.contextmanager
    def watched(name: str) -> Iterator[None]:
        told.watched.append(name)
        yield

    return Rig(
        device=CPU,
        sizes=TINY,
        rounds=4,
        warm_seconds=0.0,
        capture=captured,
        clock=clock or counted,
        launch=launch,
        compiled=lambda function: function,
        watched=watched,
        state=lambda: "Clocks stand still.",
        release=lambda: None,
        resources=lambda source, name, threads: (40, 0, 1024, 5),
    )


def run(rig: Rig, *options: str) -> int:
    return benchmark(rig, parser().parse_args(options), "a machine")


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the cells of each row, by its first cell."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_runs_and_is_right(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "kernels.md"
    assert run(dry_rig(Told()), "--tables", name, "-o", str(output)) == 0, capsys.readouterr().out
    text = output.read_text(encoding="utf-8")
    assert text == capsys.readouterr().out.replace("\n\n\n", "\n\n").rstrip("\n") + "\n"
    tables = list(TABLES[name](dry_rig(Told())))
    assert text.count("Clocks stand still.") == len(tables)
    for table, shown in zip(tables, text.split("\n\n| ")[1:], strict=True):
        assert table.base in [row.name for row in table.rows]
        assert list(rows_of("| " + shown)) == [table.title, *(row.name for row in table.rows)]
        assert len({row.name for row in table.rows}) == len(table.rows)


def test_every_kernel_around_the_network_is_launched() -> None:
    told = Told()
    run(dry_rig(told), "--tables", "labels,inputs")
    kinds = {"upsample_argmax_half_uint8", "upsample_argmax_half_int32"}
    kinds |= {"upsample_argmax_float_uint8", "upsample_argmax_confidence_half_uint8"}
    assert told.launched == kinds | {"preprocess_float", "preprocess_half"}


def test_resources_are_of_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dry_rig(Told()), "--tables", "resources") == 0
    rows = rows_of(capsys.readouterr().out)
    names = [name for _, names, _ in ENTRIES.values() for name in names]
    assert list(rows)[1:] == names
    assert rows["preprocess_half"] == ["40", "0", "1024", "5", str(5 * 256)]


def test_resources_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(source: str, name: str, threads: int) -> tuple[int, ...]:
        if name == "preprocess_half":
            raise RuntimeError("no such function")
        return (1, 2, 3, 4)

    assert run(replace(dry_rig(Told()), resources=fails), "--tables", "resources") == 1
    rows = rows_of(capsys.readouterr().out)
    assert rows["preprocess_half"][0] == "FAILED RuntimeError: no such function"
    assert rows["preprocess_float"][0] == "1"


def ones(number: int) -> tuple[Tensor, ...]:
    return (torch.full((4,), float(number + 1)),)


def simple(name: str, call: Callable[..., Any] = torch.clone, **facts: Any) -> Row:
    return Row(name=name, make=ones, call=call, **{"needed": 6000, **facts})


def raises(*tensors: Tensor) -> Tensor:
    raise RuntimeError("an | illegal\naddress")


def test_figures_come_from_the_clock() -> None:
    """Times are per call, bandwidth is bytes over time, and ratios are paired."""
    said = {"fast": itertools.cycle([30.0, 60.0]), "slow": itertools.cycle([120.0, 180.0])}
    names = iter(said)
    works: dict[Work, str] = {}

    def capture(work: Work) -> Work:
        work()
        replay: Work = lambda: None  # noqa: E731
        works[replay] = next(names)
        return replay

    rig = dry_rig(Told(), lambda work: next(said[works[work]]))
    table = Table(title="t", rows=[simple("fast"), simple("slow")], base="slow")
    text, right = report(replace(rig, capture=capture), table)
    assert right
    # Two sets of 6000 bytes are enough for 1e4; at least three calls means four.
    fast = ["11.25", "7.50", "0.0", "1", "-", "3.50 (3.00-4.00)", "-"]
    assert rows_of(text)["fast"] == fast
    assert rows_of(text)["slow"][:2] == ["37.50", "30.00"]
    assert rows_of(text)["slow"][-2] == "1.00 (1.00-1.00)"


def test_bandwidth_is_that_of_the_copy() -> None:
    rig = dry_rig(Told())  # the calls of every row take 600 us
    table = Table(title="t", rows=[copy_row(rig, 6000), simple("half", needed=3000)], base=COPY)
    rows = rows_of(report(rig, table)[0])
    assert rows[COPY][4] == "100% (100%-100%)"
    # Four sets of 3000 bytes are needed, so both make four calls: half the bytes in the same time.
    assert rows["half"][4] == "50% (50%-50%)"


def test_one_failure_costs_one_row() -> None:
    rows = [simple("good"), simple("bad", raises), simple("also good")]
    text, right = report(dry_rig(Told()), Table(title="t", rows=rows, base="bad"))
    assert not right
    assert rows_of(text)["bad"][0] == "FAILED RuntimeError: an / illegal address"
    assert rows_of(text)["good"][0] == rows_of(text)["also good"][0] == "150.00"
    assert rows_of(text)["good"][-2] == "-"


def test_a_row_that_fails_while_it_is_timed() -> None:
    count = itertools.count()

    def clock(work: Work) -> float:
        if next(count) == 5:
            raise RuntimeError("launch failed")
        return 600.0

    told = Told()
    rows = [simple("one"), simple("two"), simple("three")]
    text, right = report(dry_rig(told, clock), Table(title="t", rows=rows, base="one"))
    assert not right
    failed = [cells[0].startswith("FAILED") for cells in rows_of(text).values()]
    assert failed.count(True) == 1
    assert next(count) == 3 * 4 - 2  # rounds 3 and 4 continue with two rows


@pytest.mark.parametrize(("error", "right"), [(0.5, True), (2.0, False), (float("nan"), False)])
def test_wrong_answers_are_named(error: float, right: bool) -> None:
    row = simple("r", error=lambda seen: error, tolerance=1.0)
    text, seen = report(dry_rig(Told()), Table(title="t", rows=[row], base="r"))
    assert seen is right
    assert ("WRONG" in text) is not right


def test_errors_are_of_the_first_set() -> None:
    seen: list[Tensor] = []
    row = simple("r", error=lambda output: seen.append(output) or 0.0)  # type: ignore[func-returns-value]
    report(dry_rig(Told()), Table(title="t", rows=[row], base="r"))
    assert torch.equal(seen[0], ones(0)[0])


def test_outputs_rotate_like_inputs() -> None:
    """Consecutive calls write to different memory: as many outputs live as there are sets."""
    written: list[int] = []
    alive: list[Tensor] = []

    def call(source: Tensor) -> Tensor:
        output = source.clone()
        alive.append(output)
        written.append(output.data_ptr())
        return output

    row = simple("r", call, needed=3000)
    report(dry_rig(Told()), Table(title="t", rows=[row], base="r"))
    assert len(set(written)) == 4


def test_our_float32_kernel_must_be_more_exact_than_pytorchs_grid() -> None:
    """An H100 gave 2.2e-5 for PyTorch's and 5.9e-8 for ours; ours is checked more strictly."""
    rows = sample_table(dry_rig(Told()), (9, 17), (9, 17), torch.float32).rows
    allowed = {row.name.split(",")[0]: row.tolerance for row in rows if row.error is not None}
    assert allowed == {"OffsetGridSample": 1e-5, "F.grid_sample in float32": 1e-4}


def test_a_wrong_kernel_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of the tables notice an answer that is wrong in one of many pixels."""
    from tests.benchmarks import gpu_sampling_tables

    honest = gpu_sampling_tables.fused

    def off(*tensors: Tensor) -> Tensor:
        result = honest(*tensors).clone()
        result[0, 0, 0, 0] += 3
        return result

    monkeypatch.setattr(gpu_sampling_tables, "fused", off)
    rig = dry_rig(Told())
    text, right = report(rig, add_table(rig, (5, 9), (9, 17)))
    assert not right
    wrong = {name for name, cells in rows_of(text).items() if cells[-1].startswith("WRONG")}
    assert wrong == {
        f"AlignedAdd, {layout}, {kind}"
        for layout in ("planar", "NHWC")
        for kind in ("smooth", "steps", "noise")
    }


def test_a_table_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(rig: Rig) -> Iterator[Table]:
        yield Table(title="t", rows=[simple("r")], base="r")
        raise MemoryError("no room")

    monkeypatch.setitem(benchmark_kernels.TABLES, "add", fails)
    assert run(dry_rig(Told()), "--tables", "add,resources") == 1
    text = capsys.readouterr().out
    assert "add: FAILED MemoryError: no room" in text
    assert "preprocess_half" in text


def test_only_picks_rows_and_keeps_the_copy() -> None:
    rig = dry_rig(Told())
    table = add_table(rig, (5, 9), (9, 17))
    chosen = pick_rows(table, "AlignedAdd, NHWC", copy=True)
    assert chosen is not None
    kinds = ("smooth", "steps", "noise")
    assert [row.name for row in chosen.rows] == [COPY, *(f"AlignedAdd, NHWC, {k}" for k in kinds)]
    assert pick_rows(table, "nothing like it", copy=True) is None
    assert rows_of(report(rig, chosen)[0])["AlignedAdd, NHWC, noise"][-2] == "-"  # no base


def test_only_picking_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dry_rig(Told()), "--tables", "add", "--only", "zzz") == 1
    assert "no row matches 'zzz'" in capsys.readouterr().err


def test_once_shows_each_row_to_a_profiler(capsys: pytest.CaptureFixture[str]) -> None:
    told = Told()
    options = ("--tables", "add", "--only", "9x17: AlignedAdd.*smooth", "--once")
    # The title ends in the type, so this pattern matches nothing; with the type, two rows match.
    assert run(dry_rig(told), *options) == 1
    options = ("--tables", "add", "--only", "9x17, float16: AlignedAdd.*smooth", "--once")
    assert run(dry_rig(told), *options) == 0
    assert len(told.watched) == 2
    assert not told.clocked
    assert all(name in capsys.readouterr().out for name in told.watched[1:])


def test_once_goes_on_after_a_failure() -> None:
    calls: list[int] = []
    rows = [simple("bad", raises), simple("good", lambda source: calls.append(1))]
    text, right = run_once(dry_rig(Told()), Table(title="t", rows=rows, base="good"))
    assert not right
    assert text.splitlines() == ["t: bad: FAILED RuntimeError: an / illegal address", "t: good"]
    assert len(calls) == 2  # one is for warming up


@pytest.mark.parametrize("names", ["add,nothing", "", "all"])
def test_unknown_tables_are_refused(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(["--tables", names])
    assert re.search("unknown table .*; choose from add, forms", capsys.readouterr().err)


def test_by_default_all_but_networks() -> None:
    assert set(CHOICES) - set(parser().parse_args([]).tables) == {"networks"}
