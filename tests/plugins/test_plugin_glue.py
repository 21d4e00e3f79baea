"""The TensorRT plugins, built by g++ with kernels that run on the CPU, driven without TensorRT.

Shown here: what TensorRT is told and what it is refused. Not shown: that TensorRT, or a GPU,
takes it. ALIGNSEG_TENSORRT_HEADERS says against whose headers to build; 10.14 by default.
"""

import ctypes
import ctypes.util
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import alignseg_infer.ops.plugin_ops  # noqa: F401  defines the operators
from alignseg_infer import OptionError
from alignseg_infer.spec.model import SamplingConvention
from alignseg_infer.spec.plugin_contract import PLUGIN_OPS
from alignseg_infer.trt.plugin_library import built_for
from tests.support.host_kernels import HOST_CUDA, KERNELS, host_compile
from tests.support.kernel_cases import Array, KernelCase, Op, check
from tests.support.plugin_cases import (
    COMPLETE,
    LABEL_CASES,
    NAMES,
    TABLE,
    LabelCase,
    check_labels,
    made,
    ran,
    ran_labels,
)
from tests.support.plugin_harness import (
    BUILD,
    CHAR,
    FLOAT,
    HALF,
    HWC,
    HWC8,
    INT32,
    LINEAR,
    RUNTIME,
    SANITIZE,
    Fields,
    Library,
    Plugin,
    Tensor,
    Text,
    build_flags,
    build_harness,
    build_library,
    compile_plugins,
    convention,
    tensor,
    tensorrt_headers,
)

INPUTS = {
    "OffsetGridSample": ("feature", "offset"),
    "AlignedAdd": ("high", "low", "high_offset", "low_offset"),
    "UpsampleArgmax": ("logits", "like"),
}
WITH_FIELD = ("OffsetGridSample", "AlignedAdd")
CONVENTIONS = [value.value for value in SamplingConvention]
TYPES = range(13)  # one more than TensorRT 11 has
FORMATS = range(14)
SIZES = {
    "OffsetGridSample": ([2, 8, 5, 6], [2, 2, 9, 7], [2, 8, 9, 7]),
    "AlignedAdd": ([2, 8, 5, 6], [2, 8, 9, 7], [2, 2, 9, 7], [2, 2, 9, 7], [2, 8, 9, 7]),
    "UpsampleArgmax": ([2, 8, 5, 6], [2, 3, 9, 7], [2, 9, 7]),
}
Create = Callable[..., Plugin]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Build plugins and kernels for the CPU; the harness loads them."""
    return build_library(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> None:
    """Clear the log, so that no test sees another's messages."""
    if "library" in request.fixturenames:
        request.getfixturevalue("library").log()


def described(name: str) -> list[Tensor]:
    """Return tensors that fit: inputs, then the output; FP32, linear."""
    output = INT32 if name == "UpsampleArgmax" else FLOAT
    kinds = [*(FLOAT for _ in INPUTS[name]), output]
    return [tensor(sizes, kind) for sizes, kind in zip(SIZES[name], kinds, strict=True)]


# What TensorRT is told


def test_creators(library: Library) -> None:
    fields = {name: "convention 6 null;" if name in WITH_FIELD else "" for name in INPUTS}
    assert library.creators == [
        {
            "interface": "PLUGIN CREATOR_V3ONE 1.0",
            "name": name,
            "version": "1",
            "namespace": "alignseg",
            "fields": fields[name],
        }
        for name in INPUTS
    ]


def test_the_readme_has_the_contract(library: Library) -> None:
    text = (KERNELS.parent / "README.md").read_text().split("## Build")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .*? \| (.*?) \|$", text, re.MULTILINE)
    read = {name: tuple(re.findall(r"`(\w+)` \(N", inputs)) for name, inputs, _ in rows}
    assert read == INPUTS
    fields = {name: f"{field.strip('`')} 6 null;" for name, _, field in rows if field != "none"}
    assert {name: fields.get(name, "") for name in INPUTS} == {
        creator["name"]: creator["fields"] for creator in library.creators
    }
    for convention_name in CONVENTIONS:
        assert f"`{convention_name}`" in text


@pytest.mark.parametrize("value", CONVENTIONS)
@pytest.mark.parametrize("name", INPUTS)
def test_facts(library: Library, name: str, value: str) -> None:
    stored = value if name in WITH_FIELD else ""
    assert made(library, name, value).facts() == {
        "interface": "PLUGIN 1.0",
        "core": "PLUGIN_V3ONE_CORE 1.0",
        "build": "PLUGIN_V3ONE_BUILD 1.0",
        "runtime": "PLUGIN_V3ONE_RUNTIME 1.0",
        "name": name,
        "version": "1",
        "namespace": "alignseg",
        "outputs": "1",
        "tactics": "0",
        "workspace": "0",
        "timing": stored,
        "metadata": stored,
        "fields": f"convention {CHAR} {value};" if stored else "",
    }


def test_capabilities(library: Library) -> None:
    plugin = made(library, "AlignedAdd")
    assert [plugin.has(number) for number in (0, 1, 2, 3, -1)] == [True] * 3 + [False] * 2
    assert "capability 3; expected core (0), build (1) or runtime (2)" in library.log()


def fits(name: str, kinds: Sequence[int]) -> bool:
    """Return whether the contract allows inputs of these types."""
    real = all(kind in (FLOAT, HALF) for kind in kinds)
    if name != "AlignedAdd":
        return real
    return real and kinds[0] == kinds[1] and kinds[2] == kinds[3]


@pytest.mark.parametrize("name", INPUTS)
def test_output_types(library: Library, name: str) -> None:
    """All combinations of all types."""
    plugin = made(library, name)
    taken = 0
    for kinds in itertools.product(TYPES, repeat=len(INPUTS[name])):
        output = plugin.output_type(kinds)
        wanted = INT32 if name == "UpsampleArgmax" else kinds[0]
        assert output == (wanted if fits(name, kinds) else None)
        taken += output is not None
    assert taken == 4
    assert f"{name}: {INPUTS[name][0]} is INT8 in format 0; expected " in library.log()


def test_output_shapes(library: Library) -> None:
    shapes = {
        name: made(library, name).output_shape([4] * len(inputs)) for name, inputs in INPUTS.items()
    }
    assert shapes == {
        "OffsetGridSample": "0.0 0.1 1.2 1.3",
        "AlignedAdd": "1.0 1.1 1.2 1.3",
        "UpsampleArgmax": "0.0 1.2 1.3",
    }


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("rank", [0, 3, 5])
def test_output_shape_of_another_rank(library: Library, name: str, rank: int) -> None:
    plugin = made(library, name)
    for position, tensor_name in enumerate(INPUTS[name]):
        ranks = [4] * len(INPUTS[name])
        ranks[position] = rank
        assert plugin.output_shape(ranks) is None
        assert f"{name}: {tensor_name} has {rank} dimensions; expected 4" in library.log()


def accepted(plugin: Plugin, tensors: list[Tensor], pos: int = 0) -> Iterator[tuple[int, ...]]:
    """Find all combinations of type and format as TensorRT does: tensor by tensor."""
    if pos == len(tensors):
        yield tuple(value for seen in tensors for value in (seen.type, seen.format))
        return
    for tensors[pos].type, tensors[pos].format in itertools.product(TYPES, FORMATS):
        if plugin.supports(tensors, pos, len(tensors) - 1):
            yield from accepted(plugin, tensors, pos + 1)


def contract(name: str, channels: int) -> set[tuple[int, ...]]:
    """Return the combinations that plugins/README.md promises."""
    plain = [(FLOAT, LINEAR), (HALF, LINEAR)]
    if name == "UpsampleArgmax":
        return {(*first, *second, INT32, LINEAR) for first in plain for second in plain}
    whole = [(FLOAT, HWC)] if channels > 0 and channels % 4 == 0 else []
    features = [*plain, (HALF, HWC8), *whole]
    if name == "AlignedAdd":
        return {(*f, *f, *offset, *offset, *f) for f in features for offset in plain}
    return {(*feature, *offset, *feature) for feature in features for offset in plain}


@pytest.mark.parametrize("channels", [1, 4, 6, 8, 256, 0, -1])
@pytest.mark.parametrize("name", INPUTS)
def test_formats(library: Library, name: str, channels: int) -> None:
    """All combinations of all types and formats."""
    tensors = described(name)
    for seen in tensors:
        seen.dims.sizes[1] = channels
    assert set(accepted(made(library, name), tensors)) == contract(name, channels)


# Copies


@pytest.mark.parametrize("how", ["Clone", "Attach", "RoundTrip"])
@pytest.mark.parametrize("value", CONVENTIONS)
@pytest.mark.parametrize("name", INPUTS)
def test_copies(library: Library, name: str, value: str, how: str) -> None:
    """A copy outlives its original."""
    original = made(library, name, value)
    copy = original.copy(how).copy("Clone")
    facts = original.facts()
    del original
    assert copy.facts() == facts


@pytest.mark.parametrize("end", [b"", b"\0", b"\0\0"])
@pytest.mark.parametrize("phase", [BUILD, RUNTIME])
def test_string_with_or_without_zero(library: Library, end: bytes, phase: int) -> None:
    field = Text("convention", b"standard" + end)
    assert library.create("AlignedAdd", field, phase=phase).facts()["metadata"] == "standard"


def test_string_is_read_to_its_length(library: Library) -> None:
    field = Text("convention", b"standard, and more", length=8)
    assert library.create("AlignedAdd", field).facts()["metadata"] == "standard"


# Refusals

GOOD = convention("standard")
REFUSED_FIELDS = [
    ("missing", [], r"field 'convention' is missing; expected release-2021-12, .*; add it"),
    ("doubled", [GOOD, GOOD], r"field 'convention' is given twice; expected once; remove one"),
    ("unknown", [GOOD, Text("mode", b"x")], r"unknown field 'mode'; expected only convention"),
    ("capital", [Text("Convention", b"standard")], r"unknown field 'Convention'; expected only"),
    ("nameless", [Text(None, b"standard")], r"unknown field '\(null\)'; expected only convention"),
    (
        "number",
        [Text("convention", b"\0\0\0\0", 5, 1)],
        r"has type 5 and length 1; expected a non-empty string",
    ),
    (
        "no length",
        [Text("convention", b"standard", CHAR, 0)],
        r"length 0; expected a non-empty string",
    ),
    (
        "negative",
        [Text("convention", b"standard", CHAR, -1)],
        r"length -1; expected a non-empty string",
    ),
    (
        "no data",
        [Text("convention", None, CHAR, 8)],
        r"length 8 and no data; expected a non-empty string",
    ),
    ("other", [convention("release-2020")], r"is 'release-2020'; expected release-2021-12, "),
    ("prefix", [convention("standar")], r"is 'standar'; expected"),
    ("longer", [convention("standard2")], r"is 'standard2'; expected"),
    ("zero inside", [convention("stand\0ard")], r"is 'stand'; expected"),
    ("zeros", [convention("\0\0")], r"is ''; expected"),
    ("long", [convention("x" * 5000)], r"is 'x{64}'; expected"),
    ("long name", [Text("n" * 5000, b"x")], r"unknown field 'n{900}"),
]


@pytest.mark.parametrize("phase", [BUILD, RUNTIME])
@pytest.mark.parametrize("name", WITH_FIELD)
@pytest.mark.parametrize(
    ("fields", "reason"),
    [row[1:] for row in REFUSED_FIELDS],
    ids=[row[0] for row in REFUSED_FIELDS],
)
def test_refused_fields(
    library: Library, name: str, phase: int, fields: list[Text], reason: str
) -> None:
    assert library.try_create(name, fields, phase=phase) is None
    log = library.log()
    assert re.match(rf"1 {name}: .*{reason}", log), log
    assert log.count("\n") == 1


def test_field_where_none_is_known(library: Library) -> None:
    assert library.try_create("UpsampleArgmax", [GOOD]) is None
    assert "UpsampleArgmax: unknown field 'convention'; expected no field" in library.log()


@pytest.mark.parametrize("name", INPUTS)
def test_null_and_senseless_arguments_of_creators(library: Library, name: str) -> None:
    none = Fields(0, None)
    assert library.create_from(name, None, none) is None
    assert "null pointer as name" in library.log()
    assert library.create_from(name, b"layer", None) is None
    assert "null pointer as fields" in library.log()
    for count in (1, -1):
        assert library.create_from(name, b"layer", Fields(count, None)) is None
        assert f"{count} fields at a null or no address" in library.log()
    assert library.create_from(name, b"layer", none, phase=2) is None
    assert "phase 2; expected build (0) or runtime (1)" in library.log()


@pytest.mark.parametrize("name", INPUTS)
def test_null_pointers(library: Library, name: str) -> None:
    assert made(library, name).accepted_nulls(len(INPUTS[name])) == 0
    assert library.log().count("null pointer") == 6


@pytest.mark.parametrize("name", INPUTS)
def test_other_counts(library: Library, name: str) -> None:
    plugin, tensors = made(library, name), described(name)
    few = tensors[: len(INPUTS[name]) - 1]
    output = tensors[-1:]
    assert not plugin.configure(few, output)
    assert not plugin.change_shape(few, output)
    assert not plugin.configure(tensors[:-1], [])
    assert not plugin.supports(tensors, 0, len(few))
    assert not plugin.supports(tensors, len(tensors), len(tensors) - 1)
    assert not plugin.supports(tensors, -1, len(tensors) - 1)
    assert plugin.output_type([FLOAT] * len(few)) is None
    assert plugin.output_type([FLOAT] * len(INPUTS[name]), outputs=2) is None
    assert plugin.output_shape([4] * len(few)) is None
    assert plugin.output_shape([4] * len(INPUTS[name]), shape_inputs=1) is None
    log = library.log().splitlines()
    assert len(log) == 10
    assert all(line.startswith(f"1 {name}: ") and "; expected " in line for line in log)


@pytest.mark.parametrize("name", INPUTS)
def test_shapes_that_fit(library: Library, name: str) -> None:
    plugin = made(library, name)
    *ins, out = described(name)
    assert plugin.configure(ins, [out])
    assert plugin.change_shape(ins, [out])


@pytest.mark.parametrize("name", INPUTS)
def test_sizes_not_known_yet(library: Library, name: str) -> None:
    """Any sizes may be -1 while an engine is built, and none when it runs."""
    plugin = made(library, name)
    for axes in itertools.product([False, True], repeat=4):
        tensors = described(name)
        for seen, axis in itertools.product(tensors, range(4)):
            if axes[axis] and axis < seen.dims.rank and not (axis == 1 and seen.dims.sizes[1] == 2):
                seen.dims.sizes[axis] = -1
        assert plugin.configure(tensors[:-1], tensors[-1:])
        assert plugin.change_shape(tensors[:-1], tensors[-1:]) is not any(axes)
    assert "is -1; expected 0 or more" in library.log()


# (plugin, tensor, axis): the sizes that are free, that is, compared with nothing.
FREE = {
    *(("OffsetGridSample", 0, axis) for axis in (2, 3)),
    *(("AlignedAdd", 0, axis) for axis in (2, 3)),
    *(("UpsampleArgmax", 0, axis) for axis in (1, 2, 3)),
    ("UpsampleArgmax", 1, 1),
}
WRONG_SIZES = [
    (name, position, axis)
    for name, shapes in SIZES.items()
    for position, shape in enumerate(shapes)
    for axis in range(len(shape))
]


@pytest.mark.parametrize(("name", "position", "axis"), WRONG_SIZES)
def test_each_size_alone_wrong(library: Library, name: str, position: int, axis: int) -> None:
    plugin, tensors = made(library, name), described(name)
    tensors[position].dims.sizes[axis] += 1
    free = (name, position, axis) in FREE
    assert plugin.configure(tensors[:-1], tensors[-1:]) is free
    assert plugin.change_shape(tensors[:-1], tensors[-1:]) is free
    said = re.findall(
        rf"1 {name}: (batch|channels|height|width) of .* is \d+; expected", library.log()
    )
    assert len(said) == (0 if free else 2)


@pytest.mark.parametrize("name", INPUTS)
def test_each_rank_alone_wrong(library: Library, name: str) -> None:
    plugin = made(library, name)
    for position in range(len(SIZES[name])):
        for rank in (0, 2, 5, -1):
            tensors = described(name)
            tensors[position].dims.rank = rank
            assert not plugin.configure(tensors[:-1], tensors[-1:])
            assert f"has {rank} dimensions; expected" in library.log()


def test_words_of_a_refused_size(library: Library) -> None:
    plugin, tensors = made(library, "AlignedAdd"), described("AlignedAdd")
    tensors[3].dims.sizes[2] = 4
    assert not plugin.configure(tensors[:-1], tensors[-1:])
    assert library.log() == "1 AlignedAdd: height of low_offset is 4; expected 9, as of low\n"
    tensors = described("AlignedAdd")
    tensors[2].dims.sizes[1] = 3
    assert not plugin.configure(tensors[:-1], tensors[-1:])
    assert library.log() == "1 AlignedAdd: channels of high_offset is 3; expected 2\n"


# PyTorch's operators refuse the same tensors, in the same words

TORCH_TYPES = {
    FLOAT: torch.float32,
    HALF: torch.float16,
    2: torch.int8,
    INT32: torch.int32,
    4: torch.bool,
    5: torch.uint8,
    7: torch.bfloat16,
    8: torch.int64,
}


def said_by_torch(name: str, tensors: Sequence[Tensor]) -> str | None:
    """Return the error of the operator `name` for inputs like these; None if it accepts them."""
    op = PLUGIN_OPS[name]
    inputs = [
        torch.empty(seen.dims.sizes[: seen.dims.rank], dtype=TORCH_TYPES[seen.type], device="meta")
        for seen in tensors
    ]
    try:
        getattr(torch.ops.alignseg, op.operator)(*inputs, *["standard"] * len(op.fields))
    except OptionError as error:
        return f"{error.problem}; expected {error.expected}".replace(op.operator, name)
    return None


def refused_by_both(library: Library, name: str, tensors: list[Tensor]) -> bool:
    """Return whether plugin and operator refuse the inputs; assert that their words agree."""
    taken = made(library, name).configure(tensors[:-1], tensors[-1:])
    said = said_by_torch(name, tensors[:-1])
    assert taken is (said is None)
    if said is not None:
        logged = library.log().removeprefix("1 ").strip()
        assert said == logged or (
            " in format 0" in logged and said.split("; ")[0] == logged.split(" in format 0")[0]
        )
    return said is not None


# These inputs set a size of the output, so alone they fit. TensorRT also gives the output.
DEFINING = {
    *(("OffsetGridSample", position, axis) for position, axis in ((0, 1), (1, 2), (1, 3))),
    *(("UpsampleArgmax", 1, axis) for axis in (2, 3)),
}


@pytest.mark.parametrize(
    ("name", "position", "axis"), [row for row in WRONG_SIZES if row[1] < len(INPUTS[row[0]])]
)
def test_torch_refuses_the_same_sizes(
    library: Library, name: str, position: int, axis: int
) -> None:
    tensors = described(name)
    tensors[position].dims.sizes[axis] += 1
    if (name, position, axis) in DEFINING:
        assert said_by_torch(name, tensors[:-1]) is None
        return
    assert refused_by_both(library, name, tensors) is ((name, position, axis) not in FREE)


@pytest.mark.parametrize("name", INPUTS)
def test_torch_refuses_the_same_ranks(library: Library, name: str) -> None:
    for position, rank in itertools.product(range(len(INPUTS[name])), (0, 2, 5)):
        tensors = described(name)
        tensors[position].dims.rank = rank
        assert refused_by_both(library, name, tensors)


@pytest.mark.parametrize("name", INPUTS)
def test_torch_refuses_the_same_types(library: Library, name: str) -> None:
    refused = 0
    for kinds in itertools.product(TORCH_TYPES, repeat=2):
        tensors = described(name)
        for position, kind in zip((0, len(INPUTS[name]) - 1), kinds, strict=True):
            tensors[position].type = kind
        if name == "OffsetGridSample":
            tensors[-1].type = kinds[0]  # what it returns
        refused += refused_by_both(library, name, tensors)
    taken = {"OffsetGridSample": 4, "AlignedAdd": 1, "UpsampleArgmax": 4}
    assert refused == len(TORCH_TYPES) ** 2 - taken[name]


@pytest.mark.parametrize("name", INPUTS)
def test_the_readme_has_the_shapes(name: str) -> None:
    op = PLUGIN_OPS[name]
    text = (KERNELS.parent / "README.md").read_text()
    written = [
        f"`{one}` ({', '.join(letters)})"
        for one, letters in zip(op.inputs, op.dimensions, strict=False)
    ]
    assert f"| {', '.join(written)} |" in text
    assert f"({', '.join(op.dimensions[-1])})" in text


# Running


def arrays_of(tensors: Sequence[Tensor]) -> list[Array]:
    """Return zeros that match these descriptions."""
    dtypes = {FLOAT: np.float32, HALF: np.float16, INT32: np.int32}
    return [np.zeros(seen.dims.sizes[: seen.dims.rank], dtypes[seen.type]) for seen in tensors]


@pytest.mark.parametrize("name", INPUTS)
def test_enqueue_refuses(library: Library, name: str) -> None:
    plugin, tensors = made(library, name), described(name)
    *ins, out = tensors
    arrays: list[Array | None] = [*arrays_of(tensors)]
    assert plugin.enqueue(ins, out, arrays)
    for position in range(len(arrays)):
        missing = [*arrays[:position], None, *arrays[position + 1 :]]
        assert not plugin.enqueue(ins, out, missing)
        assert "enqueue got a null pointer" in library.log()
        for kind, layout in ((2, LINEAR), (FLOAT, HWC8), (HALF, HWC)):
            changed = described(name)
            changed[position].type, changed[position].format = kind, layout
            assert not plugin.enqueue(changed[:-1], changed[-1], arrays)
            assert f"in format {layout}; expected " in library.log()
        changed = described(name)
        changed[position].dims.sizes[0] = 3
        assert not plugin.enqueue(changed[:-1], changed[-1], arrays)
        assert "batch of" in library.log()


@pytest.mark.parametrize("name", INPUTS)
def test_launcher_refuses(library: Library, name: str) -> None:
    """The kernel refuses a coarse map without pixels, and the plugin passes the error on."""
    plugin, tensors = made(library, name), described(name)
    tensors[0].dims.sizes[2] = 0
    assert not plugin.enqueue(tensors[:-1], tensors[-1], arrays_of(tensors))
    assert "the kernel did not start: cudaErrorInvalidValue; expected a driver" in library.log()


@pytest.mark.parametrize("name", INPUTS)
def test_empty_output(library: Library, name: str) -> None:
    plugin, tensors = made(library, name), described(name)
    for seen in tensors:
        seen.dims.sizes[0] = 0
    assert plugin.enqueue(tensors[:-1], tensors[-1], [None] * len(tensors))


RUNS = [*COMPLETE, *(TABLE[::5] if SANITIZE else TABLE)]


@pytest.mark.parametrize("case", RUNS, ids=str)
def test_table_of_the_kernels(library: Library, case: KernelCase) -> None:
    """Run the kernels' own table of cases through the plugin."""
    check(case, ran(made(library, NAMES[case.op], case.convention), case))


@pytest.mark.parametrize("how", ["Clone", "Attach", "RoundTrip"])
@pytest.mark.parametrize("op", Op)
def test_copies_compute_the_same(library: Library, op: Op, how: str) -> None:
    case = next(case for case in COMPLETE if case.op is op and case.convention == "standard")
    original = made(library, NAMES[op], case.convention)
    copy = original.copy(how)
    del original
    check(case, ran(copy, case))


@pytest.mark.parametrize("case", LABEL_CASES, ids=str)
def test_labels(library: Library, case: LabelCase) -> None:
    check_labels(case, ran_labels(made(library, "UpsampleArgmax"), case))


# Trouble outside


def test_errors_without_a_logger_go_to_stderr(
    library: Library, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind in (0, 2):  # none, and one that cannot be found
        library.calls.harnessLogger(kind)
        try:
            assert library.try_create("AlignedAdd", []) is None
        finally:
            library.calls.harnessLogger(1)
        assert library.log() == ""
        printed = capfd.readouterr().err
        assert printed.startswith("alignseg plugin: AlignedAdd: field 'convention' is missing")


@pytest.mark.parametrize("name", INPUTS)
def test_no_memory(library: Library, name: str) -> None:
    plugin = made(library, name)
    set_out_of_memory = ctypes.CDLL(str(library.plugins)).setOutOfMemory
    set_out_of_memory(1)
    try:
        fields = [GOOD] if name in WITH_FIELD else []
        assert library.try_create(name, fields) is None
        assert f"1 {name}: no memory for a plugin" in library.log()
        with pytest.raises(AssertionError, match=f"{name}: no memory for a clone"):
            plugin.copy("Clone")
        with pytest.raises(AssertionError, match=f"{name}: no memory for a clone"):
            plugin.copy("Attach")
    finally:
        set_out_of_memory(0)


def runtime_library(name: str) -> str:
    """Return where g++ keeps this library of its own; skip the test if it has none."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    command = [compiler, f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"g++ has no {name} here")
    return path


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="this is the child")
def test_sanitized() -> None:
    """Run all tests above again under AddressSanitizer and UndefinedBehaviorSanitizer."""
    # libstdc++ too: the sanitizer looks for its __cxa_throw when the process starts.
    preloaded = " ".join(runtime_library(name) for name in ("libasan.so", "libstdc++.so"))
    settings = {"ALIGNSEG_SANITIZE": "1", "LD_PRELOAD": preloaded}
    settings["ASAN_OPTIONS"] = "detect_leaks=0"  # the interpreter's own are not ours
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "not cmake"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert re.search(r"[1-9]\d\d+ passed", done.stdout), done.stdout[-500:]


# The build


@pytest.fixture(scope="module")
def cmake_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build with CMake and nvcc for one architecture; return the folder."""
    if shutil.which("nvcc") is None or shutil.which("cmake") is None:
        pytest.skip("needs cmake, and nvcc of the CUDA toolkit")
    folder = tmp_path_factory.mktemp("cmake")
    headers = tensorrt_headers(folder / "tensorrt")
    options = [f"-DTENSORRT_ROOT={headers}", "-DCMAKE_CUDA_ARCHITECTURES=90"]
    build = ["cmake", "--build", str(folder), "--parallel", "2"]
    for command in (["cmake", "-S", str(KERNELS.parent), "-B", str(folder), *options], build):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["libalignseg_plugin.so", "libalignseg_plugin_at_load.so"])
def test_cmake_exports_what_is_looked_for(cmake_build: Path, name: str) -> None:
    listed = ["nm", "-D", "--defined-only", str(cmake_build / name)]
    symbols = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    wanted = {"alignsegTensorRtVersion", "getCreators", "setLoggerFinder"}
    assert {line.split()[-1] for line in symbols.splitlines()} == wanted
    assert built_for(cmake_build / name) is not None


@pytest.mark.slow
def test_cmake_library_loads_without_tensorrt_and_cuda(cmake_build: Path, tmp_path: Path) -> None:
    plugins = cmake_build / "libalignseg_plugin.so"
    library = Library(build_harness(tmp_path, build_flags(tmp_path)), plugins)
    assert [creator["name"] for creator in library.creators] == list(INPUTS)
    if ctypes.util.find_library("cuda") is not None:
        pytest.skip("with a driver, the kernel would read host memory")
    tensors = described("AlignedAdd")
    plugin = made(library, "AlignedAdd")
    assert not plugin.enqueue(tensors[:-1], tensors[-1], arrays_of(tensors))
    assert "the kernel did not start: cudaErrorInsufficientDriver" in library.log()


def loaded_in_child(libraries: Sequence[Path], folder: Path) -> tuple[list[str], str]:
    """Return lines of stdout, and stderr, of a program that only loads `libraries`.

    Args:
        libraries: What it loads, in this order.
        folder: LD_LIBRARY_PATH.
    """
    program = "import ctypes, sys; [ctypes.CDLL(path) for path in sys.argv[1:]]"
    command = [sys.executable, "-c", program, *map(str, libraries)]
    settings = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), done.stderr


def test_the_library_says_for_which_tensorrt_it_was_built(library: Library) -> None:
    folder = tensorrt_headers(library.plugins.parent / "headers")
    headers = (folder / "NvInferVersion.h").read_text()
    names = r"(?:TRT_{0}_ENTERPRISE|NV_TENSORRT_{0})"
    version = [
        int(number)
        for part in ("MAJOR", "MINOR")
        for number in re.findall(rf"define {names.format(part)} +(\d+)", headers)
    ]
    assert built_for(library.plugins) == tuple(version)
    symbol = (ctypes.c_char * 64).in_dll(
        ctypes.CDLL(str(library.plugins)), "alignsegTensorRtVersion"
    )
    assert symbol.value.decode() == "alignseg plugins for TensorRT {}.{}".format(*version)


@pytest.fixture(scope="module")
def library_at_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that registers itself, with kernels for the CPU."""
    folder = tmp_path_factory.mktemp("at_load")
    path = folder / "libalignseg_plugin_at_load.so"
    compile_plugins(path, build_flags(folder), KERNELS.parent / "tensorrt/register_at_load.cpp")
    return path


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="a sanitized library cannot be loaded into another process")
@pytest.mark.parametrize("build", ["library_at_load", "cmake_build"])
def test_a_library_that_registers_itself(
    build: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plugins: Path = request.getfixturevalue(build)
    if plugins.is_dir():
        plugins /= "libalignseg_plugin_at_load.so"
    printed, errors = loaded_in_child([plugins], tmp_path)
    assert printed == []
    assert re.search(r"not registered: libnvinfer.so.\d+: .* into LD_LIBRARY_PATH", errors)
    named = re.search(r"libnvinfer.so.(\d+)", errors)
    assert named is not None
    own = tmp_path / named.group()
    host_compile([HOST_CUDA / "fake_registry.cpp"], own, flags=build_flags(tmp_path))
    everything = [f"alignseg {name}" for name in INPUTS]
    assert loaded_in_child([plugins], tmp_path) == (everything, "")
    assert loaded_in_child([own, plugins], tmp_path) == (everything, "")
    second = tmp_path / "second.so"
    shutil.copy(plugins, second)
    printed, errors = loaded_in_child([plugins, second], tmp_path)
    assert printed == [*everything, *everything]
    assert errors.count("is already registered; load one library of plugins, not two") == 3

    other = int(named[1]) + 1
    flags = [*build_flags(tmp_path), f"-Wl,-soname,libnvinfer.so.{other}"]
    host_compile(
        [HOST_CUDA / "fake_registry.cpp"], tmp_path / f"libnvinfer.so.{other}", flags=flags
    )
    printed, errors = loaded_in_child([tmp_path / f"libnvinfer.so.{other}", plugins], tmp_path)
    assert printed == []
    assert f"this process uses libnvinfer.so.{other}, but the library was built for" in errors
    assert f"-DTENSORRT_VERSION={other}" in errors


def test_cmake_says_what_is_missing(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None or shutil.which("cmake") is None:
        pytest.skip("needs cmake, and nvcc of the CUDA toolkit")
    command = ["cmake", "-S", str(KERNELS.parent), "-B", str(tmp_path / "build")]
    options = [f"-DTENSORRT_ROOT={tmp_path}", "-DCMAKE_CUDA_ARCHITECTURES=90"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())  # CMake breaks lines
    assert f"TENSORRT_ROOT is {tmp_path}, but none of its include" in said
    assert "-DTENSORRT_ROOT=/opt/TensorRT-10.14" in said
