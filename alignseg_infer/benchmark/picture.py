"""A benchmark as a picture: for each variant its times, and what they are made of."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from alignseg_infer.arrays import Image
from alignseg_infer.benchmark.report import (
    PARTS,
    BenchmarkReport,
    Measured,
    Stage,
    milliseconds_text,
)
from alignseg_infer.drawing.charts import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    Color,
    blank_chart,
    fill_bar,
    write_text,
)

WIDTH = 1100
MARGIN = 24
ROW = 30
NAMES, TIMES, VALUES, GAP = 220, 330, 150, 24  # widths, from left to right; the shares get the rest
STAGE_COLORS: dict[Stage, Color] = dict(zip(PARTS, (GREEN, ORANGE, BLUE, PURPLE), strict=True))
MARKS = (1, 2, 5)
MOST_TICKS = 6
FEW_TIMES = 5  # an axis that ends at less than so many times its start has ticks at equal steps
MARKED_POWERS = 2.5  # an axis over more powers of ten has ticks at these only


class _Axis(NamedTuple):
    """Milliseconds on a logarithmic axis, of which models 20 times apart both show."""

    low: float
    high: float

    def x(self, milliseconds: float) -> int:
        share = math.log(milliseconds / self.low) / math.log(self.high / self.low)
        return MARGIN + NAMES + round(share * TIMES)

    def ticks(self) -> list[float]:
        """Round numbers on the axis, some two to six."""
        if self.high / self.low < FEW_TIMES:
            power = 10.0 ** math.floor(math.log10((self.high - self.low) / MOST_TICKS))
            steps = [power * factor for factor in (*MARKS, 10)]
            step = next(step for step in steps if (self.high - self.low) / step <= MOST_TICKS)
            return [step * n for n in range(math.ceil(self.low / step), int(self.high / step) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
        wide = self.high / self.low > 10**MARKED_POWERS
        marks = (1,) if wide else MARKS
        values = [mark * 10.0**power for power in powers for mark in marks]
        return [value for value in values if self.low <= value <= self.high]


def benchmark_picture(report: BenchmarkReport) -> Image:
    """One row for each variant: end to end time with its spread, and the shares of the stages.

    The line goes from the fastest call to the one that 9 of 10 do not exceed (where there are
    fewer than ten, to the slowest), the dot is the median.

    Returns:
        (height, WIDTH, 3) uint8 BGR.
    """
    top = MARGIN + 2 * ROW
    picture = blank_chart(top + ROW * (len(report.measured) + 1) + MARGIN, WIDTH)
    axis = _axis(report.measured)
    _write_headings(picture, report)
    bottom = top + ROW * len(report.measured)
    _draw_ticks(picture, axis, top, bottom)
    for index, measured in enumerate(report.measured):
        y = top + ROW * index
        write_text(picture, report.label(measured), (MARGIN, y + 20), NAMES - 12)
        _draw_times(picture, measured, axis, y)
        _draw_shares(picture, measured, y)
    return picture


def _spread(measured: Measured) -> tuple[float, float, float]:
    """Fastest, median, slow."""
    low, middle = measured.quantile(0.0), measured.quantile(0.5)
    high = measured.quantile(0.9) or float(measured.of(Stage.END_TO_END).max())
    assert low is not None  # of any number of calls
    assert middle is not None
    return low, middle, high


def _axis(variants: Sequence[Measured]) -> _Axis:
    spreads = [_spread(measured) for measured in variants]
    return _Axis(min(low for low, _, _ in spreads) / 1.2, max(high for *_, high in spreads) * 1.2)


def _write_headings(picture: Image, report: BenchmarkReport) -> None:
    machine, y = report.machine, MARGIN + 8
    partial = ", partial" if report.partial else ""
    busy = ", other work was running" if machine.busy else ""
    where = f"{machine.cpu}, {machine.cores} cores, {report.rounds} rounds{partial}{busy}"
    write_text(picture, f"Time per image on {where}", (MARGIN, y), WIDTH - 2 * MARGIN)
    spread = "ms (log scale), end to end: fastest, median, p90"
    if report.measured[0].quantile(0.9) is None:
        spread = "ms (log scale), end to end: fastest, median, slowest"
    write_text(picture, spread, (MARGIN + NAMES, y + ROW), TIMES + VALUES - GAP)
    x = MARGIN + NAMES + TIMES + VALUES
    step = (WIDTH - MARGIN - x) // len(STAGE_COLORS)
    for stage, color in STAGE_COLORS.items():
        fill_bar(picture, (x, y + ROW - 10), (x + 10, y + ROW), color)
        write_text(picture, stage, (x + 14, y + ROW), step - 18)
        x += step


def _draw_ticks(picture: Image, axis: _Axis, top: int, bottom: int) -> None:
    for value in axis.ticks():
        x = axis.x(value)
        cv2.line(picture, (x, top - 4), (x, bottom), GRAY, 1)
        write_text(picture, f"{value:g}", (x - 4 * len(f"{value:g}"), bottom + 20), 60)


def _draw_times(picture: Image, measured: Measured, axis: _Axis, y: int) -> None:
    low, middle, high = _spread(measured)
    fill_bar(picture, (axis.x(low), y + 13), (axis.x(high), y + 17), BLUE)
    cv2.circle(picture, (axis.x(middle), y + 15), 6, BLACK, cv2.FILLED, cv2.LINE_AA)
    text = f"{milliseconds_text(middle)} ({measured.images_per_second:.3g}/s)"
    write_text(picture, text, (MARGIN + NAMES + TIMES + 8, y + 20), VALUES - GAP)


def _draw_shares(picture: Image, measured: Measured, y: int) -> None:
    """A bar of the whole width, divided as the medians of the stages are."""
    left, right = MARGIN + NAMES + TIMES + VALUES, WIDTH - MARGIN
    medians = np.array([np.median(measured.of(stage)) for stage in STAGE_COLORS])
    if medians.sum() <= 0:
        return
    edges = left + np.round(np.cumsum([0, *medians]) / medians.sum() * (right - left)).astype(int)
    for start, end, color in zip(edges[:-1], edges[1:], STAGE_COLORS.values(), strict=True):
        if end > start:
            fill_bar(picture, (int(start), y + 5), (int(end) - 1, y + ROW - 5), color)
