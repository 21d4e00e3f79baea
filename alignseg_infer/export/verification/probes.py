"""The images and sizes with which an export is compared, value by value. Loads no PyTorch."""

from collections.abc import Iterator

import cv2
import numpy as np

from alignseg_infer.arrays import Image, Size
from alignseg_infer.spec.model import ExportSpec

# Odd, not divisible by 4, portrait; none of them is the traced size.
PROBE_SIZES: tuple[Size, ...] = ((97, 161), (150, 262), (190, 101))
PROBE_BATCHES = (1, 2)


def list_cases(export: ExportSpec) -> Iterator[tuple[int, int, Size]]:
    """Yield a seed, a batch and a size of each comparison of a graph.

    A graph that takes any size runs at three sizes other than the traced one, with one and two
    images; a graph of fixed size runs three times.
    """
    sizes = [export.size] * len(PROBE_SIZES) if export.size else list(PROBE_SIZES)
    batches = [export.batch] if export.batch else list(PROBE_BATCHES)
    cases = ((batch, size) for size in sizes for batch in batches)
    return ((seed, batch, size) for seed, (batch, size) in enumerate(cases))


def probe_images(size: Size, seed: int, count: int) -> list[Image]:
    """Draw the images of one comparison."""
    return [probe_image(size, seed * 16 + index) for index in range(count)]


def probe_image(size: Size, seed: int) -> Image:
    """Draw a colourful image of smooth blobs and some noise: (H, W, 3) uint8, BGR."""
    draw = np.random.default_rng(seed)
    blobs = draw.uniform(0, 255, (6, 8, 3)).astype(np.float32)
    smooth = cv2.resize(blobs, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(smooth + draw.normal(0, 8, smooth.shape), 0, 255)
    return np.asarray(noisy, np.uint8)
