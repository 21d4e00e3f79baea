"""Frames of FFmpeg as upright BGR pictures, and pictures as frames for H.264."""

from typing import cast

import cv2
import numpy as np

from alignseg_infer.arrays import Image, Size
from alignseg_infer.video.pyav import av

reformatter = av.video.reformatter

LARGEST_SD = 576  # rows; what is larger and says nothing is BT.709, as players have it
UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED; also AVCOL_PRI_ and AVCOL_TRC_
# Without these flags swscale drops fractions: a round trip loses 2 of 255 on average, with a tint,
# instead of 0.1 (bikes.mp4, FFmpeg 8).
EXACT = (
    reformatter.Interpolation.BILINEAR
    | reformatter.Interpolation.ACCURATE_RND
    | reformatter.Interpolation.FULL_CHR_H_INT
)


class BgrFrames:
    """Turns decoded frames into pictures, all of the size and rotation of the first.

    Attributes:
        size: (height, width) of the pictures.
        turned: Whether rows of the file are columns of the picture.

    Args:
        first: The first frame.
    """

    def __init__(self, first: av.VideoFrame) -> None:
        self._stored = (first.height, first.width)
        self._matrix = _display_matrix(first)
        self._reformatter = reformatter.VideoReformatter()
        self.turned = abs(self._matrix[1]) > abs(self._matrix[0])
        self.size: Size = self._stored[::-1] if self.turned else self._stored

    def image(self, frame: av.VideoFrame) -> Image:
        """(H, W, 3) uint8 BGR; matrix and range of the colours are those of the frame."""
        unknown_hd = frame.colorspace == UNSPECIFIED and self._stored[0] > LARGEST_SD
        bgr = self._reformatter.reformat(
            frame,
            width=self._stored[1],
            height=self._stored[0],
            format="bgr24",
            src_colorspace=reformatter.Colorspace.ITU709 if unknown_hd else None,
            interpolation=EXACT,
        )
        return upright(np.asarray(bgr.to_ndarray(), np.uint8), self._matrix)


def upright(image: Image, matrix: tuple[int, ...]) -> Image:
    """The picture as a display matrix wants it shown: one of eight turns and mirrorings.

    Args:
        image: (H, W, 3) uint8.
        matrix: The nine numbers of ISO/IEC 14496-12: a, b, u, c, d, v, x, y, w. A pixel at (x, y)
            is shown at (a*x + c*y, b*x + d*y).
    """
    across, down = matrix[0], matrix[4]
    if abs(matrix[1]) > abs(matrix[0]):
        image, across, down = image.transpose(1, 0, 2), matrix[3], matrix[1]
    if across < 0:
        image = image[:, ::-1]
    if down < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return (1, 0, 0, 0, 1, 0, 0, 0, 1)
    return tuple(np.frombuffer(cast("bytes", data), np.int32).tolist())


class H264Frames:
    """Turns pictures into frames as H.264 has them: YUV 4:2:0, BT.709, 16..235, even sides."""

    def __init__(self) -> None:
        self._reformatter = reformatter.VideoReformatter()

    def frame(self, image: Image) -> av.VideoFrame:
        """The picture, with its last row or column repeated where a side is odd.

        Args:
            image: (H, W, 3) uint8 BGR.
        """
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            padded = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            image = np.asarray(padded, np.uint8)
        return self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24"),
            format="yuv420p",
            dst_colorspace=reformatter.Colorspace.ITU709,
            dst_color_range=reformatter.ColorRange.MPEG,
            interpolation=EXACT,
        )
