"""Plans: everything about the launch of a CUDA kernel except the addresses."""

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
# The numbers in plugins/kernels/convention.h. A test compares these, and the sizes below.
_CONVENTIONS = {
    SamplingConvention.RELEASE_2021_12: 0,
    SamplingConvention.RELEASE_2021_05: 1,
    SamplingConvention.STANDARD: 2,
}

# Threads of a block, and the output pixels (height, width) that it computes, as in
# sampling_grid.h and the *_math.h files.
SAMPLE_THREADS = 256
PLANAR_TILE = (8, 32)
PLANAR_CHANNELS = 16
CHANNELS_LAST_TILE = (4, 8)
ARGMAX_THREADS = 256
ARGMAX_TILE = (32, 64)
PREPROCESS_THREADS = 256
PREPROCESS_TILE = (8, 128)

MOST_SIDE, MOST_PIXELS = 2**30 - 1, 2**34  # of the sampling kernels
VECTOR_BYTES = 16  # read at once by the channels-last kernels
ANY_TAPS = 4  # of the AlignedAdd kernel that takes every size and address

# A network at one size needs ten plans; a folder of images needs two for each size in it.
_MOST_PLANS = 1024
Shape = tuple[int, ...]
Dtype = np.dtype[np.generic]


class Launch(NamedTuple):
    """One launch of one kernel.

    Attributes:
        source: The source file, without ``_kernel.cu``.
        kernel: The name of the kernel.
        params: The kernel's one argument, a structure, as bytes.
        blocks: Number of blocks, in one dimension.
        threads: Threads of a block.
    """

    source: str
    kernel: str
    params: bytes
    blocks: int
    threads: int


class Plan(NamedTuple):
    """A launch without its addresses: what sizes, types, layout and convention decide.

    Each combination of these has one plan. It never changes, so threads share it.

    Attributes:
        source: See `Launch`.
        kernel: See `Launch`.
        numbers: The bytes of the argument that follow its addresses.
        blocks: See `Launch`.
        threads: See `Launch`.
    """

    source: str
    kernel: str
    numbers: bytes
    blocks: int
    threads: int

    def at(self, *addresses: int) -> Launch:
        """Return the launch with these addresses, in the structure's order; 0 stands for none."""
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
    """Return the plan for `offset_grid_sample_launch`.

    It takes the addresses of feature, offset, output.

    Args:
        feature: Shape (N, C, h, w).
        output: Shape (N, C, H, W).
        dtypes: The dtype of feature and output, and the dtype of the offset.
        convention: The model's sampling convention.
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
    """Return the plan for `aligned_add_launch`.

    It takes the addresses of high, low, the offset of each, output.

    Args:
        shapes: (N, C, h, w) of high, (N, C, H, W) of low.
        dtypes: The dtype of features and output, and the dtype of both offsets.
        convention: The model's sampling convention.
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
    """Whether the kernels can read and write whole vectors at all of these addresses."""
    return all(address % VECTOR_BYTES == 0 for address in addresses)


def aligned_add_taps(coarse: Shape, fine: Shape) -> int:
    """Return how many coarse pixels per axis it takes to sample an upsampled feature at one point.

    It takes two where coarse pixels nest in fine ones, three in any upsampling, four in general;
    see ``composedTaps`` in ``plugins/kernels/sampling_coordinates.h``. Each count has its own
    kernel.

    Args:
        coarse: (h, w) before upsampling.
        fine: (H, W) after upsampling.
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
        blocks *= _count_tiles(height, tile[0]) * _count_tiles(width, tile[1])
    else:
        layout, tile = "planar", PLANAR_TILE
        blocks *= _count_tiles(_count_tiles(height, tile[0]) * width, tile[1])
        blocks *= _count_tiles(int(params["channels"]), PLANAR_CHANNELS)
    kernel = f"{source}_{layout}{taps}_{_SCALARS[dtypes[0]]}_{_SCALARS[dtypes[1]]}"
    return Plan(source, kernel, number_bytes(params), blocks, SAMPLE_THREADS)


@functools.lru_cache(_MOST_PLANS)
def upsample_argmax_plan(
    logits: Shape, labels: Shape, dtype: Dtype, label_dtype: Dtype, confidence: bool
) -> Plan:
    """Return the plan for `upsample_argmax_launch`.

    It takes the addresses of logits, labels, confidence, color, palette, not_finite.

    Args:
        logits: Shape (N, C, h, w).
        labels: Shape (N, H, W).
        dtype: The dtype of the logits.
        label_dtype: The dtype of the labels.
        confidence: Whether to compute confidence, so that it has an address.
    """
    params = np.zeros(1, UPSAMPLE_ARGMAX)[0]
    params["batch"], params["classes"] = logits[:2]
    params["logits_height"], params["logits_width"] = logits[2:]
    params["height"], params["width"] = labels[1:]
    count, height, width = labels
    blocks = count * _count_tiles(height, ARGMAX_TILE[0]) * _count_tiles(width, ARGMAX_TILE[1])
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
    """Return the plan for `preprocess_launch`.

    It takes the addresses of image, target.

    Args:
        image: Shape (h, w, 3).
        target: Shape (1, 3, H, W).
        dtype: The dtype of the target.
        swap: Whether the network takes RGB.
        statistics: Mean and standard deviation of each of its channels.
    """
    params = np.zeros(1, PREPROCESS)[0]
    params["batch"] = 1
    params["image_height"], params["image_width"] = image[:2]
    params["height"], params["width"] = height, width = target[2:]
    params["swap"] = swap
    params["mean"], params["std"] = statistics
    blocks = _count_tiles(height, PREPROCESS_TILE[0]) * _count_tiles(width, PREPROCESS_TILE[1])
    kernel = f"preprocess_{_SCALARS[dtype]}"
    return Plan("preprocess", kernel, number_bytes(params), blocks, PREPROCESS_THREADS)


def _require_countable(source: str, params: np.void) -> None:
    """Refuse sizes that the kernels cannot count in 32 bits, like ``countable`` in sampling_grid.h.

    Raises:
        OptionError: A side or the output is too large.
    """
    assert params.dtype.names is not None
    for name in params.dtype.names:
        if name.endswith(("height", "width", "batch", "channels")) and params[name] > MOST_SIDE:
            raise OptionError(
                f"{source}: {name} is {params[name]}",
                f"at most {MOST_SIDE}",
                "pass smaller tensors",
            )
    pixels = int(params["height"]) * int(params["width"])
    if pixels > MOST_PIXELS:
        raise OptionError(
            f"{source}: the output has {pixels} pixels",
            f"at most {MOST_PIXELS}",
            "pass smaller tensors",
        )


def _count_tiles(size: int, tile: int) -> int:
    return -(-size // tile)
