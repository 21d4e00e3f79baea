"""Deterministic weights and images for the reference cases in this folder.

No checkpoint of the published model can be downloaded here, so the reference
outputs were computed with weights that any machine can rebuild: every tensor is
drawn from a generator seeded by its own name. NumPy only.

    state = seeded_state_dict(json.load(open("state_dict_r101_19.json")), seed=0)
    image = seeded_image(height, width, seed=0)          # uint8, H x W x 3, BGR
"""

import zlib

import numpy as np


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[zlib.crc32(name.encode()), seed]))


def seeded_tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Make one float32 tensor (or an int64 counter) of the checkpoint, by its key."""
    draw = _generator(name, seed)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return draw.uniform(0.75, 1.25, shape).astype(np.float32)
    if name.endswith("running_mean"):
        return draw.normal(0.0, 0.1, shape).astype(np.float32)
    if len(shape) == 4:  # convolution kernels
        fan_in = int(np.prod(shape[1:]))
        gain = 0.5 if shape[0] == 2 else np.sqrt(2.0)  # 2 channels: an offset head
        return draw.normal(0.0, gain / np.sqrt(fan_in), shape).astype(np.float32)
    if name.endswith("weight"):  # normalisation scale; some are negative on purpose
        return draw.normal(0.6, 0.3, shape).astype(np.float32)
    return draw.normal(0.0, 0.1, shape).astype(np.float32)  # biases


def seeded_state_dict(shapes: dict[str, list[int]], seed: int = 0) -> dict[str, np.ndarray]:
    return {name: seeded_tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def seeded_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Make a smooth, colourful uint8 H x W x 3 image: low-frequency waves plus a little noise."""
    draw = _generator(f"image-{height}x{width}", seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(6):
            fy, fx, phase = (
                draw.uniform(0.5, 4.0),
                draw.uniform(0.5, 4.0),
                draw.uniform(0, 2 * np.pi),
            )
            image[..., channel] += np.sin(2 * np.pi * (fy * y / height + fx * x / width) + phase)
    image = (image - image.min()) / (image.max() - image.min()) * 235.0
    return np.asarray(image + draw.uniform(0, 20, image.shape)).astype(np.uint8)
