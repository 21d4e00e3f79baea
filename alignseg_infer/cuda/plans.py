"""Plans: everything about a launch of our CUDA kernels but the addresses."""

import functools
import struct
from typing import NamedTuple

import numpy as np

from alignseg_infer.cuda.params import (
    ALIGNED_ADD,
    OFFSET_GRID_SAMPLE,
    PREPROCESS,
    UPSAMPLE_ARGMAX,
    number_bytes,
)
from alignseg_infer.errors import OptionError
from alignseg_infer.spec.model import SamplingConvention

_SCALARS = {np.dtype(np.float32): "float", np.dtype(np.float16): "half"}
_LABELS = {np.dtype(np.uint8): "uint8", np.dtype(np.uint16): "uint16", np.dtype(np.int32): "int32"}
# As plugins/kernels/convention.h numbers them; a test compares, also what follows.
_CONVENTIONS = {
    SamplingConvention.RELEASE_2021_12: 0,
    SamplingConvention.RELEASE_2021_05: 1,
    SamplingConvention.STANDARD: 2,
}

# Threads of a block, and the output pixels (height, width) it computes; sampling_grid.h and the
# *_math.h say the same.
SAMPLE_THREADS = 256
PLANAR_TILE = (8, 32)
PLANAR_CHANNELS = 16
CHANNELS_LAST_TILE = (4, 8)
ARGMAX_THREADS = 256
ARGMAX_TILE = (32, 64)
PREPROCESS_THREADS = 256
PREPROCESS_TILE = (8, 128)

MOST_SIDE, MOST_PIXELS = 2**30 - 1, 2**34  # of the sampling kernels
VECTOR_BYTES = 16  # what channels-last kernels read at once
ANY_TAPS = 4  # the kernel of AlignedAdd that takes every size and address

# A network at one size needs ten plans; a folder of images of all sizes, two for each size.
_MOST_PLANS = 1024
Shape = tuple[int, ...]
Dtype = np.dtype[np.generic]


class Launch(NamedTuple):
    """One launch of one kernel.

    Attributes:
        source: The file it is in, without ``_kernel.cu``.
        kernel: Its name.
        params: Its argument, as the bytes of a structure.
        blocks: Blocks, in one dimension.
        threads: Threads of a block.
    """

    source: str
    kernel: str
    params: bytes
    blocks: int
    threads: int


class Plan(NamedTuple):
    """A launch without its addresses: what sizes, types, layout and convention decide.

    It is made once per combination of these and never changes, so threads share it.

    Attributes:
        source: See `Launch`.
        kernel: See `Launch`.
        numbers: The bytes of the argument that come after its addresses.
        blocks: See `Launch`.
        threads: See `Launch`.
    """

    source: str
    kernel: str
    numbers: bytes
    blocks: int
    threads: int

    def at(self, *addresses: int) -> Launch:
        """The launch with all the structure's addresses, in its order; 0 for none."""
        params = struct.pack(f"{len(addresses)}Q", *addresses) + self.numbers
        return Launch(self.source, self.kernel, params, self.blocks, self.threads)


@functools.lru_cache(_MOST_PLANS)
def offset_grid_sample_plan(
    feature: Shape,
    output: Shape,
    dtypes: tuple[Dtype, Dtype],
    convention: SamplingConvention,
    channels_last: bool,
) -> Plan:
    """The plan of `offset_grid_sample_launch`.

    Its addresses: feature, offset, output.

    Args:
        feature: (N, C, h, w), a shape.
        output: (N, C, H, W), a shape.
        dtypes: Of feature and output, and of the offset.
        convention: Which formula.
        channels_last: Whether feature and output are stored as (N, h, w, C).
    """
    params = np.zeros(1, OFFSET_GRID_SAMPLE)[0]
    params["batch"], params["channels"] = feature[:2]
    params["feature_height"], params["feature_width"] = feature[2:]
    params["height"], params["width"] = output[2:]
    params["channel_pitch"] = feature[1] if channels_last else 0
    params["convention"] = _CONVENTIONS[convention]
    return _sampling_plan("offset_grid_sample", "", params, dtypes)


@functools.lru_cache(_MOST_PLANS)
def aligned_add_plan(
    shapes: tuple[Shape, Shape],
    dtypes: tuple[Dtype, Dtype],
    convention: SamplingConvention,
    *,
    channels_last: bool,
    aligned: bool,
) -> Plan:
    """The plan of `aligned_add_launch`.

    Its addresses: high, low, the offset of each, output.

    Args:
        shapes: (N, C, h, w) of high, (N, C, H, W) of low.
        dtypes: Of features and output, and of both offsets.
        convention: Which formula.
        channels_last: Whether features and output are stored as (N, h, w, C).
        aligned: Whether `is_aligned` holds for features and output.
    """
    high, low = shapes
    params = np.zeros(1, ALIGNED_ADD)[0]
    params["batch"], params["channels"] = low[:2]
    params["high_height"], params["high_width"] = high[2:]
    params["height"], params["width"] = low[2:]
    params["channel_pitch"] = low[1] if channels_last else 0
    params["convention"] = _CONVENTIONS[convention]
    vectors = not channels_last or (aligned and low[1] * dtypes[0].itemsize % VECTOR_BYTES == 0)
    taps = aligned_add_taps(high[2:], low[2:]) if vectors else ANY_TAPS
    return _sampling_plan("aligned_add", f"_{taps}", params, dtypes)


def is_aligned(*addresses: int) -> bool:
    """Whether vectors can be read and written at all of these addresses."""
    return all(address % VECTOR_BYTES == 0 for address in addresses)


def aligned_add_taps(coarse: Shape, fine: Shape) -> int:
    """Pixels along each axis that sampling after upsampling reads of the coarse feature.

    Two where coarse pixels nest in fine ones, three in any upsampling, four in general; see
    ``composedTaps`` in ``plugins/kernels/sampling_coordinates.h``. Each has its kernel.

    Args:
        coarse: (h, w).
        fine: (H, W).
    """

    def along(small: int, large: int) -> int:
        if small == 1 or large == 1 or (large - 1) % (small - 1) == 0:
            return 2
        return 3 if small <= large else 4

    return max(along(*sizes) for sizes in zip(coarse, fine, strict=True))


def _sampling_plan(source: str, taps: str, params: np.void, dtypes: tuple[Dtype, Dtype]) -> Plan:
    height, width = int(params["height"]), int(params["width"])
    _require_countable(source, params)
    blocks = int(params["batch"])
    if params["channel_pitch"]:
        layout, tile = "channels_last", CHANNELS_LAST_TILE
        blocks *= _tiles(height, tile[0]) * _tiles(width, tile[1])
    else:
        layout, tile = "planar", PLANAR_TILE
        blocks *= _tiles(_tiles(height, tile[0]) * width, tile[1])
        blocks *= _tiles(int(params["channels"]), PLANAR_CHANNELS)
    kernel = f"{source}_{layout}{taps}_{_SCALARS[dtypes[0]]}_{_SCALARS[dtypes[1]]}"
    return Plan(source, kernel, number_bytes(params), blocks, SAMPLE_THREADS)


@functools.lru_cache(_MOST_PLANS)
def upsample_argmax_plan(
    logits: Shape, labels: Shape, dtype: Dtype, label_dtype: Dtype, confidence: bool
) -> Plan:
    """The plan of `upsample_argmax_launch`.

    Its addresses: logits, labels, confidence, color, palette, not_finite.

    Args:
        logits: (N, C, h, w), a shape.
        labels: (N, H, W), a shape.
        dtype: Of the logits.
        label_dtype: Of the labels.
        confidence: Whether there is an address for it.
    """
    params = np.zeros(1, UPSAMPLE_ARGMAX)[0]
    params["batch"], params["classes"] = logits[:2]
    params["logits_height"], params["logits_width"] = logits[2:]
    params["height"], params["width"] = labels[1:]
    count, height, width = labels
    blocks = count * _tiles(height, ARGMAX_TILE[0]) * _tiles(width, ARGMAX_TILE[1])
    kind = "upsample_argmax_confidence" if confidence else "upsample_argmax"
    kernel = f"{kind}_{_SCALARS[dtype]}_{_LABELS[label_dtype]}"
    return Plan("upsample_argmax", kernel, number_bytes(params), blocks, ARGMAX_THREADS)


@functools.lru_cache(_MOST_PLANS)
def preprocess_plan(
    image: Shape,
    target: Shape,
    dtype: Dtype,
    swap: bool,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> Plan:
    """The plan of `preprocess_launch`.

    Its addresses: image, target.

    Args:
        image: (h, w, 3), a shape.
        target: (1, 3, H, W), a shape.
        dtype: Of the target.
        swap: Whether the network takes RGB.
        statistics: Mean and standard deviation of each of its channels.
    """
    params = np.zeros(1, PREPROCESS)[0]
    params["batch"] = 1
    params["image_height"], params["image_width"] = image[:2]
    params["height"], params["width"] = height, width = target[2:]
    params["swap"] = swap
    params["mean"], params["std"] = statistics
    blocks = _tiles(height, PREPROCESS_TILE[0]) * _tiles(width, PREPROCESS_TILE[1])
    kernel = f"preprocess_{_SCALARS[dtype]}"
    return Plan("preprocess", kernel, number_bytes(params), blocks, PREPROCESS_THREADS)


def _require_countable(source: str, params: np.void) -> None:
    """Refuse what the kernels cannot count in 32 bits, as ``countable`` in sampling_grid.h does.

    Raises:
        OptionError: A side or the output is too large.
    """
    assert params.dtype.names is not None
    for name in params.dtype.names:
        if name.endswith(("height", "width", "batch", "channels")) and params[name] > MOST_SIDE:
            raise OptionError(
                f"{source}: {name} is {params[name]}",
                f"{MOST_SIDE} at most",
                "pass smaller tensors",
            )
    pixels = int(params["height"]) * int(params["width"])
    if pixels > MOST_PIXELS:
        raise OptionError(
            f"{source}: the output has {pixels} pixels",
            f"{MOST_PIXELS} at most",
            "pass smaller tensors",
        )


def _tiles(size: int, tile: int) -> int:
    return -(-size // tile)
