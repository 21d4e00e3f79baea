"""The sampling kernels, built for the CPU, against the definition and against PyTorch."""

import ctypes
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from alignseg_infer.models import decoder
from alignseg_infer.models.decoder import CAB, Aligned
from alignseg_infer.spec.model import SamplingConvention
from tests.support.host_kernels import HOST_CUDA, host_library
from tests.support.kernel_cases import (
    CASES,
    Array,
    Double,
    KernelCase,
    Op,
    Scalar,
    check,
    expected,
    fields,
    inputs,
    stored,
    stored_inputs,
)
from tests.support.models import DATA

SOURCE = HOST_CUDA / "host_sampling.cpp"
SUCCESS, INVALID_VALUE = 0, 1
Words = ctypes.Array[ctypes.c_int64]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels for the CPU."""
    return host_library([SOURCE], tmp_path_factory.mktemp("sampling"))


def packed(values: list[int]) -> Words:
    return (ctypes.c_int64 * len(values))(*values)


def launched(library: ctypes.CDLL, case: KernelCase, tensors: Mapping[str, Array]) -> Array:
    """Return the launcher's output for stored `tensors`; it holds garbage before the launch."""
    output = np.full(case.output_shape, 77.0, case.feature.dtype)
    addresses = {name: tensor.ctypes.data for name, tensor in tensors.items()}
    params = packed(fields(case, {**addresses, "output": output.ctypes.data}))
    status = library[case.op](ctypes.byref(params), case.feature.code, case.offset.code)
    assert status == SUCCESS
    return output


def run(library: ctypes.CDLL, case: KernelCase, tensors: Mapping[str, Array]) -> Array:
    """`launched` with tensors that are not yet stored as the case wants them."""
    given_tensors = {name: stored(case, name, tensor) for name, tensor in tensors.items()}
    return launched(library, case, given_tensors)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(library: ctypes.CDLL, case: KernelCase) -> None:
    check(case, launched(library, case, stored_inputs(case)))


def test_check_sees_a_wrong_value(library: ctypes.CDLL) -> None:
    for case in (CASES[20], dataclasses.replace(CASES[20], feature=Scalar.HALF)):
        output = launched(library, case, stored_inputs(case))
        check(case, output)
        output.flat[-1] = float(output.flat[-1]) + 0.01
        with pytest.raises(AssertionError):
            check(case, output)


# ---- By hand. ----


def sampled(library: ctypes.CDLL, case: KernelCase, feature: Array, offset: Array) -> Array:
    tensors = {"feature": feature, "offset": offset}
    return run(library, case, {name: t.astype(np.float32) for name, t in tensors.items()})


def test_ramp_by_hand(library: ctypes.CDLL) -> None:
    """The worked number of ops.sampling: w = 3, W = 5, x = 2, dx = 1 reads x = 1.5."""
    ramp = np.tile(np.array([10.0, 20.0, 40.0]), (1, 1, 3, 1))
    offset = np.zeros((1, 2, 5, 5))
    offset[0, 0, 2, 2] = 1.0
    for convention in (SamplingConvention.RELEASE_2021_12, SamplingConvention.STANDARD):
        case = KernelCase(
            op=Op.SAMPLE, coarse=(3, 3), size=(5, 5), channels=1, convention=convention
        )
        assert sampled(library, case, ramp, offset)[0, 0, 2, 2] == 30.0


def test_zero_offsets_of_standard_copy(library: ctypes.CDLL) -> None:
    case = KernelCase(
        op=Op.SAMPLE,
        coarse=(7, 11),
        size=(7, 11),
        convention=SamplingConvention.STANDARD,
        reach=0.0,
    )
    tensors = inputs(case)
    np.testing.assert_array_equal(run(library, case, tensors), tensors["feature"])


def test_aligned_add_of_nothing_to_move(library: ctypes.CDLL) -> None:
    """Coarse (1, 3) and fine (1, 5) ramps with zero offsets: 0, 1, 2, 3, 4 and ten times that."""
    case = KernelCase(
        op=Op.ADD, coarse=(1, 3), size=(1, 5), channels=1, convention=SamplingConvention.STANDARD
    )
    zero = np.zeros((1, 2, 1, 5), np.float32)
    tensors = {
        "high": np.array([0, 2, 4], np.float32).reshape(1, 1, 1, 3),
        "low": 10 * np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5),
        "high_offset": zero,
        "low_offset": zero,
    }
    assert run(library, case, tensors).ravel().tolist() == [0, 11, 22, 33, 44]


# ---- Against PyTorch's own operations, with independently written grids. ----


def grid_of(offset: torch.Tensor, size: tuple[int, int], convention: SamplingConvention) -> Array:
    """Compute the normalised grid as the authors' code does, (N, H, W, 2)."""
    height, width = size
    rows, columns = offset.shape[-2:]
    y = torch.linspace(-1, 1, rows, dtype=torch.float64).reshape(-1, 1).expand(rows, columns)
    x = torch.linspace(-1, 1, columns, dtype=torch.float64).expand(rows, columns)
    match convention:
        case SamplingConvention.RELEASE_2021_12:
            divisors = (float(width), float(height))
        case SamplingConvention.RELEASE_2021_05:
            divisors = (float(height), float(width))
        case SamplingConvention.STANDARD:
            divisors = (max(columns - 1, 1) / 2, max(rows - 1, 1) / 2)
    moved = offset.permute(0, 2, 3, 1) / torch.tensor(divisors)
    grid: Array = (torch.stack((x, y), -1) + moved).numpy()
    return grid


def by_torch(feature: torch.Tensor, offset: torch.Tensor, convention: SamplingConvention) -> Double:
    grid = torch.from_numpy(grid_of(offset, (feature.shape[2], feature.shape[3]), convention))
    aligned = convention is SamplingConvention.STANDARD
    sample: Double = F.grid_sample(feature, grid, align_corners=aligned).numpy()
    return sample


@pytest.mark.parametrize("convention", SamplingConvention)
@pytest.mark.parametrize("pitch", [0, 8])
def test_against_torch(library: ctypes.CDLL, convention: SamplingConvention, pitch: int) -> None:
    for op, coarse in ((Op.SAMPLE, (3, 3)), (Op.ADD, (5, 9)), (Op.ADD, (6, 7)), (Op.ADD, (20, 30))):
        case = KernelCase(op=op, coarse=coarse, size=(9, 17), convention=convention, pitch=pitch)
        tensors = inputs(case)
        given_tensors = {n: torch.from_numpy(t.astype(np.float64)) for n, t in tensors.items()}
        if op is Op.SAMPLE:
            want = by_torch(given_tensors["feature"], given_tensors["offset"], convention)
        else:
            high = F.interpolate(
                given_tensors["high"], (9, 17), mode="bilinear", align_corners=True
            )
            first = by_torch(high, given_tensors["high_offset"], convention)
            want = first + by_torch(given_tensors["low"], given_tensors["low_offset"], convention)
        check(case, run(library, case, tensors), want)


# ---- Any shape, and offsets of any kind. ----


@st.composite
def cases(draw: st.DrawFn) -> KernelCase:
    size = st.tuples(st.integers(1, 9), st.integers(1, 12))
    channels = draw(st.integers(1, 11))
    return KernelCase(
        op=draw(st.sampled_from(Op)),
        coarse=draw(size),
        size=draw(size),
        batch=draw(st.integers(1, 2)),
        channels=channels,
        convention=draw(st.sampled_from(SamplingConvention)),
        feature=draw(st.sampled_from(Scalar)),
        offset=draw(st.sampled_from(Scalar)),
        pitch=draw(st.sampled_from([0, 0, 0, 16, channels])),
        reach=draw(st.sampled_from([0.0, 0.5, 3.0, 300.0])),
    )


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases())
def test_any_shape(library: ctypes.CDLL, case: KernelCase) -> None:
    check(case, launched(library, case, stored_inputs(case)))


OUTSIDE = (np.nan, np.inf, -np.inf, 3e38, -3e38, 2.0**31, -(2.0**31), 1e9, -1e9, 65504.0, -65504.0)


@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("scalar", Scalar)
@pytest.mark.parametrize("convention", SamplingConvention)
@pytest.mark.parametrize("pitch", [0, 8])
def test_wild_offsets_give_zero(
    library: ctypes.CDLL, op: Op, scalar: Scalar, convention: SamplingConvention, pitch: int
) -> None:
    case = KernelCase(
        op=op, coarse=(5, 6), size=(4, 11), convention=convention, offset=scalar, pitch=pitch
    )
    for channel in (0, 1):  # along x, then y; the other axis stays where it is
        tensors = inputs(case)
        for name in tensors:
            if name.endswith("offset"):
                with np.errstate(over="ignore"):
                    tensors[name][:, channel] = np.array(OUTSIDE, scalar.dtype)
        assert not run(library, case, tensors).any()


def test_pixels_outside_are_not_read(library: ctypes.CDLL) -> None:
    """NaN and infinity do no harm where no offset points, and are seen where one does."""
    case = KernelCase(op=Op.ADD, coarse=(5, 9), size=(9, 17), channels=2, reach=0.4)
    tensors = inputs(case)
    want = expected(case, tensors)
    # Bottom rows of either feature, which the top half of the output does not reach.
    tensors["high"][:, :, -1] = np.nan
    tensors["low"][:, :, -1] = np.inf
    output = run(library, case, tensors).astype(np.float64)
    np.testing.assert_allclose(output[:, :, :5], want[:, :, :5], atol=1e-5)
    assert not np.isfinite(output[:, :, -1]).all()


def test_corners_outside_take_nothing_of_the_edge(library: ctypes.CDLL) -> None:
    """Half a pixel before the first one, half its value is left, upsampled or not."""
    offset = np.zeros((1, 2, 3, 3), np.float32)
    offset[0, 0] = -0.5
    case = KernelCase(
        op=Op.ADD, coarse=(2, 2), size=(3, 3), channels=1, convention=SamplingConvention.STANDARD
    )
    tensors = {
        "high": np.ones((1, 1, 2, 2), np.float32),
        "low": np.zeros((1, 1, 3, 3), np.float32),
        "high_offset": offset,
        "low_offset": offset,
    }
    assert run(library, case, tensors)[0, 0].tolist() == [[0.5, 1.0, 1.0]] * 3


# ---- Launchers refuse invalid arguments, and return early if there is nothing to do. ----


def launcher_status(library: ctypes.CDLL, op: Op, *, feature: int = 0, **changes: int) -> int:
    case = KernelCase(op=op, coarse=(2, 2), size=(2, 2), channels=4)
    tensors = stored_inputs(case)
    output = np.zeros(case.output_shape, np.float32)
    names = [*tensors, "output", "batch", "channels", "coarse_height", "coarse_width"]
    names += ["height", "width", "pitch", "convention"]
    addresses = {name: tensor.ctypes.data for name, tensor in tensors.items()}
    values = fields(case, {**addresses, "output": output.ctypes.data})
    params = dict(zip(names, values, strict=True))
    assert set(changes) <= set(params)
    return int(library[op](ctypes.byref(packed(list((params | changes).values()))), feature, 0))


REFUSED = (
    {"convention": 3},
    {"convention": -1},
    {"pitch": 3},  # less than channels
    {"pitch": -4},
    {"batch": -1},
    {"width": -1},
    {"width": 2**31},
    {"height": 2**30 - 1, "width": 2**30 - 1, "channels": 8},
    {"coarse_height": 0},
    {"output": 0},
)


@pytest.mark.parametrize("op", Op)
def test_launchers_refuse(library: ctypes.CDLL, op: Op) -> None:
    assert launcher_status(library, op) == SUCCESS
    for changes in REFUSED:
        assert launcher_status(library, op, **changes) == INVALID_VALUE, changes
    assert launcher_status(library, op, feature=2) == INVALID_VALUE


@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("empty", ["batch", "channels", "height", "width"])
def test_launchers_do_nothing_for_empty_output(library: ctypes.CDLL, op: Op, empty: str) -> None:
    assert launcher_status(library, op, **{empty: 0, "output": 0}) == SUCCESS


# ---- Addresses beyond 32 bits, in memory of which only the touched pages exist. ----


def sparse(
    path: Path, shape: tuple[int, ...]
) -> "np.memmap[tuple[int, ...], np.dtype[np.float16]]":
    return np.memmap(path, np.float16, "w+", shape=shape)


@pytest.mark.parametrize("last", [False, True], ids=["planar", "channels-last"])
@pytest.mark.parametrize("op", Op)
def test_addresses_have_64_bits(library: ctypes.CDLL, tmp_path: Path, op: Op, last: bool) -> None:
    """The last block of 2 x 40 x 8200 x 8200: 5.4e9 values a tensor, 10.8 GB if not sparse."""
    batch, channels, height, width = 2, 40, 8200, 8200
    shape = (batch, height, width, channels) if last else (batch, channels, height, width)
    names = ["feature"] if op is Op.SAMPLE else ["high", "low"]
    tensors: dict[str, Array] = {name: sparse(tmp_path / name, shape) for name in names}
    offsets = ["offset"] if op is Op.SAMPLE else ["high_offset", "low_offset"]
    field = np.memmap(tmp_path / "field", np.float32, "w+", shape=(batch, 2, height, width))
    output = sparse(tmp_path / "output", shape)
    corner = (
        (-1, slice(-2, None), slice(-2, None))
        if last
        else (-1, ..., slice(-2, None), slice(-2, None))
    )
    for name in names:
        tensors[name][corner] = 3.0
    case = KernelCase(
        op=op,
        coarse=(height, width),
        size=(height, width),
        batch=batch,
        channels=channels,
        convention=SamplingConvention.STANDARD,
        feature=Scalar.HALF,
        pitch=channels if last else 0,
    )
    addresses = {name: tensor.ctypes.data for name, tensor in tensors.items()}
    addresses |= dict.fromkeys(offsets, field.ctypes.data) | {"output": output.ctypes.data}
    library.sample_blocks.restype = ctypes.c_int64
    library.sample_blocks.argtypes = [ctypes.c_int64] * 5
    blocks = library.sample_blocks(batch, channels, height, width, case.pitch)
    params = packed(fields(case, addresses))
    library[f"{op}_block"](ctypes.byref(params), ctypes.c_uint(blocks - 1))
    # A planar block has 16 channels, the last one what is left of 40.
    written = output[corner] if last else output[corner].reshape(-1, 2, 2)[-8:]
    assert (written == (3.0 if op is Op.SAMPLE else 6.0)).all()


def test_blocks(library: ctypes.CDLL) -> None:
    """Python computes the same block counts as the launchers, for kernels compiled by NVRTC."""
    library.sample_blocks.restype = ctypes.c_int64
    library.sample_blocks.argtypes = [ctypes.c_int64] * 5
    assert library.sample_blocks(2, 65, 5, 65, 0) == 2 * 5 * 3
    assert library.sample_blocks(1, 16, 257, 513, 0) == 530  # 33 strips of 513 columns, by 32
    assert library.sample_blocks(2, 65, 9, 17, 72) == 2 * 3 * 3
    assert library.sample_blocks(2, 65, 9, 0, 72) == 0


# ---- portable.h ----


def pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_every_half_is_read(library: ctypes.CDLL) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    seen = np.zeros(65536, np.float32)
    library.float_of(pointer(bits), pointer(seen), ctypes.c_int64(65536))
    np.testing.assert_array_equal(seen, bits.view(np.float16).astype(np.float32))
    assert (np.signbit(seen) == np.signbit(bits.view(np.float16)))[~np.isnan(seen)].all()


def test_halves_are_rounded_as_numpy_does(library: ctypes.CDLL) -> None:
    """Inputs: every half, the floats halfway between neighbours and beside, and random bits."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(halves[np.isfinite(halves)])
    middles = (finite[1:] + finite[:-1]) / 2
    wild = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint64).astype(np.uint32)
    beside = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    edge = np.array([65519.99, 65520, -65520, 1e30], np.float32)
    values = np.concatenate([halves, middles, *beside, edge, wild.view(np.float32)])
    seen = np.zeros(values.size, np.uint16)
    library.half_of(pointer(values), pointer(seen), ctypes.c_int64(values.size))
    with np.errstate(over="ignore", invalid="ignore"):
        want = values.astype(np.float16)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(seen[number], want.view(np.uint16)[number])
    assert (seen[~number] == 0x7FFF).all()


@given(index=st.integers(0, 2**30), numerator=st.integers(0, 2**30), divisor=st.integers(1, 2**30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_positions_are_exact(
    library: ctypes.CDLL, index: int, numerator: int, divisor: int
) -> None:
    whole, rest = ctypes.c_int64(), ctypes.c_float()
    library.position_of(
        *map(ctypes.c_int64, (index, numerator, divisor)), ctypes.byref(whole), ctypes.byref(rest)
    )
    below, remainder = divmod(index * numerator, divisor)
    assert whole.value == below
    assert rest.value == pytest.approx(remainder / divisor, rel=2e-7)


def test_coordinates_do_not_lose_precision_along_a_wide_line(library: ctypes.CDLL) -> None:
    """At x = 65000 of 65537 a float32 position is off by 2^-8 pixel; the difference must not be."""
    width = 65537
    case = KernelCase(op=Op.SAMPLE, coarse=(1, width - 37), size=(1, width), channels=1, reach=0.3)
    tensors = inputs(case)
    check(case, run(library, case, tensors))


@pytest.mark.parametrize(
    ("coarse", "size", "taps"),
    [
        (3, 5, 2),
        (129, 257, 2),
        (1, 7, 2),
        (7, 1, 2),
        (5, 5, 2),
        (4, 6, 3),
        (256, 257, 3),
        (9, 5, 4),
    ],
)
def test_taps(library: ctypes.CDLL, coarse: int, size: int, taps: int) -> None:
    """Taps are the least number that covers all pixels behind a fine pixel and its neighbour."""
    assert library.composed_taps(coarse, size) == taps


# ---- In the network, against its published outputs. ----


def in_kernel(
    library: ctypes.CDLL, op: Op, convention: SamplingConvention, **tensors: torch.Tensor
) -> torch.Tensor:
    names = {name: tensor.numpy() for name, tensor in tensors.items()}
    first, last = names[next(iter(names))], names[list(names)[-1]]
    case = KernelCase(
        op=op,
        coarse=(first.shape[2], first.shape[3]),
        size=(last.shape[2], last.shape[3]),
        batch=first.shape[0],
        channels=first.shape[1],
        convention=convention,
    )
    return torch.from_numpy(run(library, case, names))


@pytest.mark.parametrize("size", [(97, 161), (128, 256)])
@pytest.mark.parametrize("convention", SamplingConvention)
def test_network_with_kernels_matches_the_published_one(
    library: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    convention: SamplingConvention,
    size: tuple[int, int],
) -> None:
    """On the features of a whole network, CAM runs one kernel and each CAB the other."""
    from tests.models import test_reference as reference_tests

    counts = dict.fromkeys(Op, 0)

    def align(self: CAB, low: torch.Tensor, high: torch.Tensor) -> Aligned:
        counts[Op.ADD] += 1
        both = torch.cat((low, decoder.upsample(high, decoder.size_of(low))), 1)
        high_offset, low_offset = self.delta_gen1(both), self.delta_gen2(both)
        tensors = {"high": high, "low": low, "high_offset": high_offset, "low_offset": low_offset}
        feature = in_kernel(library, Op.ADD, self.sample.convention, **tensors)
        return Aligned(feature, (high_offset, low_offset))

    def sample(feature: torch.Tensor, offset: torch.Tensor, *_: object) -> torch.Tensor:
        counts[Op.SAMPLE] += 1
        return in_kernel(library, Op.SAMPLE, convention, feature=feature, offset=offset)

    monkeypatch.setattr(CAB, "forward", align)
    monkeypatch.setattr(decoder, "offset_grid_sample", sample)
    model = reference_tests.official_model(convention)
    seen = reference_tests.all_outputs(model, reference_tests.official_input(size))
    path = DATA / f"forward_{convention}_{size[0]}x{size[1]}.npz"
    for name, want in np.load(path).items():
        assert reference_tests.relative_l2(seen[name], want) <= 2e-5, name
    assert counts == {Op.SAMPLE: 1, Op.ADD: 4}


@pytest.mark.parametrize("feature", Scalar)
@pytest.mark.parametrize("convention", SamplingConvention)
def test_reference_offsets(
    library: ctypes.CDLL, convention: SamplingConvention, feature: Scalar
) -> None:
    """Offsets of the published network, in both types, over features of its sizes."""
    path = DATA / f"forward_{convention}_128x256.npz"
    reference = np.load(path)
    context = KernelCase(
        op=Op.SAMPLE,
        coarse=(3, 3),
        size=(5, 9),
        channels=24,
        convention=convention,
        feature=feature,
    )
    align = KernelCase(
        op=Op.ADD,
        coarse=(17, 33),
        size=(33, 65),
        channels=24,
        convention=convention,
        feature=feature,
    )
    offsets = {"offset": "cam_offset", "high_offset": "cab2_high_offset"}
    for case in (context, align, dataclasses.replace(align, pitch=24, offset=Scalar.HALF)):
        tensors = inputs(case)
        for name, source in offsets.items():
            if name in tensors:
                tensors[name] = reference[source].astype(case.offset.dtype)
        want: Double = expected(case, tensors)
        check(case, run(library, case, tensors), want)
