"""Parts of charts drawn with OpenCV: colours, text, bars."""

from typing import TypeAlias

import cv2
import numpy as np

from alignseg_infer.arrays import Image

Color: TypeAlias = tuple[int, int, int]  # BGR

FONT = cv2.FONT_HERSHEY_SIMPLEX
BLACK: Color = (30, 30, 30)
GRAY: Color = (190, 190, 190)
BLUE: Color = (176, 114, 54)
ORANGE: Color = (30, 120, 230)
GREEN: Color = (90, 160, 70)
PURPLE: Color = (170, 90, 140)


def blank_chart(height: int, width: int) -> Image:
    """(height, width, 3) uint8 BGR, white."""
    return np.full((height, width, 3), 255, np.uint8)


def write_text(picture: Image, text: str, place: tuple[int, int], room: int) -> None:
    """Writes `text` from `place` (x, y of its baseline) on, smaller if it would exceed `room`."""
    width, _ = cv2.getTextSize(text, FONT, 0.5, 1)[0]
    scale = 0.5 * min(1, room / max(width, 1))
    cv2.putText(picture, text, place, FONT, scale, BLACK, 1, cv2.LINE_AA)


def fill_bar(picture: Image, start: tuple[int, int], end: tuple[int, int], color: Color) -> None:
    """Fills the rectangle between two corners (x, y), both included."""
    cv2.rectangle(picture, start, end, color, cv2.FILLED)
