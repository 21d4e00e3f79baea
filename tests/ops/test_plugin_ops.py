"""The operators ``torch.ops.alignseg``: what they refuse, return, and show when PyTorch traces.

The door for CUDA is opened here too, with the kernels compiled for the CPU behind it; its tests
with a GPU are in tests/gpu/test_gpu_kernels.py.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from alignseg_infer import OptionError
from alignseg_infer.ops import plugin_ops
from alignseg_infer.ops.sampling import offset_grid_sample
from alignseg_infer.spec.model import SamplingConvention
from alignseg_infer.spec.plugin_contract import (
    ALIGNED_ADD,
    OFFSET_GRID_SAMPLE,
    UPSAMPLE_ARGMAX,
    PluginOp,
)
from tests.support.host_entries import run_kernel
from tests.support.operator_cases import LAYOUTS, OPS, SIZES, fields, operator, tensors

Change = Callable[[Tensor], Tensor]
Door = Callable[..., Tensor]

each_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.operator)
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(params=["cpu", "cuda"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Door]:
    """Return an operator's implementation: the CPU's, or CUDA's with kernels on the CPU."""
    if request.param == "cpu":
        return operator
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    from alignseg_infer.backends import torch_kernels

    def run(launch: Any) -> None:
        if launch.blocks:
            run_kernel(launch.kernel, launch.params, launch.blocks, launch.threads)

    monkeypatch.setattr(torch_kernels, "torch_kernels", lambda index: SimpleNamespace(run=run))
    return lambda op: getattr(torch_kernels, f"_{op.operator}")


def to(what: Any) -> Change:
    return lambda tensor: tensor.to(what)


def cut(axis: int, size: int) -> Change:
    return lambda tensor: tensor.narrow(axis, 0, size)


SHAPES = {
    OFFSET_GRID_SAMPLE: "pass feature (N, C, h, w), offset (N, 2, H, W), "
    "where the same letter means the same size",
    ALIGNED_ADD: "pass high (N, C, h, w), low (N, C, H, W), high_offset (N, 2, H, W), "
    "low_offset (N, 2, H, W), where the same letter means the same size",
    UPSAMPLE_ARGMAX: "pass logits (N, C, h, w), like (N, K, H, W), "
    "where the same letter means the same size",
}
REAL = "FP32 or FP16, on any device"
# The operator, which input is changed and how; then the message: seen, expected, what to do.
REFUSED: list[tuple[PluginOp, int, Change, str, str, str]] = [
    (OFFSET_GRID_SAMPLE, 0, to(torch.bfloat16), "feature is BF16", REAL, "feature.float()"),
    (OFFSET_GRID_SAMPLE, 0, to(torch.float64), "feature is torch.float64", REAL, "feature.float()"),
    (OFFSET_GRID_SAMPLE, 1, to(torch.int64), "offset is INT64", REAL, "offset.float()"),
    (OFFSET_GRID_SAMPLE, 1, to("meta"), "offset is on meta", "", "offset.to(feature.device)"),
    (OFFSET_GRID_SAMPLE, 0, lambda x: x.flatten(0, 1), "feature has 3 dimensions", "4", ""),
    (OFFSET_GRID_SAMPLE, 1, lambda x: x.unsqueeze(0), "offset has 5 dimensions", "4", ""),
    (OFFSET_GRID_SAMPLE, 1, cut(0, 1), "batch of offset is 1", "2, as of feature", ""),
    (OFFSET_GRID_SAMPLE, 1, cut(1, 1), "channels of offset is 1", "2", ""),
    (OFFSET_GRID_SAMPLE, 0, cut(2, 0), "height of feature is 0", "1 or more", ""),
    (OFFSET_GRID_SAMPLE, 0, cut(3, 0), "width of feature is 0", "1 or more", ""),
    (ALIGNED_ADD, 0, to(torch.bfloat16), "high is BF16", REAL, "high.float()"),
    (ALIGNED_ADD, 1, to(torch.half), "low is FP16", "FP32, as of high", "low.to(high.dtype)"),
    (
        *(ALIGNED_ADD, 3, to(torch.half), "low_offset is FP16"),
        *("FP32, as of high_offset", "low_offset.to(high_offset.dtype)"),
    ),
    (ALIGNED_ADD, 2, to("meta"), "high_offset is on meta", "", "high_offset.to(high.device)"),
    (ALIGNED_ADD, 1, cut(0, 1), "batch of low is 1", "2, as of high", ""),
    (ALIGNED_ADD, 1, cut(1, 5), "channels of low is 5", "6, as of high", ""),
    (ALIGNED_ADD, 2, cut(2, 8), "height of high_offset is 8", "9, as of low", ""),
    (ALIGNED_ADD, 3, cut(3, 8), "width of low_offset is 8", "13, as of low", ""),
    (ALIGNED_ADD, 0, cut(2, 0), "height of high is 0", "1 or more", ""),
    (UPSAMPLE_ARGMAX, 0, to(torch.bfloat16), "logits is BF16", REAL, "logits.float()"),
    (UPSAMPLE_ARGMAX, 1, to(torch.uint8), "like is UINT8", REAL, "like.float()"),
    (UPSAMPLE_ARGMAX, 1, to("meta"), "like is on meta", "", "like.to(logits.device)"),
    (UPSAMPLE_ARGMAX, 1, cut(0, 1), "batch of like is 1", "2, as of logits", ""),
    (UPSAMPLE_ARGMAX, 1, lambda x: x.flatten(0, 1), "like has 3 dimensions", "4", ""),
    (UPSAMPLE_ARGMAX, 0, cut(1, 0), "channels of logits is 0", "1 or more", ""),
]
each_refused = pytest.mark.parametrize(
    ("op", "index", "change", "problem", "expected", "fix"),
    REFUSED,
    ids=[f"{row[0].operator}: {row[3]}" for row in REFUSED],
)


@each_refused
def test_refused(
    door: Callable[..., Door],
    op: PluginOp,
    index: int,
    change: Change,
    problem: str,
    expected: str,
    fix: str,
) -> None:
    inputs = tensors(op)
    inputs[index] = change(inputs[index])
    with pytest.raises(OptionError) as caught:
        door(op)(*inputs, *fields(op))
    assert caught.value.problem == f"{op.operator}: {problem}"
    assert caught.value.expected == (expected or "cpu, as of " + op.inputs[0])
    assert caught.value.fix == (fix or SHAPES[op])
    if fix and "meta" not in problem:  # what to do, done
        inputs[index] = eval(fix, dict(zip(op.inputs, inputs, strict=True)))
        door(op)(*inputs, *fields(op))


@each_refused
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tracing_refuses_the_same(
    device: str, op: PluginOp, index: int, change: Change, problem: str, expected: str, fix: str
) -> None:
    with FakeTensorMode():
        inputs = [torch.empty(one.shape, device=device) for one in tensors(op)]
        inputs[index] = change(inputs[index])
        with pytest.raises(OptionError) as caught:
            operator(op)(*inputs, *fields(op))
    assert caught.value.problem == f"{op.operator}: {problem}"
    assert not expected or caught.value.expected == expected


@pytest.mark.parametrize("op", [OFFSET_GRID_SAMPLE, ALIGNED_ADD], ids=lambda op: op.operator)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_convention_that_is_none(op: PluginOp, device: str) -> None:
    with pytest.raises(OptionError, match="convention is 'release-2020'") as caught:
        operator(op)(*tensors(op, device=device), "release-2020")
    assert caught.value.expected == "release-2021-12, release-2021-05 or standard"


def graph(op: PluginOp) -> torch.nn.Module:
    """A module that calls the operator and computes a little more."""

    class Graph(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            result: Tensor = operator(op)(*inputs, *fields(op)) + 1
            return result

    return Graph()


@each_op
def test_compiling_and_exporting_say_what_is_refused(op: PluginOp) -> None:
    inputs = tensors(op)
    inputs[0] = inputs[0].bfloat16()
    compiled = torch.compile(graph(op), backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=rf"{op.operator}: {op.inputs[0]} is BF16"):
        compiled(*inputs)
    with pytest.raises(OptionError, match=rf"{op.operator}: {op.inputs[0]} is BF16"):
        torch.export.export(graph(op), tuple(inputs))


TAKEN: list[tuple[PluginOp, dict[int, torch.dtype]]] = [
    (OFFSET_GRID_SAMPLE, {0: torch.half}),
    (OFFSET_GRID_SAMPLE, {1: torch.half}),
    (ALIGNED_ADD, {0: torch.half, 1: torch.half}),
    (ALIGNED_ADD, {2: torch.half, 3: torch.half}),
    (UPSAMPLE_ARGMAX, {0: torch.half}),
    (UPSAMPLE_ARGMAX, {1: torch.half}),
]


def close(op: PluginOp, seen: Tensor, expected: Tensor) -> None:
    """Assert that `seen` equals `expected` up to rounding."""
    assert (seen.dtype, seen.shape) == (expected.dtype, expected.shape)
    if op is UPSAMPLE_ARGMAX:
        assert float((seen == expected).float().mean()) > 0.99
    else:
        torch.testing.assert_close(seen, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("op", "halves"), TAKEN, ids=lambda value: getattr(value, "operator", ""))
def test_types_that_may_be_mixed(
    door: Callable[..., Door], op: PluginOp, halves: dict[int, torch.dtype]
) -> None:
    inputs = tensors(op)
    mixed = [one.to(halves.get(index, one.dtype)) for index, one in enumerate(inputs)]
    seen = door(op)(*mixed, *fields(op))
    expected = operator(op)(*(one.float() for one in mixed), *fields(op))
    close(op, seen, expected if op is UPSAMPLE_ARGMAX else expected.to(mixed[0].dtype))


STORED: dict[str, Change] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "part of channels": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda x: x[:1].expand(x.shape),
    "every other row": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
}


@each_op
@pytest.mark.parametrize("how", STORED)
def test_how_inputs_are_stored_changes_no_number(
    door: Callable[..., Door], op: PluginOp, how: str
) -> None:
    """Change each input alone, so that layouts are mixed too."""
    for index in range(len(op.inputs)):
        inputs = tensors(op)
        inputs[index] = STORED[how](inputs[index])
        expected = operator(op)(*(one.contiguous() for one in inputs), *fields(op))
        close(op, door(op)(*inputs, *fields(op)), expected)


EMPTY = [{"N": 0}, {"H": 0}, {"W": 0}, {"N": 0, "h": 0, "w": 0}, {"H": 0, "C": 0, "h": 0}]


@each_op
@each_layout
@pytest.mark.parametrize("sizes", EMPTY, ids=str)
def test_nothing_to_compute(
    door: Callable[..., Door], op: PluginOp, layout: torch.memory_format, sizes: dict[str, int]
) -> None:
    inputs = tensors(op, layout=layout, sizes=sizes)
    seen = door(op)(*inputs, *fields(op))
    known = {**SIZES, **sizes}
    assert seen.shape == tuple(known[letter] for letter in op.dimensions[-1])


VARIED: list[dict[str, int]] = [{}, {"C": 1}, {"N": 1}, {"H": 1, "W": 1}, {"h": 1, "w": 1}, *EMPTY]


@each_op
@each_layout
@pytest.mark.parametrize("sizes", VARIED, ids=str)
def test_cpu_cuda_and_tracing_store_outputs_alike(
    door: Callable[..., Door], op: PluginOp, layout: torch.memory_format, sizes: dict[str, int]
) -> None:
    inputs = tensors(op, layout=layout, sizes=sizes)
    seen = door(op)(*inputs, *fields(op))
    for device in ("cpu", "cuda"):
        with FakeTensorMode():
            likes = [torch.empty_strided(one.shape, one.stride(), device=device) for one in inputs]
            traced = operator(op)(*likes, *fields(op))
        assert (traced.shape, traced.dtype) == (seen.shape, seen.dtype)
        assert traced.stride() == seen.stride()
        assert traced.device.type == device


@each_op
@each_layout
def test_outputs_are_stored_as_features_are(
    door: Callable[..., Door], op: PluginOp, layout: torch.memory_format
) -> None:
    seen = door(op)(*tensors(op, layout=layout), *fields(op))
    stored = torch.contiguous_format if op is UPSAMPLE_ARGMAX else layout
    assert seen.is_contiguous(memory_format=stored)
    close(op, seen, operator(op)(*tensors(op), *fields(op)))


def test_the_fine_feature_decides_where_both_differ(door: Callable[..., Door]) -> None:
    high, low, *offsets = tensors(ALIGNED_ADD)
    last = low.contiguous(memory_format=torch.channels_last)
    seen = door(ALIGNED_ADD)(high, last, *offsets, "standard")
    assert seen.is_contiguous(memory_format=torch.channels_last)
    high = high.contiguous(memory_format=torch.channels_last)
    assert door(ALIGNED_ADD)(high, low, *offsets, "standard").is_contiguous()


@each_op
@each_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_operators_behave_as_pytorch_wants_them(
    op: PluginOp, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Schemas, aliasing, gradients and tracing, with known and unknown sizes."""
    inputs = tensors(op, dtype=dtype, layout=layout)
    torch.library.opcheck(operator(op), (*inputs, *fields(op)))


@each_op
@each_layout
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(op: PluginOp, layout: torch.memory_format, dynamic: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(graph(op), backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for sizes in (SIZES, {"N": 3, "H": 11}):
        inputs = tensors(op, layout=layout, sizes=sizes)
        seen, expected = compiled(*inputs), graph(op)(*inputs)
        assert torch.equal(seen, expected)
        assert seen.stride() == expected.stride()


def test_sizes_that_only_the_data_decide() -> None:
    """A mask chooses the batch, whose size is then not a number during tracing."""
    pick = torch.tensor([True, False, True])
    inputs = tensors(OFFSET_GRID_SAMPLE, sizes={"N": 3})

    def picked(feature: Tensor, offset: Tensor) -> Tensor:
        chosen = pick.nonzero()[:, 0]
        result: Tensor = plugin_ops.offset_grid_sample(feature[chosen], offset[chosen], "standard")
        return result

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(picked, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(*inputs), picked(*inputs))


@pytest.mark.filterwarnings("ignore:Error detected in")  # PyTorch's, when it compiles
@pytest.mark.parametrize("op", [OFFSET_GRID_SAMPLE, ALIGNED_ADD], ids=lambda op: op.operator)
def test_there_is_no_gradient(op: PluginOp) -> None:
    inputs = tensors(op)
    expected = operator(op)(*inputs, *fields(op))
    inputs[0].requires_grad_()
    seen = operator(op)(*inputs, *fields(op))
    assert torch.equal(seen, expected)
    with pytest.raises(OptionError, match=r"no gradient(?s:.*)inference_mode(?s:.*)ops.sampling"):
        seen.sum().backward()
    assert inputs[0].grad is None
    compiled = torch.compile(graph(op), backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="have no gradient"):
        compiled(*inputs)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert torch.equal(compiled(*inputs), expected + 1)
            assert not operator(op)(*inputs, *fields(op)).requires_grad


def test_what_the_error_names_has_a_gradient() -> None:
    feature, offset = tensors(OFFSET_GRID_SAMPLE)
    feature.requires_grad_()
    seen = offset_grid_sample(feature, offset, SamplingConvention.STANDARD)
    seen.sum().backward()  # type: ignore[no-untyped-call]
    assert feature.grad is not None


def test_labels_have_no_gradient_to_ask_for() -> None:
    logits, like = tensors(UPSAMPLE_ARGMAX)
    assert not operator(UPSAMPLE_ARGMAX)(logits.requires_grad_(), like).requires_grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("low", "high"), [((33, 65), (3, 3)), ((17, 33), (9, 17)), ((9, 10), (5, 7)), ((5, 6), (5, 6))]
)
def test_the_sum_with_what_is_upsampled(
    low: tuple[int, int], high: tuple[int, int], layout: torch.memory_format
) -> None:
    fine, coarse = (
        torch.randn(2, 8, *size).contiguous(memory_format=layout) for size in (low, high)
    )
    seen = plugin_ops.add_upsampled(fine, coarse)
    expected = fine + F.interpolate(coarse, low, mode="bilinear", align_corners=True)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-4)
    assert seen.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    "wrong", [None, "aligned_add_channels_last_2", "offset_grid_sample_planar"]
)
def test_the_self_check_takes_every_kernel_of_a_network(
    wrong: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of them writes nothing."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    from alignseg_infer.backends import torch_kernels

    launched = set()

    def run(launch: Any) -> None:
        launched.add(launch.kernel)
        if wrong is None or not launch.kernel.startswith(wrong):
            run_kernel(launch.kernel, launch.params, launch.blocks, launch.threads)

    monkeypatch.setattr(torch_kernels, "torch_kernels", lambda index: SimpleNamespace(run=run))
    doors: dict[Any, Door] = {
        plugin_ops.aligned_add: torch_kernels._aligned_add,
        plugin_ops.offset_grid_sample: torch_kernels._offset_grid_sample,
    }
    distance = torch_kernels.measure_sampling_distance(lambda op, *given: doors[op](*given))
    assert (distance <= torch_kernels.LARGEST_DISTANCE) == (wrong is None)
    assert launched == {
        f"{kernel}_float_float"
        for layout in ("planar", "channels_last")
        for kernel in (
            f"offset_grid_sample_{layout}",
            *(f"aligned_add_{layout}_{taps}" for taps in (2, 3)),
        )
    }
