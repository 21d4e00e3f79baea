"""Labels as pixels: colour masks and overlays."""

import cv2
import numpy as np

from alignseg_infer.errors import OptionError
from alignseg_infer.images import Image
from alignseg_infer.postprocess import Labels
from alignseg_infer.spec import ChannelOrder, ClassSpec


def colorize(labels: Labels, classes: ClassSpec, order: ChannelOrder = ChannelOrder.BGR) -> Image:
    """Each label in its class's colour.

    Args:
        labels: (H, W), each below the number of classes.
        classes: Gives the colours.
        order: Channel order of the result.

    Returns:
        (H, W, 3) uint8.
    """
    palette = np.array(classes.colors, np.uint8)
    if order is ChannelOrder.BGR:
        palette = palette[:, ::-1]
    if labels.dtype != np.uint8:
        return palette[labels]
    # At 1024x2048, 4.7 times as fast as the line above.
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(palette), 0] = palette[:256]
    return np.asarray(cv2.LUT(cv2.cvtColor(labels, cv2.COLOR_GRAY2BGR), table), np.uint8)


def blend(image: Image, color: Image, alpha: float) -> Image:
    """`color` drawn over `image`, both (H, W, 3) uint8 in the same channel order.

    Args:
        image: What lies below.
        color: What lies above.
        alpha: Opacity of `color`, 0..1.

    Raises:
        OptionError: `alpha` is not in 0..1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise OptionError(f"alpha={alpha}", "an opacity from 0 to 1", "alpha=0.5, or --alpha 0.5")
    return np.asarray(cv2.addWeighted(image, 1.0 - alpha, color, alpha, 0.0), np.uint8)


LEGEND_ENTRY = (24, 130)  # pixels: height and least width


def legend(classes: ClassSpec, width: int) -> Image:
    """Class names beside their colours, in as many columns as fit.

    Args:
        classes: Names and colours.
        width: Pixels.

    Returns:
        (height, width, 3) uint8 BGR, dark text on white.
    """
    row_height, least = LEGEND_ENTRY
    columns = max(1, width // least)
    rows = -(-len(classes.names) // columns)
    picture: Image = np.full((rows * row_height + 8, width, 3), 255, np.uint8)
    for label, (name, (red, green, blue)) in enumerate(
        zip(classes.names, classes.colors, strict=True)
    ):
        row, column = divmod(label, columns)
        left, top = column * (width // columns) + 6, row * row_height + 6
        cv2.rectangle(picture, (left, top), (left + 18, top + 16), (blue, green, red), cv2.FILLED)
        _write(picture, name, (left + 24, top + 13))
    return picture


def titled(picture: Image, title: str) -> Image:
    """`picture` with a line of text above it."""
    strip: Image = np.full((LEGEND_ENTRY[0] + 4, picture.shape[1], 3), 255, np.uint8)
    _write(strip, title, (6, LEGEND_ENTRY[0] - 5))
    return np.vstack((strip, picture))


def _write(picture: Image, text: str, place: tuple[int, int]) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA)
