"""Draws charts with Matplotlib, without pyplot and its global state. Imports Matplotlib."""

import io
import textwrap

import cv2
import numpy as np

from alignseg_infer.arrays import Image
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.text import plot_text, printable

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingDependencyError(
        "charts need Matplotlib, which is not installed",
        "the package matplotlib",
        "pip install matplotlib",
    ) from error

DPI = 130
LABEL_LINE, LABEL_LONGEST = 28, 72  # characters in one line, and in the whole label (three lines)
# From Okabe and Ito, "Color Universal Design": people with any colour vision can tell them apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
GRAY, BLACK = "#BBBBBB", "#222222"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches whose parts do not overlap."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def pixels_of(figure: Figure) -> Image:
    """Draw `figure`.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png")
    pixels = cv2.imdecode(np.frombuffer(png.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(pixels, np.uint8)


def wrap_label(text: str) -> str:
    """Break a long name into lines; leave out the middle of a name that is too long even so."""
    text = printable(text)
    if len(text) > LABEL_LONGEST:
        text = f"{text[: LABEL_LONGEST // 2]}…{text[-LABEL_LONGEST // 2 + 1 :]}"
    return "\n".join(map(plot_text, textwrap.wrap(text, LABEL_LINE)))
