"""A result drawn with Matplotlib, which is loaded with this module."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from alignseg_infer.arrays import Image
from alignseg_infer.errors import MissingDependencyError

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ImportError as error:
    raise MissingDependencyError(
        "plot() needs Matplotlib, which is not installed",
        "the package matplotlib",
        "pip install matplotlib; without it, result.overlay() and result.legend() are pictures",
    ) from error

FIGURE_WIDTH = 10.0  # inches, with the legend
LEGEND_WIDTH = 1.5  # inches of it, for a column
LEGEND_ROWS = 20
LEGEND_COLUMNS = 2
LEGEND_STYLE: dict[str, Any] = {"frameon": False, "fontsize": "small", "borderaxespad": 0.0}
ROW_HEIGHT = 0.19  # inches, of small text


class LegendEntry(NamedTuple):
    """A text of the legend, and its (red, green, blue), 0..255."""

    text: str
    color: tuple[int, int, int]


def plot_of(overlay: Image, entries: Sequence[LegendEntry], ax: Axes | None) -> Axes:
    """Draw a picture and its legend; see `Segmentation.plot`.

    Args:
        overlay: (H, W, 3) uint8 RGB.
        entries: Of the legend, the most important first; none for no legend.
        ax: Where to draw; None for a new figure.
    """
    patches = _patches(entries)
    if ax is None:
        place: dict[str, Any] = {"loc": "outside right upper"}
        owner: Axes | Figure
        owner, ax = _new_figure(overlay, len(patches))
    else:
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
        owner = ax
    if patches:
        owner.legend(handles=patches, ncols=_columns(len(patches)), **place, **LEGEND_STYLE)
    ax.imshow(overlay)
    ax.set_axis_off()
    return ax


def _new_figure(overlay: Image, entries: int) -> tuple[Figure, Axes]:
    """A figure that fits the picture and a legend of so many entries, and its axes."""
    width = FIGURE_WIDTH - LEGEND_WIDTH * _columns(entries)  # of the image
    height = 0.1 + width * min(1.5, overlay.shape[0] / overlay.shape[1])
    least = 0.5 + ROW_HEIGHT * min(LEGEND_ROWS, entries)
    figure = plt.figure(figsize=(FIGURE_WIDTH, max(least, height)), layout="constrained")
    ax = figure.add_subplot()
    ax.set_anchor("N")  # level with the legend
    return figure, ax


def _columns(entries: int) -> int:
    return -(-entries // LEGEND_ROWS)


def _patches(entries: Sequence[LegendEntry]) -> list[Patch]:
    """Return as many entries as there is room for, and a last one that counts the others."""
    patches = []
    for text, color in entries:
        red, green, blue = (channel / 255 for channel in color)
        patches.append(Patch(facecolor=(red, green, blue), label=text))
    room = LEGEND_ROWS * LEGEND_COLUMNS
    if len(patches) > room:
        left_out = len(patches) - room + 1
        patches[room - 1 :] = [Patch(facecolor="none", label=f"and {left_out} more")]
    return patches
