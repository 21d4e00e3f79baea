"""Tables of the alignments: AlignedAdd, OffsetGridSample, and upsampling for the offsets.

The PyTorch equivalent is timed as eager operators and through ``torch.compile``. Inductor writes
two small grids and puts upsampling, both samples and the sum into one kernel, so the four steps of
plugins/README.md describe the traffic of eager PyTorch, not of compiled PyTorch.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alignseg_infer.models.norm import LEAKY_SLOPE
from alignseg_infer.ops.resampling import upsample_by_matrices
from alignseg_infer.ops.sampling import offset_grid_sample
from alignseg_infer.spec.model import SamplingConvention
from tests.benchmarks.gpu_timing import Rig, Row, Size, Table, Tensors, copy_row

CONVENTION = SamplingConvention.RELEASE_2021_12
TOLERANCES = {torch.float16: 2e-3, torch.float32: 1e-5}  # relative L2
GRID_TOLERANCE = 1e-4  # of a grid in float32, which PyTorch scales: 2.2e-5 was measured on an H100
LAYOUTS = {"planar": torch.contiguous_format, "NHWC": torch.channels_last}
OFFSETS = ("smooth", "steps", "noise")


def add_tables(rig: Rig) -> Iterator[Table]:
    """Yield the tables of ``sample(up(high)) + sample(low)``, at the sizes of the network."""
    for coarse, fine in rig.sizes.levels:
        yield add_table(rig, coarse, fine)


def add_table(rig: Rig, coarse: Size, fine: Size) -> Table:
    channels, half = rig.sizes.channels, torch.float16

    @functools.cache
    def make(kind: str, layout: str, number: int) -> Tensors:
        draw = partial(normal, rig, number, dtype=half)
        high, low = draw((1, channels, *coarse)), draw((1, channels, *fine))
        offsets = [offsets_of(rig, kind, fine, 2 * number + one, half) for one in (0, 1)]
        return (stored_as(layout, high), stored_as(layout, low), *offsets)

    @functools.cache
    def exact(kind: str) -> Tensor:
        return unfused(*(tensor.double() for tensor in make(kind, "planar", 0)))

    needed = nbytes((channels, *coarse), (channels, *fine), (4, *fine), (channels, *fine))
    functions = {"AlignedAdd": fused, **baselines(rig, unfused, "upsample, 2 samples, add")}
    rows = rows_of(functions, make, exact, needed, TOLERANCES[half])
    base = rows[len(LAYOUTS) * len(OFFSETS)].name
    title = f"AlignedAdd {channels}x{by(coarse)} to {by(fine)}, float16"
    return Table(title=title, rows=[copy_row(rig, needed), *rows], base=base)


def rows_of(
    functions: Mapping[str, Callable[..., Tensor]],
    make: Callable[[str, str, int], Tensors],
    exact: Callable[[str], Tensor],
    needed: int,
    tolerance: float,
) -> list[Row]:
    """Return one row for each function, memory format and kind of offsets."""
    return [
        Row(
            name=f"{name}, {layout}, {kind}",
            make=partial(make, kind, layout),
            call=function,
            needed=needed,
            error=lambda seen, kind=kind: relative_error(seen, exact(kind)),  # type: ignore[misc]
            tolerance=tolerance,
        )
        for name, function in functions.items()
        for layout in LAYOUTS
        for kind in OFFSETS
    ]


def sample_tables(rig: Rig) -> Iterator[Table]:
    """Yield the tables of one sample at offsets: of the context's summary, then of a feature."""
    fine = rig.sizes.levels[0][1]
    for size in (rig.sizes.context, (fine, fine)):
        yield sample_table(rig, *size, torch.float16)
    yield sample_table(rig, fine, fine, torch.float32)


def sample_table(rig: Rig, size: Size, output: Size, dtype: torch.dtype) -> Table:
    channels = rig.sizes.channels

    @functools.cache
    def make(kind: str, layout: str, number: int) -> Tensors:
        feature = normal(rig, number, (1, channels, *size), dtype=dtype)
        return stored_as(layout, feature), offsets_of(rig, kind, output, number, dtype)

    @functools.cache
    def exact(kind: str) -> Tensor:
        return defined(*(tensor.double() for tensor in make(kind, "planar", 0)))

    width = torch.finfo(dtype).bits // 8
    needed = nbytes((channels, *size), (2, *output), (channels, *output), width=width)
    rows = rows_of({"OffsetGridSample": sampled}, make, exact, needed, TOLERANCES[dtype])
    theirs = baselines(rig, defined, "F.grid_sample in float32")
    base = f"{next(iter(theirs))}, {next(iter(LAYOUTS))}, {OFFSETS[0]}"
    rows += rows_of(theirs, make, exact, needed, max(TOLERANCES[dtype], GRID_TOLERANCE))
    rows += given_grid_rows(rig, size, output, dtype, needed)
    title = f"OffsetGridSample {channels}x{by(size)} to {by(output)}, {dtype}".replace("torch.", "")
    return Table(title=title, rows=[copy_row(rig, needed), *rows], base=base)


def given_grid_rows(
    rig: Rig, size: Size, output: Size, dtype: torch.dtype, needed: int
) -> list[Row]:
    """Return rows that only time F.grid_sample, with a given grid in the feature's type."""

    def make(layout: str, number: int) -> Tensors:
        feature = normal(rig, number, (1, rig.sizes.channels, *size), dtype=dtype)
        theta = torch.tensor([[[1.0, 0.0, 0.01], [0.0, 1.0, -0.01]]], device=rig.device)
        grid = F.affine_grid(theta, [1, 1, *output], align_corners=False)
        return stored_as(layout, feature), grid.to(dtype)

    call = partial(F.grid_sample, mode="bilinear", align_corners=False)
    name = "F.grid_sample alone, grid given, {}"
    return [
        Row(name=name.format(layout), make=partial(make, layout), call=call, needed=needed)
        for layout in LAYOUTS
    ]


def form_tables(rig: Rig) -> Iterator[Table]:
    """Yield the tables of hidden features of both offset branches, ``lrelu(low + up(high))``."""
    for coarse, fine in rig.sizes.levels:
        yield form_table(rig, coarse, fine)


def form_table(rig: Rig, coarse: Size, fine: Size) -> Table:
    channels = 2 * rig.sizes.channels

    @functools.cache
    def make(layout: str, number: int) -> Tensors:
        draw = partial(normal, rig, number, dtype=torch.float16)
        pair = draw((1, channels, *coarse)), draw((1, channels, *fine))
        return tuple(stored_as(layout, tensor) for tensor in pair)

    @functools.cache
    def exact() -> Tensor:
        return hidden_by_resize(*(tensor.double() for tensor in make("planar", 0)))

    functions = {
        **baselines(rig, hidden_by_matrices, "matrices"),
        **baselines(rig, hidden_by_resize, "F.interpolate"),
    }
    needed = nbytes((channels, *coarse), (channels, *fine), (channels, *fine))
    rows = [
        Row(
            name=f"{name}, {layout}",
            make=partial(make, layout),
            call=function,
            needed=needed,
            error=lambda seen: relative_error(seen, exact()),
            tolerance=TOLERANCES[torch.float16],
        )
        for name, function in functions.items()
        for layout in LAYOUTS
    ]
    title = f"lrelu(low + up(high)) {channels}x{by(coarse)} to {by(fine)}, float16"
    return Table(title=title, rows=[copy_row(rig, needed), *rows], base=rows[0].name)


def baselines(rig: Rig, function: Callable[..., Any], name: str) -> dict[str, Callable[..., Any]]:
    """Return `function` as eager operators, and compiled."""
    return {f"{name}, eager": function, f"{name}, torch.compile": rig.compiled(function)}


def fused(high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor) -> Tensor:
    tensors = (high, low, high_offset, low_offset)
    result: Tensor = torch.ops.alignseg.aligned_add(*tensors, CONVENTION.value)
    return result


def unfused(high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor) -> Tensor:
    """Compute the same with PyTorch's operators: upsample, sample two grids, add."""
    up = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=True)
    return defined(up, high_offset) + defined(low, low_offset)


def sampled(feature: Tensor, offset: Tensor) -> Tensor:
    result: Tensor = torch.ops.alignseg.offset_grid_sample(feature, offset, CONVENTION.value)
    return result


def defined(feature: Tensor, offset: Tensor) -> Tensor:
    """Sample by the definition, which computes in float32 for float16 features."""
    return offset_grid_sample(feature, offset, CONVENTION)


def hidden_by_matrices(high: Tensor, low: Tensor) -> Tensor:
    """Compute as `rewrites.SplitOffsets` does with matrices."""
    up = upsample_by_matrices(high, (low.shape[-2], low.shape[-1]))
    return F.leaky_relu(low + up, LEAKY_SLOPE)


def hidden_by_resize(high: Tensor, low: Tensor) -> Tensor:
    up = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=True)
    return F.leaky_relu(low + up, LEAKY_SLOPE)


def offsets_of(rig: Rig, kind: str, size: Size, number: int, dtype: torch.dtype) -> Tensor:
    """Make offsets of a few pixels: smooth waves, plateaus with sharp edges, or noise."""
    if kind == "noise":
        return normal(rig, number, (1, 2, *size), dtype=dtype) * 3
    if kind == "steps":
        plateaus = normal(rig, number, (1, 2, 9, 17)) * 12
        return F.interpolate(plateaus, size, mode="nearest").to(dtype)
    coarse = normal(rig, number, (1, 2, 17, 33)) * 3
    return F.interpolate(coarse, size, mode="bicubic", align_corners=True).to(dtype)


def normal(
    rig: Rig, number: int, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Make random numbers, which are the same for the same shape and number."""
    random = torch.Generator(rig.device).manual_seed(number)
    return torch.randn(shape, generator=random, device=rig.device).to(dtype)


def stored_as(layout: str, tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=LAYOUTS[layout])


def nbytes(*shapes: tuple[int, ...], width: int = 2) -> int:
    """Return the bytes of tensors of these shapes, with `width` bytes per element."""
    return width * sum(math.prod(shape) for shape in shapes)


def relative_error(seen: Tensor, exact: Tensor) -> float:
    """Return the relative L2 error against float64."""
    if seen.shape != exact.shape:
        raise ValueError(f"the shape is {tuple(seen.shape)}, not {tuple(exact.shape)}")
    return float((seen.double() - exact).norm() / exact.norm())


def by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
