"""A sensitivity as a picture: one bar for each block."""

from collections.abc import Sequence
from typing import NamedTuple

from alignseg_infer.arrays import Image
from alignseg_infer.drawing.charts import (
    BLUE,
    GRAY,
    ORANGE,
    Color,
    blank_chart,
    fill_bar,
    write_text,
)
from alignseg_infer.export.int8.sensitivity import Sensitivity

WIDTH = 1000
MARGIN = 24
ROW = 26
NAMES, VALUES = 190, 170  # width of the texts beside the bars


class _Bar(NamedTuple):
    name: str
    percent: float
    note: str
    color: Color


def sensitivity_picture(sensitivity: Sensitivity) -> Image:
    """Bars of the pixels with another label, the blocks ranked, all together at the end.

    Returns:
        (height, WIDTH, 3) uint8 BGR.
    """
    bars = [
        _Bar(
            one.block,
            one.effect.disagreement,
            _note(one.effect.miou_loss),
            GRAY if one.always_float else BLUE,
        )
        for one in sensitivity.blocks
    ]
    together = sensitivity.together
    bars.append(_Bar("all blue together", together.disagreement, _note(together.miou_loss), ORANGE))
    return _drawn(bars, _headings(sensitivity))


def _headings(sensitivity: Sensitivity) -> Sequence[str]:
    scores = "" if sensitivity.miou is None else f", FP32 mean IoU {sensitivity.miou:.2f} %"
    losses = "" if sensitivity.miou is None else " (and loss of mean IoU, points)"
    return (
        f"Pixels with another label than FP32, %, one block in INT8 at a time{losses}",
        f"{sensitivity.data}{scores}; ranges by {sensitivity.method} of "
        f"{sensitivity.calibration_images} images; gray ones stay float",
    )


def _note(loss: float | None) -> str:
    return "" if loss is None else f" ({loss:+.2f})"


def _drawn(bars: Sequence[_Bar], headings: Sequence[str]) -> Image:
    top = MARGIN + ROW * len(headings)
    picture = blank_chart(top + ROW * len(bars) + MARGIN, WIDTH)
    for index, text in enumerate(headings):
        write_text(picture, text, (MARGIN, MARGIN + ROW * index + 8), WIDTH - 2 * MARGIN)
    left = MARGIN + NAMES
    longest = max(bar.percent for bar in bars)
    unit = (WIDTH - left - VALUES - MARGIN) / longest if longest > 0 else 0.0
    for index, (name, percent, note, color) in enumerate(bars):
        y = top + ROW * index
        end = left + max(1, round(percent * unit))
        write_text(picture, name, (MARGIN, y + 18), NAMES - 10)
        fill_bar(picture, (left, y + 4), (end, y + ROW - 4), color)
        write_text(picture, f"{percent:.3f}{note}", (end + 8, y + 18), VALUES)
    return picture
