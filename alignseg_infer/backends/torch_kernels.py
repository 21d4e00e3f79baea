"""Our CUDA kernels on PyTorch's tensors, in PyTorch's streams.

Importing this module makes them the CUDA implementation of the operators in `ops.plugin_ops`.
PyTorch and our launches share the GPU's primary context, so an address means the same to both.
"""

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backend import LabelledBatch, OwnProcess
from alignseg_infer.cuda.base import Cuda, CudaPackage
from alignseg_infer.cuda.device_images import DeviceImages
from alignseg_infer.cuda.kernels import Kernels
from alignseg_infer.cuda.launches import DeviceTensor, upsample_argmax_launch
from alignseg_infer.cuda.opening import open_cuda
from alignseg_infer.cuda.plans import Launch, aligned_add_plan, is_aligned, offset_grid_sample_plan
from alignseg_infer.errors import CudaError
from alignseg_infer.ops import plugin_ops
from alignseg_infer.ops.plugin_checks import convention_of
from alignseg_infer.spec.model import ModelSpec, SamplingConvention
from alignseg_infer.spec.plugin_contract import ALIGNED_ADD, OFFSET_GRID_SAMPLE

LARGEST_DISTANCE = 1e-4
_FORMATS = (torch.contiguous_format, torch.channels_last)
_TRIED_SIZES = ((9, 13), (11, 13))  # 5 x 7 pixels nest in the first, not in the second
Operator = Callable[..., Tensor]
_DTYPES: dict[torch.dtype, np.dtype[np.generic]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.uint8: np.dtype(np.uint8),
    torch.uint16: np.dtype(np.uint16),
    torch.int32: np.dtype(np.int32),
}


class TorchKernels:
    """The kernels on one of PyTorch's GPUs.

    Args:
        index: Number of the GPU.

    Raises:
        MissingDependencyError: cuda-python is not installed.
    """

    def __init__(self, index: int) -> None:
        # PyCUDA cannot use streams that it did not make.
        self.cuda: Cuda = open_cuda(index, CudaPackage.CUDA_PYTHON)
        self.kernels = Kernels(self.cuda)
        self.index = index
        self._device = torch.device("cuda", index)

    def load(self, *sources: str) -> None:
        """See `Kernels.load`."""
        self.kernels.load(*sources)

    def require_right_sampling(self) -> None:
        """Sample and align small features on the GPU, and compare the results with the CPU's.

        Raises:
            MissingDependencyError: NVRTC, which compiles the kernels, is not installed.
            CudaError: The kernels do not compile or load, or give other results.
        """
        self.load("offset_grid_sample", "aligned_add")

        def on_gpu(operator: Operator, *arguments: Any) -> Tensor:
            moved = [one.to(self._device) if isinstance(one, Tensor) else one for one in arguments]
            return operator(*moved).cpu()

        distance = measure_sampling_distance(on_gpu)
        if not distance <= LARGEST_DISTANCE:
            raise CudaError(
                f"the sampling kernels are off by {distance:.3g} on {self.cuda.gpu.name}",
                f"a difference of at most {LARGEST_DISTANCE} from the CPU",
                'pass device="cpu", and report the problem',
            )

    def run(self, launch: Launch) -> None:
        """Start a kernel in PyTorch's current stream of this GPU."""
        with self.cuda.current():
            self.kernels.run(launch, torch.cuda.current_stream(self.index).cuda_stream)


def measure_sampling_distance(compute: Callable[..., Tensor]) -> float:
    """Measure how far sampling operators are from the CPU's, in float32; NaN counts as infinity.

    Args:
        compute: Called with an operator of `ops.plugin_ops` and its arguments, on the CPU. The
            calls cover every kernel that a network uses: both operators, both memory formats, and
            coarse features that nest in fine ones or do not.

    Returns:
        The largest difference between any two values.
    """
    random = torch.Generator().manual_seed(0)
    distances = [0.0]
    for convention, stored, size in itertools.product(SamplingConvention, _FORMATS, _TRIED_SIZES):
        high, low = (
            torch.randn(1, 16, *one, generator=random).contiguous(memory_format=stored)
            for one in ((5, 7), size)
        )
        first, second = (torch.randn(1, 2, *size, generator=random) for _ in "ab")
        for operator, arguments in (
            (plugin_ops.offset_grid_sample, (high, first)),
            (plugin_ops.aligned_add, (high, low, first, second)),
        ):
            seen = compute(operator, *arguments, convention.value)
            expected = operator(*arguments, convention.value)
            distances.append(float((seen - expected).abs().nan_to_num(nan=math.inf).max()))
    return max(distances)


@functools.cache
def torch_kernels(index: int) -> TorchKernels:
    """Return the kernels on GPU `index`; they stay loaded until the process ends."""
    return TorchKernels(index)


class TorchImages:
    """Turns images into labels with a PyTorch network, in its own stream, for one caller at a time.

    Args:
        kernels: The kernels on the network's GPU.
        spec: The model's facts.
    """

    def __init__(self, kernels: TorchKernels, spec: ModelSpec) -> None:
        self._device = torch.device("cuda", kernels.index)
        self._cuda = kernels.cuda
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self._device)  # the weights were copied in another stream
        with self._cuda.current():
            stream = self._stream.cuda_stream
            self._images = DeviceImages(self._cuda, kernels.kernels, spec, stream)
        # Do not run this at the end of the process, when PyTorch may already be gone.
        weakref.finalize(self, _close, self._cuda, self._images, OwnProcess()).atexit = False

    def segment(
        self,
        images: Sequence[Image],
        input_size: Size,
        network: Callable[[Tensor], Tensor],
        confidence: bool,
    ) -> LabelledBatch:
        """See `backend.ImageBackend.segment`; `network` turns its input into logits."""
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        with torch.cuda.stream(self._stream), self._cuda.current():
            batch = torch.empty((len(images), 3, *input_size), device=self._device)  # (N, 3, H, W)
            self._images.prepare(images, _device_tensor(batch))
            logits = network(batch).contiguous()  # (N, C, h, w)
            self._images.label(_device_tensor(logits), sizes, confidence)
            self._stream.synchronize()
            return self._images.read_results()


def _close(cuda: Cuda, images: DeviceImages, process: OwnProcess) -> None:
    if process.is_this():
        with cuda.current():
            images.close()


def _offset_grid_sample(feature: Tensor, offset: Tensor, convention: str) -> Tensor:
    output = plugin_ops.new_sampled(feature, offset, convention)
    stored = plugin_ops.memory_format(feature)
    # Keep names for these: their memory must not go to another tensor before the launch.
    feature, offset = feature.contiguous(memory_format=stored), offset.contiguous()
    plan = offset_grid_sample_plan(
        feature.shape,
        output.shape,
        (_DTYPES[feature.dtype], _DTYPES[offset.dtype]),
        convention_of(OFFSET_GRID_SAMPLE, convention),
        stored is torch.channels_last,
    )
    launch = plan.at(feature.data_ptr(), offset.data_ptr(), output.data_ptr())
    torch_kernels(feature.device.index).run(launch)
    return output


def _aligned_add(
    high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor, convention: str
) -> Tensor:
    output = plugin_ops.new_aligned(high, low, high_offset, low_offset, convention)
    stored = plugin_ops.memory_format(low)
    high, low = high.contiguous(memory_format=stored), low.contiguous(memory_format=stored)
    high_offset, low_offset = high_offset.contiguous(), low_offset.contiguous()
    features = high.data_ptr(), low.data_ptr(), output.data_ptr()
    plan = aligned_add_plan(
        (high.shape, low.shape),
        (_DTYPES[low.dtype], _DTYPES[low_offset.dtype]),
        convention_of(ALIGNED_ADD, convention),
        channels_last=stored is torch.channels_last,
        aligned=is_aligned(*features),
    )
    tensors = high, low, high_offset, low_offset, output
    launch = plan.at(*[tensor.data_ptr() for tensor in tensors])
    torch_kernels(low.device.index).run(launch)
    return output


def _upsample_argmax(logits: Tensor, like: Tensor) -> Tensor:
    labels = plugin_ops.new_labels(logits, like)
    logits = logits.contiguous()
    torch_kernels(logits.device.index).run(
        upsample_argmax_launch(_device_tensor(logits), _device_tensor(labels))
    )
    return labels


def _device_tensor(tensor: Tensor) -> DeviceTensor:
    """Describe where `tensor` lies.

    It must be dense in one of the two memory formats, and outlive whatever reads it.
    """
    return DeviceTensor(tensor.data_ptr(), tuple(tensor.shape), _DTYPES[tensor.dtype])


torch.library.register_kernel("alignseg::offset_grid_sample", "cuda", _offset_grid_sample)
torch.library.register_kernel("alignseg::aligned_add", "cuda", _aligned_add)
torch.library.register_kernel("alignseg::upsample_argmax", "cuda", _upsample_argmax)
