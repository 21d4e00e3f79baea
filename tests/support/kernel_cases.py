"""The cases of the sampling kernels, for a CPU build or a GPU.

A runner takes a case, uploads `stored_inputs(case)`, launches with `fields(case, addresses)` and
passes the output to `check(case, output)`.
"""

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backports import StrEnum
from alignseg_infer.cuda.plans import ANY_TAPS, VECTOR_BYTES, aligned_add_taps
from alignseg_infer.spec.model import SamplingConvention

Array = NDArray[np.generic]
Double = NDArray[np.float64]
Size = tuple[int, int]

FLOAT_TOLERANCE = 1e-5  # relative L2, and for each value
HALF_TOLERANCE = 2e-3  # relative L2
HALF_ROUNDING = 2.0**-11  # added for each value, which is computed in float and rounded once

CONVENTION_CODES = {
    SamplingConvention.RELEASE_2021_12: 0,
    SamplingConvention.RELEASE_2021_05: 1,
    SamplingConvention.STANDARD: 2,
}


class Op(StrEnum):
    """The two operations, by their names in the kernels' entry points."""

    SAMPLE = "offset_grid_sample"
    ADD = "aligned_add"


class Scalar(StrEnum):
    """Types in which tensors are stored, by their names in the kernels' entry points."""

    FLOAT = "float"
    HALF = "half"

    @property
    def dtype(self) -> type[np.float32] | type[np.float16]:
        return np.float32 if self is Scalar.FLOAT else np.float16

    @property
    def code(self) -> int:
        return 0 if self is Scalar.FLOAT else 1


@dataclass(frozen=True, kw_only=True)
class KernelCase:
    """One call of a kernel.

    Attributes:
        op: The operation.
        coarse: (h, w) of the feature that is sampled, or of `high`.
        size: (H, W) of the output, and of `low`.
        batch: N.
        channels: C.
        convention: The formula for coordinates.
        feature: Type of features and output.
        offset: Type of offsets.
        pitch: 0 for planar; otherwise channels last, with this many channels stored per pixel.
        reach: Standard deviation of offsets.
    """

    op: Op
    coarse: Size
    size: Size
    batch: int = 1
    channels: int = 5
    convention: SamplingConvention = SamplingConvention.RELEASE_2021_12
    feature: Scalar = Scalar.FLOAT
    offset: Scalar = Scalar.FLOAT
    pitch: int = 0
    reach: float = 3.0

    def __str__(self) -> str:
        shape = f"{self.batch}x{self.channels}x{_by(self.coarse)}-to-{_by(self.size)}"
        layout = f"last{self.pitch}" if self.pitch else "planar"
        types = f"{self.feature}-{self.offset}"
        return f"{self.op}-{shape}-{self.convention}-{types}-{layout}-reach{self.reach:g}"

    @property
    def entry_point(self) -> str:
        """Name of the entry point that NVRTC compiles."""
        layout = "channels_last" if self.pitch else "planar"
        taps = f"_{self.taps}" if self.op is Op.ADD else ""
        return f"{self.op}_{layout}{taps}_{self.feature}_{self.offset}"

    @property
    def taps(self) -> int:
        """Coarse pixels along each axis that the kernel of AlignedAdd reads."""
        vectors = self.pitch * np.dtype(self.feature.dtype).itemsize % VECTOR_BYTES == 0
        return aligned_add_taps(self.coarse, self.size) if vectors else ANY_TAPS

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output as stored."""
        stored = (*self.size, self.pitch) if self.pitch else (self.channels, *self.size)
        return (self.batch, *stored)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def inputs(case: KernelCase) -> dict[str, Array]:
    """Make tensors in the order of the fields: (N, C, h, w) features, (N, 2, H, W) offsets."""
    random = np.random.default_rng(zlib.crc32(str(case).encode()))

    def normal(channels: int, size: Size, scalar: Scalar, scale: float = 1.0) -> Array:
        values = random.normal(scale=scale, size=(case.batch, channels, *size))
        stored: Array = values.astype(scalar.dtype)
        return stored

    coarse = normal(case.channels, case.coarse, case.feature)
    first = normal(2, case.size, case.offset, case.reach)
    if case.op is Op.SAMPLE:
        return {"feature": coarse, "offset": first}
    low = normal(case.channels, case.size, case.feature)
    second = normal(2, case.size, case.offset, case.reach)
    return {"high": coarse, "low": low, "high_offset": first, "low_offset": second}


def expected(case: KernelCase, tensors: Mapping[str, Array]) -> Double:
    """Compute the definition in float64 from the stored inputs: (N, C, H, W)."""
    import torch  # here, so that a process without it can run the kernels
    from torch.nn import functional as F

    from alignseg_infer.ops.sampling import offset_grid_sample

    given = {
        name: torch.from_numpy(np.asarray(value, np.float64)) for name, value in tensors.items()
    }
    if case.op is Op.SAMPLE:
        return offset_grid_sample(given["feature"], given["offset"], case.convention).numpy()
    upsampled = F.interpolate(given["high"], case.size, mode="bilinear", align_corners=True)
    high = offset_grid_sample(upsampled, given["high_offset"], case.convention)
    low = offset_grid_sample(given["low"], given["low_offset"], case.convention)
    return (high + low).numpy()


def stored(case: KernelCase, name: str, tensor: Array) -> Array:
    """Store a tensor as the kernel expects it, with NaN in channels that are only padding."""
    if not case.pitch or name.endswith("offset"):
        return np.ascontiguousarray(tensor)
    batch, channels, height, width = tensor.shape
    last = np.full((batch, height, width, case.pitch), np.nan, tensor.dtype)
    last[..., :channels] = tensor.transpose(0, 2, 3, 1)
    return last


def stored_inputs(case: KernelCase) -> dict[str, Array]:
    """Store `inputs(case)` as the kernel expects them in memory."""
    return {name: stored(case, name, tensor) for name, tensor in inputs(case).items()}


def fields(case: KernelCase, addresses: Mapping[str, int]) -> list[int]:
    """Return the parameter struct of the kernel as 64-bit integers.

    Args:
        case: The call.
        addresses: Of the inputs, by name, and of ``output``.
    """
    coarse_names = ["feature", "offset"] if case.op is Op.SAMPLE else ["high", "low"]
    names = [*coarse_names, *([] if case.op is Op.SAMPLE else ["high_offset", "low_offset"])]
    pointers = [addresses[name] for name in [*names, "output"]]
    sizes = [case.batch, case.channels, *case.coarse, *case.size]
    return [*pointers, *sizes, case.pitch, CONVENTION_CODES[case.convention]]


def check(case: KernelCase, output: Array, want: Double | None = None) -> None:
    """Fail unless the stored `output` is `want`, by default the result of the definition."""
    assert output.shape == case.output_shape
    assert output.dtype == case.feature.dtype
    want = expected(case, inputs(case)) if want is None else want
    seen = output.astype(np.float64)
    if case.pitch:
        assert not seen[..., case.channels :].any(), "channels that pad are not zero"
        seen = seen[..., : case.channels].transpose(0, 3, 1, 2)
    half = case.feature is Scalar.HALF
    allowed = FLOAT_TOLERANCE + (HALF_ROUNDING * np.abs(want) if half else 0.0)
    np.testing.assert_array_less(np.abs(seen - want), np.broadcast_to(allowed, want.shape))
    distance = np.linalg.norm(seen - want)
    assert distance <= (HALF_TOLERANCE if half else FLOAT_TOLERANCE) * np.linalg.norm(want)


def pitches(channels: int, feature: Scalar) -> tuple[int, ...]:
    """Return pitches: planar, channels last as in TensorRT (kHWC8, kHWC), and a wider one."""
    padded = -(-channels // 8) * 8
    return (0, padded, padded + 3) if feature is Scalar.HALF else (0, channels, padded + 4)


# (h, w), (H, W), N, C
SAMPLE_SHAPES: tuple[tuple[Size, Size, int, int], ...] = (
    ((1, 1), (1, 1), 1, 1),
    ((3, 3), (1, 1), 2, 4),
    ((3, 3), (5, 9), 2, 33),  # CAM
    ((4, 6), (5, 1), 1, 3),  # W = 1, for which one convention computes 0 / 0
    ((6, 4), (1, 7), 1, 9),
    ((5, 1), (3, 4), 1, 2),
    ((20, 35), (9, 11), 1, 16),
    ((17, 66), (17, 66), 1, 40),  # more than one tile and one chunk of channels
)
ADD_SHAPES: tuple[tuple[Size, Size, int, int], ...] = (
    ((1, 1), (1, 1), 1, 1),
    ((1, 1), (4, 5), 2, 3),
    ((3, 3), (1, 1), 1, 8),
    ((5, 4), (7, 1), 1, 9),
    ((5, 9), (9, 17), 2, 35),  # coarse pixels nest in fine ones: two taps
    ((5, 5), (5, 5), 1, 4),
    ((4, 6), (9, 13), 2, 5),  # coarse pixels do not nest: three taps
    ((9, 11), (10, 70), 1, 33),
    ((7, 11), (4, 6), 1, 16),  # the coarse feature is larger than the fine one: four taps
    ((9, 3), (5, 8), 1, 7),
)


# All conventions in float, and the other types in one convention each.
KINDS: tuple[tuple[SamplingConvention, Scalar, Scalar], ...] = (
    *((convention, Scalar.FLOAT, Scalar.FLOAT) for convention in SamplingConvention),
    (SamplingConvention.RELEASE_2021_12, Scalar.HALF, Scalar.HALF),
    (SamplingConvention.RELEASE_2021_05, Scalar.HALF, Scalar.FLOAT),
    (SamplingConvention.STANDARD, Scalar.FLOAT, Scalar.HALF),
)


def _cases(op: Op, shapes: tuple[tuple[Size, Size, int, int], ...]) -> list[KernelCase]:
    return [
        KernelCase(
            op=op,
            coarse=coarse,
            size=size,
            batch=batch,
            channels=channels,
            convention=convention,
            feature=feature,
            offset=offset,
            pitch=pitch,
        )
        for (coarse, size, batch, channels), kind in itertools.product(shapes, KINDS)
        for convention, feature, offset in (kind,)
        for pitch in pitches(channels, feature)
    ]


# Offsets of zero, which leave a feature in place, as in plugin_ops.add_upsampled.
_STILL = [
    KernelCase(
        op=Op.ADD,
        coarse=coarse,
        size=(17, 33),
        channels=16,
        convention=SamplingConvention.STANDARD,
        feature=feature,
        offset=feature,
        pitch=pitch,
        reach=0.0,
    )
    for coarse in ((9, 17), (3, 3), (7, 30))
    for feature in Scalar
    for pitch in (0, 16)
]

CASES: list[KernelCase] = [
    *_cases(Op.SAMPLE, SAMPLE_SHAPES),
    *_cases(Op.ADD, ADD_SHAPES),
    *_STILL,
]
