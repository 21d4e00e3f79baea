"""Our CUDA kernels on one GPU: what each is called, takes, and how many blocks it needs.

The one argument of each is a structure, field by field that of ``plugins/kernels/*_params.h``.
"""

import contextlib
import functools
import math
import struct
import threading
from typing import NamedTuple

import numpy as np

from alignseg_infer.cuda.base import Cuda
from alignseg_infer.errors import OptionError
from alignseg_infer.spec.model import ChannelOrder, InputSpec, SamplingConvention

IMAGE_KERNELS = ("preprocess", "upsample_argmax")
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


def _params(addresses: str, numbers: str, triples: str = "") -> np.dtype[np.void]:
    """A structure of eight bytes per field, addresses first, then three floats per triple."""
    fields = [(name, "u8", ()) for name in addresses.split()]
    fields += [(name, "i8", ()) for name in numbers.split()]
    return np.dtype([*fields, *((name, "f4", (3,)) for name in triples.split())])


OFFSET_GRID_SAMPLE = _params(
    "feature offset output",
    "batch channels feature_height feature_width height width channel_pitch convention",
)
ALIGNED_ADD = _params(
    "high low high_offset low_offset output",
    "batch channels high_height high_width height width channel_pitch convention",
)
UPSAMPLE_ARGMAX = _params(
    "logits labels confidence color palette not_finite",
    "batch classes logits_height logits_width height width",
)
PREPROCESS = _params(
    "images output", "batch image_height image_width height width swap", "mean std"
)


class DeviceTensor(NamedTuple):
    """A dense array in GPU memory."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def part(self, index: int) -> "DeviceTensor":
        """``self[index : index + 1]``."""
        shape = (1, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        return DeviceTensor(self.address + index * size, shape, self.dtype)


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


class Kernels:
    """Launches kernels on one GPU; each source file is compiled when it is first used.

    May be used by several threads at once.

    Args:
        cuda: The GPU.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._modules: dict[str, int] = {}
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()

    def load(self, *sources: str) -> None:
        """Compiles and loads source files now instead of later.

        Raises:
            MissingDependencyError: What compiles them is not installed.
            CudaError: They do not compile or load.
        """
        for source in sources:
            self._module(source)

    def run(self, launch: Launch, stream: int) -> None:
        """Starts a kernel, inside ``with cuda.current():``.

        Raises:
            MissingDependencyError, CudaError: As `load` does; or the launch fails.
        """
        if launch.blocks == 0:
            return
        module = self._modules.get(launch.source)
        self._cuda.launch(
            self._module(launch.source) if module is None else module,
            launch.kernel,
            (launch.params,),
            grid=(launch.blocks, 1, 1),
            block=(launch.threads, 1, 1),
            stream=stream,
        )

    def close(self) -> None:
        """Unloads everything; no kernel may be running."""
        with self._cuda.current():
            self._stack.close()
        self._modules.clear()

    def _module(self, source: str) -> int:
        from alignseg_infer.cuda.nvrtc import compiled_kernel

        with self._lock:
            if source not in self._modules:
                image = compiled_kernel(source, self._cuda.gpu.compute_capability)
                with self._cuda.current():
                    module = self._cuda.load_module(image)
                    self._stack.callback(self._cuda.free_module, module)
                self._modules[source] = module
            return self._modules[source]


def offset_grid_sample_launch(
    feature: DeviceTensor,
    offset: DeviceTensor,
    output: DeviceTensor,
    convention: SamplingConvention,
    *,
    channels_last: bool = False,
) -> Launch:
    """Samples `feature` at the positions that `offset` points to; see `ops.sampling`.

    Args:
        feature: (N, C, h, w) float32 or float16.
        offset: (N, 2, H, W) float32 or float16, planar.
        output: (N, C, H, W) of the feature's dtype.
        convention: Which formula.
        channels_last: Whether feature and output are stored as (N, h, w, C).
    """
    plan = offset_grid_sample_plan(
        feature.shape, output.shape, (feature.dtype, offset.dtype), convention, channels_last
    )
    return plan.at(feature.address, offset.address, output.address)


def aligned_add_launch(
    features: tuple[DeviceTensor, DeviceTensor],
    offsets: tuple[DeviceTensor, DeviceTensor],
    output: DeviceTensor,
    convention: SamplingConvention,
    *,
    channels_last: bool = False,
) -> Launch:
    """``sample(upsample(high), high_offset) + sample(low, low_offset)``, in one pass.

    Args:
        features: ``high``, (N, C, h, w), and ``low``, (N, C, H, W); float32 or float16.
        offsets: That of ``high`` and that of ``low``, each (N, 2, H, W) float32 or float16, planar.
        output: (N, C, H, W) of the features' dtype.
        convention: Which formula.
        channels_last: Whether features and output are stored as (N, h, w, C).
    """
    (high, low), (high_offset, low_offset) = features, offsets
    addresses = high.address, low.address, output.address
    plan = aligned_add_plan(
        (high.shape, low.shape),
        (low.dtype, low_offset.dtype),
        convention,
        channels_last=channels_last,
        aligned=is_aligned(*addresses),
    )
    return plan.at(
        *(high.address, low.address, high_offset.address, low_offset.address, output.address)
    )


def upsample_argmax_launch(
    logits: DeviceTensor, labels: DeviceTensor, *, confidence: int = 0, not_finite: int = 0
) -> Launch:
    """Labels at image size: the argmax of logits upsampled with aligned corners.

    Args:
        logits: (N, C, h, w) float32 or float16.
        labels: (N, H, W) uint8, uint16 or int32.
        confidence: Address for (N, H, W) uint8, ``round(255 * probability)``; 0 for none.
        not_finite: Address of an int32 that becomes 1 if a logit is NaN or infinite; 0 for none.
    """
    plan = upsample_argmax_plan(
        *(logits.shape, labels.shape, logits.dtype, labels.dtype, confidence != 0)
    )
    return plan.at(logits.address, labels.address, confidence, 0, 0, not_finite)


def preprocess_launch(image: DeviceTensor, target: DeviceTensor, spec: InputSpec) -> Launch:
    """What `preprocess.preprocess` does.

    Args:
        image: (h, w, 3) uint8 BGR.
        target: (1, 3, H, W) float32 or float16.
        spec: Channel order, mean and std.
    """
    statistics = tuple(spec.mean), tuple(spec.std)
    swap = spec.channel_order is ChannelOrder.RGB
    plan = _preprocess_plan(image.shape, target.shape, target.dtype, swap, statistics)
    return plan.at(image.address, target.address)


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
    return Plan(source, kernel, _numbers(params), blocks, SAMPLE_THREADS)


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
    return Plan("upsample_argmax", kernel, _numbers(params), blocks, ARGMAX_THREADS)


@functools.lru_cache(_MOST_PLANS)
def _preprocess_plan(
    image: Shape,
    target: Shape,
    dtype: Dtype,
    swap: bool,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> Plan:
    params = np.zeros(1, PREPROCESS)[0]
    params["batch"] = 1
    params["image_height"], params["image_width"] = image[:2]
    params["height"], params["width"] = height, width = target[2:]
    params["swap"] = swap
    params["mean"], params["std"] = statistics
    blocks = _tiles(height, PREPROCESS_TILE[0]) * _tiles(width, PREPROCESS_TILE[1])
    kernel = f"preprocess_{_SCALARS[dtype]}"
    return Plan("preprocess", kernel, _numbers(params), blocks, PREPROCESS_THREADS)


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


def _numbers(params: np.void) -> bytes:
    """The fields of a structure that come after its addresses."""
    assert params.dtype.fields is not None
    addresses = [kind for kind, *_ in params.dtype.fields.values() if kind == np.uint64]
    return params.tobytes()[sum(kind.itemsize for kind in addresses) :]


def _tiles(size: int, tile: int) -> int:
    return -(-size // tile)
