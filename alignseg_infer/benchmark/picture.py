"""Draws a benchmark as a chart: the times of each variant, and the share of each stage."""

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
    wrap_label,
)
from alignseg_infer.text import plot_text

WIDTH = 11.0  # inches
ROW, LINE = 0.3, 0.17  # inches for a row with one line of label, and for each further line
AROUND = 1.4  # inches for title, legend and axes
TITLE_LINE = 140  # characters
STAGE_COLORS: dict[Stage, str] = dict(zip(PARTS, (GREEN, ORANGE, BLUE, PURPLE), strict=True))
FEW_TIMES = 5  # if the axis ends below this many times its start, its ticks have equal steps
WIDE = 300  # if it ends above this many times its start, its ticks are powers of ten only


def benchmark_figure(report: BenchmarkReport) -> Figure:
    """Draw a row for each variant: its end-to-end time with its spread, and the stages' shares.

    The line goes from the fastest call to the 90th percentile, or to the slowest call if there are
    fewer than ten. The dot is the median.
    """
    labels = [wrap_label(report.label(measured)) for measured in report.measured]
    lines = sum(label.count("\n") for label in labels)
    figure = new_figure(WIDTH, AROUND + ROW * len(labels) + LINE * lines)
    times, shares = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
    _draw_times(times, report.measured)
    _draw_shares(shares, report.measured)
    times.set_yticks(range(len(labels)), labels)
    times.set_ylim(len(labels) - 0.4, -0.6)  # puts the first row on top
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
    return "\n".join(map(plot_text, textwrap.wrap(text, TITLE_LINE)))


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
    axes.xaxis.set_major_locator(_choose_locator(last / first))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", color=GRAY, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    slow = "slowest" if variants[0].quantile(0.9) is None else "90th percentile"
    axes.set_xlabel(f"end-to-end time, ms (log scale): fastest, median, {slow}")


def _choose_locator(ratio: float) -> Locator:
    """Return the locator of ticks for a logarithmic axis that ends at `ratio` times its start."""
    if ratio < FEW_TIMES:
        return MaxNLocator(6, steps=[1, 2, 5, 10])
    return LogLocator(subs=(1.0,) if ratio > WIDE else (1.0, 2.0, 5.0))


def _spread(measured: Measured) -> tuple[float, float, float]:
    """Return the times of the fastest, the median and a slow call."""
    low, middle = measured.quantile(0.0), measured.quantile(0.5)
    high = measured.quantile(0.9) or float(measured.of(Stage.END_TO_END).max())
    assert low is not None  # these two exist for any number of calls
    assert middle is not None
    return low, middle, high


def _draw_shares(axes: Axes, variants: Sequence[Measured]) -> None:
    """Draw bars of equal length, divided in proportion to the medians of the stages."""
    medians = np.array([[np.median(one.of(stage)) for one in variants] for stage in STAGE_COLORS])
    shares = 100 * medians / np.maximum(medians.sum(axis=0), np.finfo(float).tiny)
    starts = np.cumsum(shares, axis=0) - shares
    for (stage, color), share, start in zip(STAGE_COLORS.items(), shares, starts, strict=True):
        axes.barh(range(len(variants)), share, left=start, height=0.6, color=color, label=stage)
    axes.set_xlim(0, 100)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of each stage, %")
