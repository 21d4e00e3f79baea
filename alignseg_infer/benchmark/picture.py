"""A benchmark as a chart: for each variant its times, and what they are made of."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from alignseg_infer.benchmark.report import (
    PARTS,
    BenchmarkReport,
    Measured,
    Stage,
    milliseconds_text,
)
from alignseg_infer.drawing.figures import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    new_figure,
    wrapped_label,
)

WIDTH = 11.0  # inches
ROW, LINE = 0.3, 0.17  # inches: of a row with a label of one line, and of each further line
AROUND = 1.4  # inches of title, legend and axes
TITLE_LINE = 140  # characters
STAGE_COLORS: dict[Stage, str] = dict(zip(PARTS, (GREEN, ORANGE, BLUE, PURPLE), strict=True))
FEW_TIMES = 5  # an axis whose end is less than this many times its start has equal steps
WIDE = 300  # one whose end is more than this many times its start has powers of ten only


def benchmark_figure(report: BenchmarkReport) -> Figure:
    """Draw one row for each variant: its end to end time with the spread, and the stages' shares.

    The line goes from the fastest call to the 90th percentile, or to the slowest call where there
    are fewer than ten; the dot is the median.
    """
    labels = [wrapped_label(report.label(measured)) for measured in report.measured]
    lines = sum(label.count("\n") for label in labels)
    figure = new_figure(WIDTH, AROUND + ROW * len(labels) + LINE * lines)
    times, shares = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
    _draw_times(times, report.measured)
    _draw_shares(shares, report.measured)
    times.set_yticks(range(len(labels)), labels)
    times.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize="medium")
    figure.legend(loc="outside lower right", ncols=len(STAGE_COLORS), frameon=False)
    return figure


def _title(report: BenchmarkReport) -> str:
    machine = report.machine
    partial = " (interrupted)" if report.partial else ""
    busy = ", while other work was running" if machine.busy else ""
    cores = f"{machine.cores} core{'s' if machine.cores > 1 else ''}"
    gpus = "".join(f", {gpu.name}" for gpu in machine.gpus)
    text = f"Time per image on {machine.cpu}, {cores}{gpus}: {report.rounds} rounds{partial}{busy}"
    return "\n".join(textwrap.wrap(text, TITLE_LINE))


def _draw_times(axes: Axes, variants: Sequence[Measured]) -> None:
    low, middle, high = np.array([_spread(measured) for measured in variants]).T
    rows = range(len(variants))
    axes.hlines(rows, low, high, color=BLUE, linewidth=4)
    axes.plot(middle, rows, "o", color=BLACK, markersize=7)
    for row, measured in enumerate(variants):
        rate = measured.images_per_second
        per_second = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
        text = f"{milliseconds_text(middle[row])} ms, {per_second}/s"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center")
    first, last = low.min() / 1.2, high.max() * 1.2
    axes.set_xscale("log")
    axes.set_xlim(first, last)
    axes.xaxis.set_major_locator(_locator(last / first))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", color=GRAY, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    slow = "slowest" if variants[0].quantile(0.9) is None else "90th percentile"
    axes.set_xlabel(f"ms, end to end: fastest, median, {slow}")


def _locator(ratio: float) -> Locator:
    """Return what places ticks on a logarithmic axis whose end is `ratio` times its start."""
    if ratio < FEW_TIMES:
        return MaxNLocator(6, steps=[1, 2, 5, 10])
    return LogLocator(subs=(1.0,) if ratio > WIDE else (1.0, 2.0, 5.0))


def _spread(measured: Measured) -> tuple[float, float, float]:
    """Return the times of the fastest, the median and a slow call."""
    low, middle = measured.quantile(0.0), measured.quantile(0.5)
    high = measured.quantile(0.9) or float(measured.of(Stage.END_TO_END).max())
    assert low is not None  # of any number of calls
    assert middle is not None
    return low, middle, high


def _draw_shares(axes: Axes, variants: Sequence[Measured]) -> None:
    """Draw bars of equal length, divided as the medians of the stages are."""
    medians = np.array([[np.median(one.of(stage)) for one in variants] for stage in STAGE_COLORS])
    shares = 100 * medians / np.maximum(medians.sum(axis=0), np.finfo(float).tiny)
    starts = np.cumsum(shares, axis=0) - shares
    for (stage, color), share, start in zip(STAGE_COLORS.items(), shares, starts, strict=True):
        axes.barh(range(len(variants)), share, left=start, height=0.6, color=color, label=stage)
    axes.set_xlim(0, 100)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of each stage, %")
