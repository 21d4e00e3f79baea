"""A sensitivity as a chart: one bar for each block."""

import textwrap

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from alignseg_infer.drawing.figures import BLUE, GRAY, ORANGE, new_figure, wrap_label
from alignseg_infer.export.int8.effect import Effect
from alignseg_infer.export.int8.sensitivity import Sensitivity
from alignseg_infer.text import plot_text

WIDTH = 9.0  # inches
ROW, AROUND = 0.24, 1.5  # inches: of a bar, and of title, legend and axis
TITLE_LINE = 115  # characters
LEGEND = {BLUE: "this block alone in INT8", GRAY: "as blue, but export keeps it float"}
LEGEND[ORANGE] = "all blue blocks together"


def sensitivity_figure(sensitivity: Sensitivity) -> Figure:
    """Draw how many pixels get another label: the blocks ranked, all together at the end."""
    blocks = sensitivity.blocks
    effects = [*(one.effect for one in blocks), sensitivity.together]
    colors = [*(GRAY if one.always_float else BLUE for one in blocks), ORANGE]
    names = [*(wrap_label(one.block) for one in blocks), "all together"]
    figure = new_figure(WIDTH, AROUND + ROW * len(effects))
    axes = figure.subplots()
    lengths = [one.disagreement for one in effects]
    bars = axes.barh(range(len(effects)), lengths, height=0.75, color=colors)
    axes.bar_label(bars, [_note(one) for one in effects], padding=4)
    axes.set_yticks(range(len(effects)), names)
    axes.set_ylim(len(effects) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 1.2 * max(lengths) or 1.0)  # with room for the numbers beside the longest
    axes.spines[["top", "right"]].set_visible(False)
    losses = "" if sensitivity.miou is None else " (in brackets: loss of mean IoU, points)"
    axes.set_xlabel(f"pixels whose label differs from FP32, %{losses}")
    figure.suptitle(_title(sensitivity), x=0.01, ha="left", fontsize="medium")
    handles = [Patch(color=color, label=text) for color, text in LEGEND.items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(LEGEND), frameon=False)
    return figure


def _title(sensitivity: Sensitivity) -> str:
    scores = (
        "" if sensitivity.miou is None else f"; FP32 has a mean IoU of {sensitivity.miou:.2f} %"
    )
    count = sensitivity.calibration_images
    images = f"{count} image{'s' if count > 1 else ''}"
    source = f"Measured on {sensitivity.data}{scores}; {sensitivity.method} calibration on {images}"
    lines = textwrap.wrap(source, TITLE_LINE)
    return "\n".join(["What INT8 costs, block by block", *map(plot_text, lines)])


def _note(effect: Effect) -> str:
    loss = "" if effect.miou_loss is None else f" ({effect.miou_loss:+.2f})"
    return f"{effect.disagreement:.3f}{loss}"
