"""Compares Python's facts about the kernels with their sources, which NVRTC must compile."""

import ctypes
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignseg_infer import MissingDependencyError, OptionError
from alignseg_infer.cuda import nvrtc, params
from alignseg_infer.cuda.launches import (
    DeviceTensor,
    aligned_add_launch,
    offset_grid_sample_launch,
    preprocess_launch,
    upsample_argmax_launch,
)
from alignseg_infer.cuda.plans import ANY_TAPS, Launch, aligned_add_taps
from alignseg_infer.spec.model import ChannelOrder, InputSpec, SamplingConvention
from tests.support.host_entries import ENTRIES, host_size
from tests.support.host_kernels import KERNELS, host_library

STRUCTURES = {
    "offset_grid_sample": params.OFFSET_GRID_SAMPLE,
    "aligned_add": params.ALIGNED_ADD,
    "upsample_argmax": params.UPSAMPLE_ARGMAX,
    "preprocess": params.PREPROCESS,
}
HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)
UINT8 = np.dtype(np.uint8)
CONVENTION = SamplingConvention.STANDARD
GEOMETRY = """
#include "sampling_coordinates.h"
#include "sampling_grid.h"
#include "preprocess_math.h"
#include "upsample_argmax_math.h"
using namespace alignseg;
extern "C" int64_t sample_blocks(int64_t n, int64_t c, int64_t h, int64_t w, int64_t pitch)
{ return sampleBlocks(n, c, h, w, pitch); }
extern "C" int64_t argmax_blocks(int64_t n, int64_t h, int64_t w)
{ return upsampleArgmaxBlocks(n, h, w); }
extern "C" int64_t preprocess_blocks(int64_t n, int64_t h, int64_t w)
{ return preprocessBlocks(n, h, w); }
extern "C" int taps(int coarse, int size) { return composedTaps(coarse, size); }
extern "C" int sample_threads() { return kSampleThreads; }
extern "C" int argmax_threads() { return kUpsampleArgmaxThreads; }
extern "C" int preprocess_threads() { return kPreprocessThreads; }
extern "C" int convention(int index)
{
    Convention const all[] = {
        Convention::kRelease202112, Convention::kRelease202105, Convention::kStandard};
    return static_cast<int>(all[index]);
}
"""


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("geometry")
    (folder / "geometry.cpp").write_text(GEOMETRY, encoding="utf-8")
    library = host_library([folder / "geometry.cpp"], folder)
    for name in ("sample_blocks", "argmax_blocks", "preprocess_blocks"):
        function = getattr(library, name)
        function.restype = ctypes.c_int64
        function.argtypes = [ctypes.c_int64] * (5 if name == "sample_blocks" else 3)
    return library


def tensor(
    *shape: int, dtype: np.dtype[np.generic] = FLOAT, address: int = 1 << 20
) -> DeviceTensor:
    return DeviceTensor(address, shape, dtype)


def fields(launch: Launch) -> list[Any]:
    """Return the fields of the structure that a kernel gets."""
    (one,) = np.frombuffer(launch.params, STRUCTURES[launch.source])
    return list(one.tolist())


SHAPES = [(1, 1, 1, 1), (2, 19, 257, 513), (1, 256, 33, 65), (3, 33, 4, 64), (1, 31, 5, 63)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [False, True])
def test_blocks_of_sampling(geometry: ctypes.CDLL, shape: tuple[int, ...], last: bool) -> None:
    batch, channels, height, width = shape
    expected = geometry.sample_blocks(*shape, channels if last else 0)
    offsets = [tensor(batch, 2, height, width, dtype=HALF, address=at) for at in (48, 64)]
    feature, coarse = (tensor(batch, channels, *size, address=16) for size in ((7, 9), (3, 3)))
    low, output = (tensor(*shape, address=at) for at in (32, 80))
    sampled = offset_grid_sample_launch(feature, offsets[0], output, CONVENTION, channels_last=last)
    added = aligned_add_launch(
        (coarse, low), (offsets[0], offsets[1]), output, CONVENTION, channels_last=last
    )
    for launch, name in ((sampled, "offset_grid_sample"), (added, "aligned_add")):
        layout = "channels_last" if last else "planar"
        taps = f"_{expected_taps(shape, last)}" if launch is added else ""
        assert launch.kernel == f"{name}_{layout}{taps}_float_half"
        assert launch.blocks == expected
        assert launch.threads == geometry.sample_threads()
    assert fields(sampled) == [
        *(16, 48, 80),
        *(batch, channels, 7, 9, height, width, channels if last else 0, 2),
    ]
    assert fields(added) == [
        *(16, 32, 48, 64, 80),
        *(batch, channels, 3, 3, height, width, channels if last else 0, 2),
    ]


def expected_taps(shape: tuple[int, ...], last: bool) -> int:
    """Return the taps for a coarse feature of 3 x 3, in float32."""
    if last and shape[1] % 4:
        return ANY_TAPS
    return 2 if all(size == 1 or size % 2 for size in shape[2:]) else 3


@pytest.mark.parametrize("size", [(1, 1), (1024, 2048), (33, 127), (32, 128), (31, 129)])
def test_blocks_around_the_network(geometry: ctypes.CDLL, size: tuple[int, int]) -> None:
    labels = tensor(2, *size, dtype=UINT8, address=16)
    argmax = upsample_argmax_launch(tensor(2, 19, 9, 17), labels, not_finite=4096)
    assert fields(argmax) == [1 << 20, 16, 0, 0, 0, 4096, 2, 19, 9, 17, *size]
    assert argmax.blocks == geometry.argmax_blocks(2, *size)
    assert argmax.threads == geometry.argmax_threads()
    assert argmax.kernel == "upsample_argmax_float_uint8"
    sure = upsample_argmax_launch(tensor(2, 19, 9, 17), labels, confidence=32)
    assert fields(sure)[2:6] == [32, 0, 0, 0]
    assert sure.kernel == "upsample_argmax_confidence_float_uint8"
    spec = InputSpec(channel_order=ChannelOrder.RGB, mean=(1, 2, 3), std=(4, 5, 6))
    image = tensor(5, 6, 3, dtype=UINT8, address=16)
    prepare = preprocess_launch(image, tensor(1, 3, *size), spec)
    numbers, triples = fields(prepare)[:-2], fields(prepare)[-2:]
    assert numbers == [16, 1 << 20, 1, 5, 6, *size, 1]
    assert [list(triple) for triple in triples] == [[1, 2, 3], [4, 5, 6]]
    assert prepare.blocks == geometry.preprocess_blocks(1, *size)
    assert prepare.threads == geometry.preprocess_threads()


def test_taps_are_those_of_the_source(geometry: ctypes.CDLL) -> None:
    for coarse, size in itertools.product(range(1, 40), repeat=2):
        expected = geometry.taps(coarse, size)
        assert aligned_add_taps((coarse, 1), (size, 1)) == expected
        assert aligned_add_taps((1, coarse), (1, size)) == expected
    assert aligned_add_taps((129, 257), (257, 513)) == 2
    assert aligned_add_taps((3, 4), (5, 9)) == 3


@pytest.mark.parametrize("which", range(3))
def test_addresses_between_vectors_get_the_kernel_for_any(which: int) -> None:
    """Kernels for channels last read 16 bytes at once."""
    addresses = [1 << 20, 1 << 21, 1 << 22]
    addresses[which] += 4
    high, low, output = (
        tensor(1, 8, *size, address=at)
        for size, at in zip(((3, 3), (5, 5), (5, 5)), addresses, strict=True)
    )
    offset = tensor(1, 2, 5, 5)
    for last, taps in ((True, ANY_TAPS), (False, 2)):
        launch = aligned_add_launch(
            (high, low), (offset, offset), output, CONVENTION, channels_last=last
        )
        assert f"_{taps}_" in launch.kernel


def test_nothing_to_do_is_no_block() -> None:
    assert upsample_argmax_launch(tensor(0, 19, 9, 17), tensor(0, 8, 8, dtype=UINT8)).blocks == 0


@pytest.mark.parametrize("source", STRUCTURES)
def test_structures_are_those_of_the_sources(source: str) -> None:
    text = (KERNELS / f"{source}_params.h").read_text(encoding="utf-8")
    body = re.search(r"struct \w+Params\n{(.*?)\n};", text, re.DOTALL)
    assert body is not None
    fields = re.findall(r"^\s+(.+?)\s*(\*?)\s*(\w+)(\[3\])?;", body[1], re.MULTILINE)
    seen = [
        (re.sub(r"([A-Z])", r"_\1", name).lower(), "u8" if pointer else kinds[kind], bool(triple))
        for kind, pointer, name, triple in fields
    ]
    dtype = STRUCTURES[source]
    assert dtype.names is not None
    expected = [(name, dtype[name].base.str[1:], dtype[name].shape == (3,)) for name in dtype.names]
    assert seen == expected
    assert host_size(source) == dtype.itemsize


kinds = {"int64_t": "i8", "float": "f4"}


def test_conventions_have_the_numbers_of_the_source(geometry: ctypes.CDLL) -> None:
    for index, convention in enumerate(SamplingConvention):
        launch = offset_grid_sample_launch(
            tensor(1, 1, 1, 1), tensor(1, 2, 1, 1), tensor(1, 1, 1, 1), convention
        )
        assert fields(launch)[-1] == geometry.convention(index)


@pytest.mark.parametrize(
    ("source", "capability"),
    [
        *itertools.product(ENTRIES, ["8.7", "99.9"]),
        *itertools.product(["preprocess"], ["9.0", "10.3", "11.0", "12.1"]),  # the quickest
    ],
)
def test_nvrtc_compiles_every_kernel(source: str, capability: str) -> None:
    image = nvrtc.compile_kernel(source, capability)
    if capability == "99.9":  # newer than NVRTC: the driver goes on from PTX
        assert b".version" in image
    else:
        assert image.startswith(b"\x7fELF")
    for name in ENTRIES[source][1]:
        assert name.encode() in image


def test_a_gpu_older_than_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError, match=r"this GPU has 6\.1"):
        nvrtc.compile_kernel("preprocess", "6.1")


def test_a_kernel_that_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_kernel.cu").write_text("this is no C++", encoding="utf-8")
    monkeypatch.setattr(nvrtc, "kernel_folder", lambda: tmp_path)
    with pytest.raises(
        MissingDependencyError, match=r"NVRTC cannot compile the kernels for sm_90: .*error"
    ):
        nvrtc.compile_kernel("broken", "9.0")


@pytest.mark.parametrize("missing", ["cuda.bindings", "library"])
def test_without_nvrtc(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "library":

        def fails(*arguments: object) -> None:
            raise RuntimeError("libnvrtc.so.13 not found")

        monkeypatch.setattr("cuda.bindings.nvrtc.nvrtcCreateProgram", fails)
        call: Callable[[], object] = lambda: nvrtc.compile_kernel("preprocess", "8.6")  # noqa: E731
    else:
        monkeypatch.delitem(sys.modules, "alignseg_infer.cuda.nvrtc")
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        monkeypatch.setitem(sys.modules, "cuda", None)
        call = lambda: __import__("alignseg_infer.cuda.nvrtc")  # noqa: E731
    with pytest.raises(MissingDependencyError, match=r"pip install .*nvidia-cuda-nvrtc"):
        call()


def test_sources_are_beside_the_package_or_in_it() -> None:
    assert nvrtc.kernel_folder() == KERNELS
    assert Launch.__doc__


def test_launches_that_differ_share_nothing() -> None:
    """Plans are cached, so everything that they depend on must be part of the key."""
    feature, offset, output = tensor(1, 8, 5, 6), tensor(1, 2, 9, 7), tensor(1, 8, 9, 7)
    half = tensor(1, 8, 5, 6, dtype=HALF), tensor(1, 2, 9, 7, dtype=HALF)
    sizes, later = (tensor(1, 8, 6, 5), tensor(1, 8, 7, 9)), output._replace(address=16)
    given = [
        ((feature, offset, output, CONVENTION), False),
        ((feature, offset, output, CONVENTION), True),
        ((feature, offset, output, SamplingConvention.RELEASE_2021_12), False),
        ((half[0], offset, output, CONVENTION), False),
        ((feature, half[1], output, CONVENTION), False),
        ((sizes[0], offset, output, CONVENTION), False),
        ((feature, offset, sizes[1], CONVENTION), False),
        ((feature, offset, later, CONVENTION), False),
    ]
    launches = [offset_grid_sample_launch(*four, channels_last=last) for four, last in given]
    again = [offset_grid_sample_launch(*four, channels_last=last) for four, last in given]
    assert launches == again
    assert len({(launch.kernel, launch.params) for launch in launches}) == len(given)


def test_other_launches_that_differ_share_nothing() -> None:
    high, low = tensor(1, 8, 3, 3), tensor(1, 8, 5, 5)
    offsets = tensor(1, 2, 5, 5), tensor(1, 2, 5, 5)
    odd, half = low._replace(address=low.address + 4), tensor(1, 8, 5, 5, dtype=HALF)
    added = [((high, low), False), ((high, low), True), ((high, odd), True), ((high, half), True)]
    logits, labels = tensor(1, 19, 3, 3), tensor(1, 9, 9, dtype=UINT8)
    wide = tensor(1, 9, 9, dtype=np.dtype(np.int32))
    image, network = tensor(9, 9, 3, dtype=UINT8), tensor(1, 3, 9, 9)
    specs = [InputSpec(), InputSpec(mean=(1, 2, 3)), InputSpec(std=(1, 2, 3))]
    specs.append(InputSpec(channel_order=ChannelOrder.RGB))

    def all_launches() -> list[Launch]:
        return [
            *(aligned_add_launch(f, offsets, low, CONVENTION, channels_last=c) for f, c in added),
            upsample_argmax_launch(logits, labels),
            upsample_argmax_launch(logits, labels, confidence=16),
            upsample_argmax_launch(logits, wide),
            *(preprocess_launch(image, network, spec) for spec in specs),
        ]

    launches = all_launches()
    assert launches == all_launches()
    assert len({(launch.kernel, launch.params) for launch in launches}) == len(launches)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((1, 1, 1, 2**30), f"width is {2**30}"),
        ((1, 1, 2**18, 2**17), f"the output has {2**35} pixels"),
        ((2**30, 1, 1, 1), f"batch is {2**30}"),
    ],
)
def test_what_kernels_cannot_count_is_refused(shape: tuple[int, ...], named: str) -> None:
    offset = tensor(shape[0], 2, *shape[2:])
    with pytest.raises(OptionError, match=named):
        offset_grid_sample_launch(tensor(*shape[:2], 3, 3), offset, tensor(*shape), CONVENTION)
    largest = (1, 1, 2**17, 2**17)
    launch = offset_grid_sample_launch(
        tensor(1, 1, 3, 3), tensor(1, 2, *largest[2:]), tensor(*largest), CONVENTION
    )
    assert launch.blocks == 2**14 * 2**17 // 32
