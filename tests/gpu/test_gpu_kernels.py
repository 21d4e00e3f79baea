"""The CUDA kernels on a GPU, compiled by NVRTC: ``python3 -m pytest -m gpu``.

The same tables as test_sampling_kernels.py and test_post_kernels.py in tests/plugins. For races and
addresses out of bounds::

    python3 -m tests.benchmarks.first_gpu -o gpu-results --steps sanitizer
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from alignseg_infer import Predictor
from alignseg_infer.cuda.base import Cuda
from alignseg_infer.cuda.kernels import Kernels
from alignseg_infer.cuda.launches import DeviceTensor, aligned_add_launch, offset_grid_sample_launch
from alignseg_infer.cuda.opening import open_cuda
from alignseg_infer.cuda.params import ALIGNED_ADD, OFFSET_GRID_SAMPLE, PREPROCESS, UPSAMPLE_ARGMAX
from alignseg_infer.cuda.plans import Launch
from alignseg_infer.errors import CudaError, DeviceError, MissingDependencyError, OptionError
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.spec.plugin_contract import ALIGNED_ADD as ADD
from alignseg_infer.spec.plugin_contract import UPSAMPLE_ARGMAX as ARGMAX
from alignseg_infer.spec.plugin_contract import PluginOp
from tests.support import post_kernel_cases as post
from tests.support.kernel_cases import CASES, KernelCase, Op, check, stored_inputs
from tests.support.operator_cases import LAYOUTS, OPS, fields, operator, tensors
from tests.support.post_kernel_cases import IMAGE_CASES, LABEL_CASES, Array, ImageCase, LabelCase

pytestmark = pytest.mark.gpu
STRUCTURES = {Op.SAMPLE: OFFSET_GRID_SAMPLE, Op.ADD: ALIGNED_ADD}


class Gpu:
    """A GPU with our kernels, and memory that is freed when a test ends."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.kernels = cuda, Kernels(cuda)
        self.stack = contextlib.ExitStack()
        self.stream = cuda.new_stream()

    def upload(self, array: Array, shape: tuple[int, ...] | None = None) -> DeviceTensor:
        """A copy of `array` that ends where its memory ends, so that a sanitizer sees overruns."""
        address = self.cuda.allocate(max(array.nbytes, 1))
        self.stack.callback(self.cuda.free, address)
        if array.nbytes:
            self.cuda.copy_to_device(address, np.ascontiguousarray(array), self.stream)
            self.cuda.synchronize(self.stream)
        return DeviceTensor(address, shape or array.shape, array.dtype)

    def download(self, tensor: DeviceTensor, like: Array) -> Array:
        result = np.empty_like(like)
        if result.nbytes:
            self.cuda.copy_to_host(result, tensor.address, self.stream)
            self.cuda.synchronize(self.stream)
        return result

    def run(self, launch: Launch) -> None:
        self.kernels.run(launch, self.stream)
        self.cuda.synchronize(self.stream)


@pytest.fixture(scope="module")
def board() -> Iterator[Gpu]:
    try:
        cuda = open_cuda()
    except CudaError:
        raise
    except (DeviceError, MissingDependencyError) as error:
        pytest.skip(error.problem)
    with cuda.current():
        board = Gpu(cuda)
        yield board
        cuda.free_stream(board.stream)
        board.kernels.close()
    cuda.close()


@pytest.fixture
def gpu(board: Gpu) -> Iterator[Gpu]:
    yield board
    board.stack.close()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sampling(gpu: Gpu, case: KernelCase) -> None:
    arrays = stored_inputs(case)
    tensors = {name: gpu.upload(array, logical(case, name)) for name, array in arrays.items()}
    blank = np.full(case.output_shape, 77, case.feature.dtype)
    output = gpu.upload(blank, (case.batch, case.channels, *case.size))
    last = bool(case.pitch)
    if case.op is Op.SAMPLE:
        launch = offset_grid_sample_launch(
            tensors["feature"], tensors["offset"], output, case.convention, channels_last=last
        )
    else:
        features = tensors["high"], tensors["low"]
        offsets = tensors["high_offset"], tensors["low_offset"]
        launch = aligned_add_launch(features, offsets, output, case.convention, channels_last=last)
    if case.pitch in (0, case.channels):
        assert launch.kernel == case.entry_point
    params = np.frombuffer(bytearray(launch.params), STRUCTURES[case.op])
    params["channel_pitch"] = case.pitch
    gpu.run(launch._replace(kernel=case.entry_point, params=params.tobytes()))
    check(case, gpu.download(output, blank))


def logical(case: KernelCase, name: str) -> tuple[int, ...]:
    """Shape as PyTorch would say it, whatever the layout."""
    if name.endswith("offset"):
        return (case.batch, 2, *case.size)
    size = case.size if name == "low" else case.coarse
    return (case.batch, case.channels, *size)


@pytest.mark.parametrize("case", LABEL_CASES, ids=str)
def test_labels(gpu: Gpu, case: LabelCase) -> None:
    inputs, shapes = post.label_inputs(case), post.label_outputs(case)
    seen = run_case(gpu, UPSAMPLE_ARGMAX, case, inputs, shapes, partial(post.label_fields, case))
    post.check_labels(case, inputs, seen)


@pytest.mark.parametrize("case", IMAGE_CASES, ids=str)
def test_network_inputs(gpu: Gpu, case: ImageCase) -> None:
    inputs, shapes = post.image_inputs(case), post.image_outputs(case)
    seen = run_case(gpu, PREPROCESS, case, inputs, shapes, partial(post.image_fields, case))
    post.check_inputs(case, inputs, seen)


def run_case(
    gpu: Gpu,
    structure: np.dtype[np.void],
    case: LabelCase | ImageCase,
    inputs: Mapping[str, Array],
    shapes: Mapping[str, tuple[tuple[int, ...], Any]],
    fields: Callable[[Mapping[str, int]], bytes],
) -> dict[str, Array]:
    """What a kernel writes; arrays begin `case.skew` elements after an aligned address."""
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    held = {
        name: gpu.upload(skewed(array, case.skew)) for name, array in {**inputs, **arrays}.items()
    }
    starts = {name: one.address + case.skew * one.dtype.itemsize for name, one in held.items()}
    labels = structure is UPSAMPLE_ARGMAX
    source, threads = (
        ("upsample_argmax", post.LABEL_THREADS) if labels else ("preprocess", post.IMAGE_THREADS)
    )
    gpu.run(Launch(source, case.entry_point, fields(starts), case.blocks, threads))
    return {
        name: gpu.download(held[name], skewed(array, case.skew))[case.skew :].reshape(array.shape)
        for name, array in arrays.items()
    }


def skewed(array: Array, skew: int) -> Array:
    """All elements in a row, after `skew` others."""
    return np.concatenate([np.zeros(skew, array.dtype), array.reshape(-1)])


@pytest.mark.parametrize("size", [(97, 161), (128, 256)])
def test_torch_backend_on_the_device(small_checkpoint: object, size: tuple[int, int]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    predictor = Predictor(str(small_checkpoint), device="cuda")
    assert predictor.on_device
    image = probe_image(size, 0)
    seen = predictor(image, confidence=True)
    expected = Predictor(str(small_checkpoint), device="cuda", on_device=False)(
        image, confidence=True
    )
    assert np.mean(seen.labels == expected.labels) >= 0.999
    assert seen.confidence is not None
    assert expected.confidence is not None
    np.testing.assert_allclose(seen.confidence, expected.confidence, atol=0.02)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_torch_operators(channels_last: bool, dtype: torch.dtype) -> None:
    """`torch.ops.alignseg` on CUDA against the same on the CPU, in float64's stead."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    from alignseg_infer.backends import torch_kernels  # noqa: F401  registers them

    torch.manual_seed(0)
    high, low = torch.randn(2, 40, 9, 13).to(dtype), torch.randn(2, 40, 17, 25).to(dtype)
    offsets = [torch.randn(2, 2, 17, 25) * 3 for _ in range(2)]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    arguments = (high, low, *offsets)
    expected = torch.ops.alignseg.aligned_add(*arguments, "standard")
    on_gpu = [tensor.cuda().contiguous(memory_format=layout) for tensor in (high, low)]
    seen = torch.ops.alignseg.aligned_add(*on_gpu, *(o.cuda() for o in offsets), "standard")
    assert seen.is_contiguous(memory_format=layout)
    torch.testing.assert_close(seen.cpu(), expected, rtol=2e-3, atol=2e-3)
    expected = torch.ops.alignseg.offset_grid_sample(high, offsets[0], "release-2021-12")
    seen = torch.ops.alignseg.offset_grid_sample(on_gpu[0], offsets[0].cuda(), "release-2021-12")
    torch.testing.assert_close(seen.cpu(), expected, rtol=2e-3, atol=2e-3)
    labels = torch.ops.alignseg.upsample_argmax(low, torch.empty(2, 1, 70, 90))
    on_device = torch.ops.alignseg.upsample_argmax(on_gpu[1], torch.empty(2, 1, 70, 90).cuda())
    assert float((labels == on_device.cpu()).float().mean()) > 0.999


@pytest.fixture
def registered() -> None:
    """The operators of PyTorch have their CUDA implementation."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    from alignseg_infer.backends import torch_kernels  # noqa: F401  registers them


each_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.operator)
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@each_op
@each_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_operators_behave_as_pytorch_wants_them(
    registered: None, op: PluginOp, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Tracing sees what the kernels return, as tests/ops/test_plugin_ops.py shows on the CPU."""
    inputs = tensors(op, device="cuda", dtype=dtype, layout=layout)
    torch.library.opcheck(operator(op), (*inputs, *fields(op)))


@each_op
@each_layout
@pytest.mark.parametrize("sizes", [{}, {"C": 1}, {"H": 1, "W": 1}, {"h": 1, "w": 1}], ids=str)
def test_operators_store_outputs_as_on_the_cpu(
    registered: None, op: PluginOp, layout: torch.memory_format, sizes: dict[str, int]
) -> None:
    inputs = tensors(op, layout=layout, sizes=sizes)
    expected = operator(op)(*inputs, *fields(op))
    seen = operator(op)(*(one.cuda() for one in inputs), *fields(op))
    assert (seen.stride(), seen.dtype) == (expected.stride(), expected.dtype)
    if op is ARGMAX:
        assert float((seen.cpu() == expected).float().mean()) > 0.99
    else:
        torch.testing.assert_close(seen.cpu(), expected, rtol=1e-4, atol=1e-4)


@each_op
@each_layout
def test_compiled_operators(registered: None, op: PluginOp, layout: torch.memory_format) -> None:
    """Inductor asserts the strides that tracing promised."""

    def graph(*inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = operator(op)(*inputs, *fields(op)) + 1
        return result

    inputs = tensors(op, device="cuda", layout=layout)
    try:
        seen = torch.compile(graph, fullgraph=True)(*inputs)
    except RuntimeError as error:
        if "triton" not in str(error).lower():
            raise
        pytest.skip("Inductor needs Triton")
    torch.testing.assert_close(seen, graph(*inputs))


@each_op
def test_operators_refuse_and_let_through(registered: None, op: PluginOp) -> None:
    inputs = tensors(op, device="cuda")
    with pytest.raises(OptionError, match=f"{op.inputs[1]} is on cpu"):
        operator(op)(inputs[0], inputs[1].cpu(), *inputs[2:], *fields(op))
    with pytest.raises(OptionError, match=f"{op.inputs[0]} is BF16"):
        operator(op)(inputs[0].bfloat16(), *inputs[1:], *fields(op))
    if op is ADD:  # it would read past the end of the smaller type
        with pytest.raises(OptionError, match="low is FP16"):
            operator(op)(inputs[0], inputs[1].half(), *inputs[2:], *fields(op))
    empty = operator(op)(*tensors(op, device="cuda", sizes={"N": 0}), *fields(op))
    assert empty.shape[0] == 0
    torch.cuda.synchronize()
