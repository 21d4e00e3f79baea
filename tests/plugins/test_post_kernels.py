"""The kernels before and after the network, built for the CPU, against PyTorch and OpenCV."""

import ctypes
import dataclasses
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignseg_infer.pixels.postprocess import scores_from_logits
from tests.support import post_kernel_cases as cases
from tests.support.host_kernels import HOST_CUDA, KERNELS, host_compile, host_library
from tests.support.post_kernel_cases import (
    IMAGE_CASES,
    LABEL_CASES,
    Array,
    ImageCase,
    LabelCase,
    Size,
)

SOURCES = [
    HOST_CUDA / "host_post.cpp",
    KERNELS / "preprocess_kernel.cu",
    KERNELS / "upsample_argmax_kernel.cu",
]
SUCCESS, INVALID_VALUE = 0, 1
GUARD = 77  # the content of memory that must not be written
SIDE = st.integers(1, 40)

Shapes = Mapping[str, tuple[tuple[int, ...], Any]]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels for the CPU."""
    return host_library(SOURCES, tmp_path_factory.mktemp("post"))


class Guarded:
    """Return an array `skew` elements after an aligned address, among bytes that must stay."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, skew: int) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start = 16 + skew * np.dtype(dtype).itemsize
        self._memory = np.full(size + start + 32, GUARD, np.uint8)
        start += -self._memory.ctypes.data % 16
        self.array: Array = self._memory[start : start + size].view(dtype).reshape(shape)
        self._around = (self._memory[:start], self._memory[start + size :])

    def check(self) -> None:
        for memory in self._around:
            np.testing.assert_array_equal(memory, GUARD)


def launched(
    inputs: Mapping[str, Array],
    shapes: Shapes,
    skew: int,
    launch: Callable[[Mapping[str, int]], int],
) -> dict[str, Array]:
    """Return what `launch` writes, given the addresses of inputs and outputs."""
    arrays = {name: Guarded(array.shape, array.dtype, skew) for name, array in inputs.items()}
    for name, array in inputs.items():
        arrays[name].array[...] = array
    arrays |= {name: Guarded(shape, dtype, skew) for name, (shape, dtype) in shapes.items()}
    assert launch({name: one.array.ctypes.data for name, one in arrays.items()}) == SUCCESS
    for one in arrays.values():
        one.check()
    for name, array in inputs.items():
        np.testing.assert_array_equal(arrays[name].array, array)
    return {name: arrays[name].array for name in shapes}


def label_status(library: ctypes.CDLL, case: LabelCase, addresses: Mapping[str, int]) -> int:
    logits = cases.SCALAR_CODES[np.dtype(case.logits)][1]
    label = cases.LABEL_CODES[np.dtype(case.labels)][1]
    fields = cases.label_fields(case, addresses)
    return int(library.hostUpsampleArgmax(fields, logits, label))


def labelled(
    library: ctypes.CDLL, case: LabelCase, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    shapes = cases.label_outputs(case)
    return launched(inputs, shapes, case.skew, lambda at: label_status(library, case, at))


def image_status(library: ctypes.CDLL, case: ImageCase, addresses: Mapping[str, int]) -> int:
    output = cases.SCALAR_CODES[np.dtype(case.output)][1]
    return int(library.hostPreprocess(cases.image_fields(case, addresses), output))


def preprocessed(
    library: ctypes.CDLL, case: ImageCase, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    shapes = cases.image_outputs(case)
    return launched(inputs, shapes, case.skew, lambda at: image_status(library, case, at))


@pytest.mark.parametrize("case", LABEL_CASES, ids=str)
def test_labels(library: ctypes.CDLL, case: LabelCase) -> None:
    inputs = cases.label_inputs(case)
    cases.check_labels(case, inputs, labelled(library, case, inputs))


@pytest.mark.parametrize("case", IMAGE_CASES, ids=str)
def test_network_inputs(library: ctypes.CDLL, case: ImageCase) -> None:
    inputs = cases.image_inputs(case)
    cases.check_inputs(case, inputs, preprocessed(library, case, inputs))


def test_ramp_by_hand(library: ctypes.CDLL) -> None:
    """-1..1 over two columns, widened to five: -1, -.5, 0, .5, 1 against a class at 0."""
    case = LabelCase(shape=(2, 2, 2), size=(2, 5), confidence=True, color=True)
    logits = np.array([[[[0, 0]] * 2, [[-1, 1]] * 2]], np.float32)
    inputs: dict[str, Array] = {"logits": logits}
    inputs["palette"] = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    outputs = labelled(library, case, inputs)
    assert outputs["labels"].tolist() == [[[0, 0, 0, 1, 1]] * 2]  # the tie goes to class 0
    levels = [round(255 / (1 + np.exp(-abs(ramp)))) for ramp in (-1, -0.5, 0, 0.5, 1)]
    assert outputs["confidence"].tolist() == [[levels] * 2]
    assert outputs["color"][0, 0].tolist() == [[1, 2, 3]] * 3 + [[4, 5, 6]] * 2


@pytest.mark.parametrize("size", [(64, 90), (6, 5)])  # corners are kept, or are not
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, 0.0])
def test_says_whether_logits_are_finite(library: ctypes.CDLL, size: Size, value: float) -> None:
    case = LabelCase(shape=(5, 12, 10), size=size)
    if size == (6, 5):
        case = dataclasses.replace(case, shape=(5, 301, 601))
    logits = np.zeros((1, *case.shape), np.float32)
    logits[0, 3, -1, -1] = value  # where labels of any size read
    labels, flag = np.zeros((1, *size), np.uint8), np.zeros(1, np.int32)
    arrays: dict[str, Array] = {"logits": logits, "labels": labels, "not_finite": flag}
    addresses = {name: array.ctypes.data for name, array in arrays.items()}
    assert label_status(library, case, addresses) == SUCCESS
    assert flag[0] == (not np.isfinite(value))
    del addresses["not_finite"]
    assert label_status(library, case, addresses) == SUCCESS  # checking is optional


def test_a_class_that_wins_inside_cells_only(library: ctypes.CDLL) -> None:
    """The table's cases of such logits really contain such a class, at scale 8."""
    case = LabelCase(shape=(5, 5, 5), size=(33, 33), make=cases.inner_logits)
    labels = labelled(library, case, cases.label_inputs(case))["labels"][0]
    assert (labels[4::8, 4::8] == 4).all()
    assert (labels[::8, ::8] != 4).all()


def test_the_corners_decide_where_rounding_would_tie(library: ctypes.CDLL) -> None:
    """Two classes, the second higher by one unit in the last place: exact arithmetic says 1.

    Interpolated in float they are often equal, which the lower label would win.
    """
    first = np.random.default_rng(0).uniform(1, 2, (1, 1, 17, 33)).astype(np.float32)
    logits = np.concatenate([first, np.nextafter(first, np.float32(3))], axis=1)
    case = LabelCase(shape=(2, 17, 33), size=(65, 130))
    inputs: dict[str, Array] = {"logits": logits, "palette": np.zeros((2, 3), np.uint8)}
    assert (labelled(library, case, inputs)["labels"] == 1).all()


@pytest.mark.parametrize("make", [cases.random_logits, cases.smooth_logits])
@pytest.mark.parametrize("size", [(90, 131), (20, 9), (23, 33)])
def test_labels_equal_the_cpu_code(library: ctypes.CDLL, make: cases.Maker, size: Size) -> None:
    case = LabelCase(shape=(19, 23, 33), size=size, make=make, confidence=True)
    inputs = cases.label_inputs(case)
    outputs = labelled(library, case, inputs)
    scores = scores_from_logits(inputs["logits"][0], size, confidence=True)
    np.testing.assert_array_equal(outputs["labels"][0], scores.labels)
    assert scores.confidence is not None
    np.testing.assert_allclose(outputs["confidence"][0], 255 * scores.confidence, atol=cases.LEVEL)


@pytest.mark.parametrize("make", [cases.smooth_logits, cases.nan_logits])
@pytest.mark.parametrize("logits", cases.SCALARS)
def test_extras_do_not_change_labels(
    library: ctypes.CDLL, make: cases.Maker, logits: type[np.floating[Any]]
) -> None:
    case = LabelCase(shape=(7, 20, 30), size=(75, 118), make=make, logits=logits)
    inputs = cases.label_inputs(case)
    plain = labelled(library, case, inputs)["labels"]
    more = dataclasses.replace(case, confidence=True, color=True, labels=np.int32)
    np.testing.assert_array_equal(labelled(library, more, inputs)["labels"], plain)


def test_references_agree() -> None:
    """The handwritten float64 reference, needed for NaN and infinities, agrees with PyTorch."""
    logits = np.random.default_rng(0).normal(0, 4, (2, 3, 7, 9))
    for size in [(13, 17), (7, 9), (3, 4), (1, 20), (50, 33)]:
        ours, theirs = cases.upsampled(logits, size), cases.interpolated(logits, size)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_the_table_sees_most_labels_as_certain() -> None:
    """Tolerance for ties must excuse little: equally good classes are rare in smooth logits."""
    for case in LABEL_CASES:
        if case.make is cases.smooth_logits and 1 < case.shape[0] < 100:
            logits = cases.label_inputs(case)["logits"]
            best = np.sort(cases.interpolated(logits, case.size), axis=1)
            close = best[:, -1] - best[:, -2] <= cases.TIE * np.abs(logits).max()
            assert close.mean() < 0.01


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 6), SIDE, SIDE),
    st.tuples(SIDE, st.integers(1, 200)),
    st.sampled_from([cases.random_logits, cases.smooth_logits, cases.nan_logits]),
    st.sampled_from(cases.SCALARS),
    st.integers(0, 4),
    st.booleans(),
)
def test_any_shape(
    library: ctypes.CDLL,
    shape: tuple[int, int, int],
    size: Size,
    make: cases.Maker,
    logits: type[np.floating[Any]],
    skew: int,
    confidence: bool,
) -> None:
    case = LabelCase(
        shape=shape, size=size, make=make, logits=logits, skew=skew, confidence=confidence
    )
    inputs = cases.label_inputs(case)
    cases.check_labels(case, inputs, labelled(library, case, inputs))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(SIDE, st.integers(1, 300)), st.tuples(SIDE, st.integers(1, 300)), st.integers(0, 4)
)
def test_any_image_size(library: ctypes.CDLL, image: Size, size: Size, skew: int) -> None:
    case = ImageCase(image=image, size=size, skew=skew, std=(1.0, 57.12, 3.0))
    inputs = cases.image_inputs(case)
    cases.check_inputs(case, inputs, preprocessed(library, case, inputs))


LABEL_CASE = LabelCase(shape=(3, 4, 5), size=(6, 7), color=True)
IMAGE_CASE = ImageCase(image=(4, 5), size=(6, 7))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, SUCCESS),
        ({"batch": 0}, SUCCESS),
        ({"size": (0, 7)}, SUCCESS),
        ({"size": (6, 0)}, SUCCESS),
        ({"batch": -1}, INVALID_VALUE),
        ({"size": (6, -7)}, INVALID_VALUE),
        ({"size": (6, 1 << 31)}, INVALID_VALUE),
        ({"size": (1 << 30, 1 << 30)}, INVALID_VALUE),  # more blocks than a launch takes
        ({"batch": 1 << 30, "size": (6, 300)}, INVALID_VALUE),
        ({"shape": (0, 4, 5)}, INVALID_VALUE),
        ({"shape": (3, 0, 5)}, INVALID_VALUE),
        ({"shape": (3, 4, 1 << 32)}, INVALID_VALUE),
        ({"shape": (257, 4, 5)}, INVALID_VALUE),  # uint8 holds 256
        ({"shape": (65537, 4, 5), "labels": np.uint16}, INVALID_VALUE),
        ({"shape": (1 << 31, 4, 5), "labels": np.int32}, INVALID_VALUE),
    ],
)
def test_sizes_of_labels(library: ctypes.CDLL, change: dict[str, Any], status: int) -> None:
    memory = np.zeros(4096, np.uint8)
    addresses = dict.fromkeys(("logits", "labels", "color", "palette"), memory.ctypes.data)
    case = dataclasses.replace(LABEL_CASE, **change)
    assert label_status(library, case, addresses) == status


@pytest.mark.parametrize("missing", ["logits", "labels", "palette"])
def test_missing_arrays_of_labels(library: ctypes.CDLL, missing: str) -> None:
    memory = np.zeros(4096, np.uint8)
    addresses = dict.fromkeys(("logits", "labels", "color", "palette"), memory.ctypes.data)
    del addresses[missing]
    assert label_status(library, LABEL_CASE, addresses) == INVALID_VALUE


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, SUCCESS),
        ({"batch": 0}, SUCCESS),
        ({"size": (0, 7)}, SUCCESS),
        ({"batch": -1}, INVALID_VALUE),
        ({"image": (0, 5)}, INVALID_VALUE),
        ({"image": (4, 1 << 31)}, INVALID_VALUE),
        ({"size": (1 << 30, 1 << 30)}, INVALID_VALUE),
        ({"batch": 1 << 30, "size": (20, 7)}, INVALID_VALUE),
    ],
)
def test_sizes_of_images(library: ctypes.CDLL, change: dict[str, Any], status: int) -> None:
    memory = np.zeros(4096, np.uint8)
    addresses = dict.fromkeys(("images", "output"), memory.ctypes.data)
    case = dataclasses.replace(IMAGE_CASE, **change)
    assert image_status(library, case, addresses) == status


@pytest.mark.parametrize("missing", ["images", "output"])
def test_missing_arrays_of_images(library: ctypes.CDLL, missing: str) -> None:
    memory = np.zeros(4096, np.uint8)
    addresses = dict.fromkeys(("images", "output"), memory.ctypes.data) | {missing: 0}
    assert image_status(library, IMAGE_CASE, addresses) == INVALID_VALUE


@pytest.mark.parametrize("scalar", [-1, 2])
def test_unknown_types(library: ctypes.CDLL, scalar: int) -> None:
    memory = np.zeros(4096, np.uint8)
    names = ("logits", "labels", "color", "palette", "images", "output")
    addresses = dict.fromkeys(names, memory.ctypes.data)
    fields = cases.label_fields(LABEL_CASE, addresses)
    assert library.hostUpsampleArgmax(fields, scalar, 0) == INVALID_VALUE
    assert library.hostUpsampleArgmax(fields, 0, scalar * 4) == INVALID_VALUE
    assert (
        library.hostPreprocess(cases.image_fields(IMAGE_CASE, addresses), scalar) == INVALID_VALUE
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizer", "every"),
    [("address,undefined", 1), ("thread", 3)],  # the latter takes a second for each shape
)
def test_sanitized(tmp_path: Path, sanitizer: str, every: int) -> None:
    """Kernels stay inside arrays, and no thread reads what another still writes."""
    program = tmp_path / "sanitized"
    sources = [HOST_CUDA / "post_sanitized.cpp", *SOURCES[1:]]
    host_compile(sources, program, flags=(f"-fsanitize={sanitizer}", "-g", "-O1"))
    command = [str(program), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("done\n")
    assert done.stderr == ""


def constants(header: str, prefix: str) -> list[int]:
    text = (KERNELS / header).read_text()
    names = ("Threads", "TileHeight", "TileWidth")
    found = [re.search(rf"{prefix}{name} = (\d+);", text) for name in names]
    return [int(match[1]) for match in found if match]


def test_the_table_launches_as_the_headers_say() -> None:
    assert constants("upsample_argmax_math.h", "kUpsampleArgmax") == [
        cases.LABEL_THREADS,
        *cases.LABEL_TILE,
    ]
    assert constants("preprocess_math.h", "kPreprocess") == [
        cases.IMAGE_THREADS,
        *cases.IMAGE_TILE,
    ]


def test_the_table_reaches_every_entry_point() -> None:
    entry = re.compile(r"^(?:ALIGNSEG_ENTRY\(|extern \"C\" __global__ void )(\w+)[(,]", re.M)
    sources = [source for source in SOURCES if source.suffix == ".cu"]
    names = {name for source in sources for name in entry.findall(source.read_text())}
    reached = {case.entry_point for case in LABEL_CASES}
    assert reached | {case.entry_point for case in IMAGE_CASES} == names
    assert len(names) == 14
