"""Writes text into pictures of masks and offsets. Charts use Matplotlib instead (`figures`)."""

import cv2

from alignseg_infer.arrays import Image

FONT = cv2.FONT_HERSHEY_SIMPLEX
INK = (30, 30, 30)
SCALE = 0.45  # capital letters are 10 pixels high


def write_text(
    picture: Image,
    text: str,
    place: tuple[int, int],
    *,
    scale: float = SCALE,
    room: int | None = None,
    ink: tuple[int, int, int] = INK,
) -> None:
    """Write `text` into `picture`, in dark letters unless said otherwise.

    Args:
        picture: (H, W, 3) uint8, which is changed.
        text: What to write.
        place: (x, y) of the left end of the text's baseline.
        scale: Scale of the font.
        room: Width in pixels that the text may take; longer text is written smaller. None allows
            any width.
        ink: Blue, green and red of the letters, 0..255.
    """
    if room is not None:
        scale *= min(1.0, room / max(text_width(text, scale), 1))
    cv2.putText(picture, text, place, FONT, scale, ink, 1, cv2.LINE_AA)


def text_width(text: str, scale: float = SCALE) -> int:
    """Return how many pixels `write_text` takes for `text`."""
    return int(cv2.getTextSize(text, FONT, scale, 1)[0][0])
