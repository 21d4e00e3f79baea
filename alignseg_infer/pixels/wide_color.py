"""Conversion of pictures with high dynamic range or wide gamut to BT.709, which networks know.

A PQ picture that is read as BT.709 is pale and flat: the demo model's mean IoU on its streets falls
from 85 to 63 %. The conversion follows ITU-R BT.2100 (PQ and HLG), BT.2408 (SDR white is 203 cd/m2
in both) and BT.2087 (primaries). Light above SDR white becomes white.
"""

import functools
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Image

SDR_WHITE = 203.0  # cd/m2
PQ_PEAK, HLG_PEAK = 10_000.0, 1000.0  # cd/m2
HLG_GAMMA = 1.2  # of the display's system gamma at HLG_PEAK
SDR_GAMMA = 2.4  # BT.1886
LEVELS = 4096  # of the table that encodes light; its steps are smaller than those of 8 bits


class Transfer(IntEnum):
    """Transfer characteristics by their numbers in ITU-T H.273; others are taken for SDR."""

    PQ = 16
    HLG = 18


class Primaries(IntEnum):
    """Colour primaries by their numbers in ITU-T H.273; others are taken for BT.709."""

    UNSPECIFIED = 2
    BT2020 = 9


# Linear light of blue, green and red in BT.2020 to that in BT.709 (BT.2087, both orders reversed).
TO_BT709 = np.array(
    [
        [1.118730, -0.100579, -0.018151],
        [-0.008349, 1.132900, -0.124550],
        [-0.072850, -0.587641, 1.660491],
    ],
    np.float32,
)
LUMINANCE = np.array([0.0593, 0.6780, 0.2627], np.float32)  # of blue, green and red in BT.2020


def color_name(primaries: int, transfer: int) -> str | None:
    """Return what to call the colours of a picture that has to be converted; None for others."""
    if transfer in (Transfer.PQ, Transfer.HLG):
        return f"HDR ({Transfer(transfer).name})"
    return "BT.2020" if primaries == Primaries.BT2020 else None


def to_bt709(picture: NDArray[np.uint16], primaries: int, transfer: int) -> Image:
    """Convert a picture for which `color_name` has a name.

    Args:
        picture: (H, W, 3) uint16, BGR, not linear, full range 0..65535.
        primaries: As in H.273; HDR without any is taken for BT.2020.
        transfer: As in H.273.

    Returns:
        (H, W, 3) uint8, BGR, 0..255.
    """
    light = _light_table(transfer)[picture]  # (H, W, 3), 1 is SDR white (HLG: of the scene)
    if transfer == Transfer.HLG:
        scene = light @ LUMINANCE  # (H, W)
        light *= (HLG_PEAK / SDR_WHITE) * scene[..., np.newaxis] ** (HLG_GAMMA - 1)
    if primaries in (Primaries.BT2020, Primaries.UNSPECIFIED):
        light = np.asarray(cv2.transform(light, TO_BT709), np.float32)
    roots = np.sqrt(np.clip(light, 0, 1))
    return _sdr_table()[np.asarray(roots * (LEVELS - 1) + 0.5, np.uint16)]


@functools.cache
def _light_table(transfer: int) -> Floats:
    """Return the light of each 16-bit value, (65536,) float32, where 1 is SDR white.

    That of HLG is the scene's, 0..1; the display's follows from all three channels.
    """
    signal = np.linspace(0, 1, 65536)
    if transfer == Transfer.PQ:  # BT.2100, table 4
        power = signal ** (1 / 78.84375)
        ratio = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        light = ratio ** (1 / 0.1593017578125) * PQ_PEAK / SDR_WHITE
    elif transfer == Transfer.HLG:  # BT.2100, table 5
        high = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(signal <= 0.5, signal**2 / 3, high)
    else:
        light = signal**SDR_GAMMA
    return light.astype(np.float32)


@functools.cache
def _sdr_table() -> Image:
    """Return the 8-bit value of each square root of light, (LEVELS,) uint8."""
    roots = np.linspace(0, 1, LEVELS)
    return np.round(255 * roots ** (2 / SDR_GAMMA)).astype(np.uint8)
