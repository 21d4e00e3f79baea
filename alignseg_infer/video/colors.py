"""Converting FFmpeg's frames into upright BGR pictures, and pictures into H.264 frames."""

from typing import cast

import cv2
import numpy as np

from alignseg_infer.arrays import Image, Size
from alignseg_infer.pixels.wide_color import color_name, to_bt709
from alignseg_infer.video.pyav import av

reformatter = av.video.reformatter

LARGEST_SD = 576  # rows; like players, take larger frames for BT.709 if they name no matrix
BT709, BT2020 = 1, 9  # AVCOL_SPC_
UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED; also AVCOL_PRI_ and AVCOL_TRC_
# Without these flags swscale drops fractions: a round trip then loses 2 of 255 on average and tints
# the picture, instead of losing 0.1 (bikes.mp4, FFmpeg 8).
# PyAV names the last two since 18; 17, the newest for Python 3.10, takes their numbers too.
EXACT = reformatter.Interpolation.BILINEAR.value | 0x40000 | 0x2000  # ACCURATE_RND, FULL_CHR_H_INT

# In planes: with FULL_CHR_H_INT, bgr48le loses the chroma of 4:2:0 (FFmpeg 8, off by 80 of 255).
WIDE = "gbrp16le"


class BgrFrames:
    """Turns decoded frames into pictures that all have the rotation of the first one.

    Attributes:
        size: (height, width) of the first picture.
        turned: Whether rows in the file become columns of the picture.

    Args:
        first: The first frame.
    """

    def __init__(self, first: av.VideoFrame) -> None:
        self._matrix = _display_matrix(first)
        self._reformatter = reformatter.VideoReformatter()
        self.turned = abs(self._matrix[1]) > abs(self._matrix[0])
        stored = (first.height, first.width)
        self.size: Size = stored[::-1] if self.turned else stored

    def image(self, frame: av.VideoFrame) -> Image:
        """Return the frame as (H, W, 3) uint8 BGR of BT.709.

        It is decoded with its own colour matrix and range. HDR and BT.2020 are converted.
        """
        primaries, transfer = frame.color_primaries, frame.color_trc
        wide = color_name(primaries, transfer) is not None
        # The frame is told, not `reformat`: its src_colorspace= knows no BT.2020 before PyAV 18.
        frame.colorspace = _matrix_of(frame, wide)
        pixels = self._reformatter.reformat(
            frame, format=WIDE if wide else "bgr24", interpolation=EXACT
        ).to_ndarray()
        if wide:  # (H, W, 3) uint16 in RGB
            pixels = to_bt709(np.asarray(pixels[..., ::-1], np.uint16), primaries, transfer)
        return turn_upright(np.asarray(pixels, np.uint8), self._matrix)


def _matrix_of(frame: av.VideoFrame, wide: bool) -> int:
    """Return the colour matrix that a frame names, or the one to assume if it names none."""
    if frame.colorspace != UNSPECIFIED:
        return int(frame.colorspace)
    if wide:
        return BT2020
    return BT709 if frame.height > LARGEST_SD else UNSPECIFIED  # which FFmpeg takes for BT.601


def turn_upright(image: Image, matrix: tuple[int, ...]) -> Image:
    """Turn or mirror a picture as its display matrix says; there are eight ways.

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
    """Turns pictures into frames for H.264: YUV 4:2:0, BT.709, 16..235, even sides."""

    def __init__(self) -> None:
        self._reformatter = reformatter.VideoReformatter()

    def frame(self, image: Image) -> av.VideoFrame:
        """Return the picture as a frame; where a side is odd, its last row or column is repeated.

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
