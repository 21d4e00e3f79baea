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
    return palette[labels]


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
