"""A result drawn with Matplotlib, which is loaded with this module."""

from typing import TYPE_CHECKING, Any

from alignseg_infer.drawing.masks import share_text
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.pixels.images import Image

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

if TYPE_CHECKING:
    from alignseg_infer.results.segmentation import Segmentation

FIGURE_WIDTH = 10.0  # inches, with the legend
LEGEND_WIDTH = 1.5  # inches of it, for a column
LEGEND_ROWS = 20
LEGEND_COLUMNS = 2
LEGEND_STYLE: dict[str, Any] = {"frameon": False, "fontsize": "small", "borderaxespad": 0.0}
ROW_HEIGHT = 0.19  # inches, of small text


def plot_of(
    result: "Segmentation", ax: Axes | None = None, opacity: float = 0.5, legend: bool = True
) -> Axes:
    """The overlay in `ax`; see `Segmentation.plot`."""
    overlay = result.overlay(opacity, order="rgb")
    patches = _patches(result) if legend else []
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


def _patches(result: "Segmentation") -> list[Patch]:
    """A legend entry for each class of the image, the largest first; as many as there is room."""
    colors = dict(zip(result.classes.names, result.classes.colors, strict=True))
    patches = []
    for name, share in result.class_share().items():
        red, green, blue = (channel / 255 for channel in colors[name])
        patches.append(Patch(facecolor=(red, green, blue), label=f"{name} {share_text(share)}"))
    room = LEGEND_ROWS * LEGEND_COLUMNS
    if len(patches) > room:
        left_out = len(patches) - room + 1
        patches[room - 1 :] = [Patch(facecolor="none", label=f"and {left_out} more")]
    return patches
