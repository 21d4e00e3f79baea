"""Drawing a result with Matplotlib, which is imported with this module."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from alignseg_infer.arrays import Image
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.text import plot_text

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ImportError as error:
    raise MissingDependencyError(
        "plot() needs Matplotlib, which is not installed",
        "the package matplotlib",
        "pip install matplotlib, or draw the pictures result.overlay() and result.legend()",
    ) from error

FIGURE_WIDTH = 10.0  # inches, with the legend
LEGEND_WIDTH = 1.5  # inches for each column of the legend
LEGEND_ROWS = 20
LEGEND_COLUMNS = 2
LEGEND_STYLE: dict[str, Any] = {"frameon": False, "fontsize": "small", "borderaxespad": 0.0}
ROW_HEIGHT = 0.19  # inches per line of small text


class LegendEntry(NamedTuple):
    """A text in the legend, and its colour (red, green, blue), 0..255."""

    text: str
    color: tuple[int, int, int]


def plot_overlay(overlay: Image, entries: Sequence[LegendEntry], ax: Axes | None) -> Axes:
    """Draw a picture and its legend; see `Segmentation.plot`.

    Args:
        overlay: (H, W, 3) uint8 RGB.
        entries: Entries of the legend, the most important first; empty for no legend.
        ax: Axes to draw in; None for a new figure.
    """
    patches = _make_patches(entries)
    if ax is None:
        place: dict[str, Any] = {"loc": "outside right upper"}
        owner: Axes | Figure
        owner, ax = _make_figure(overlay, len(patches))
    else:
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
        owner = ax
    if patches:
        owner.legend(handles=patches, ncols=_count_columns(len(patches)), **place, **LEGEND_STYLE)
    ax.imshow(overlay)
    ax.set_axis_off()
    return ax


def _make_figure(overlay: Image, entries: int) -> tuple[Figure, Axes]:
    """Make a figure with room for the picture and a legend with this number of entries."""
    width = FIGURE_WIDTH - LEGEND_WIDTH * _count_columns(entries)  # of the image
    height = 0.1 + width * min(1.5, overlay.shape[0] / overlay.shape[1])
    least = 0.5 + ROW_HEIGHT * min(LEGEND_ROWS, entries)
    figure = plt.figure(figsize=(FIGURE_WIDTH, max(least, height)), layout="constrained")
    ax = figure.add_subplot()
    ax.set_anchor("N")  # level with the legend
    return figure, ax


def _count_columns(entries: int) -> int:
    return -(-entries // LEGEND_ROWS)


def _make_patches(entries: Sequence[LegendEntry]) -> list[Patch]:
    """Make the entries that fit into the legend, and a last one that counts the others."""
    patches = []
    for text, color in entries:
        red, green, blue = (channel / 255 for channel in color)
        patches.append(Patch(facecolor=(red, green, blue), label=plot_text(text)))
    room = LEGEND_ROWS * LEGEND_COLUMNS
    if len(patches) > room:
        left_out = len(patches) - room + 1
        patches[room - 1 :] = [Patch(facecolor="none", label=f"and {left_out} more")]
    return patches
