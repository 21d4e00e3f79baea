"""Prepares images and labels their pixels on the GPU: only images and labels cross the bus."""

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Image, Labels, Size
from alignseg_infer.backend import LabelledBatch
from alignseg_infer.cuda.base import Cuda
from alignseg_infer.cuda.kernels import Kernels
from alignseg_infer.cuda.launches import DeviceTensor, preprocess_launch, upsample_argmax_launch
from alignseg_infer.errors import CudaError
from alignseg_infer.pixels.postprocess import (
    Scores,
    not_finite_error,
    scores_from_logits,
)
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.forms import label_dtype
from alignseg_infer.spec.model import ModelSpec

LARGEST_DISTANCE = 0.5  # grey levels
LEAST_AGREEMENT = 0.99  # of labels; float32 rounding decides ties differently
_ALIGNMENT = 256  # bytes, as CUDA allocates


class DeviceImages:
    """Prepares images and labels their pixels in one stream, for one caller at a time.

    Its memory grows to fit the largest images seen, and never shrinks. Call all methods inside
    ``with cuda.current():``.

    Args:
        cuda: The GPU.
        kernels: The kernels on the same GPU.
        spec: The model's facts: how to prepare images, and the number of classes.
        stream: The stream that all work runs in.
    """

    def __init__(self, cuda: Cuda, kernels: Kernels, spec: ModelSpec, stream: int) -> None:
        self._cuda, self._kernels, self._spec, self._stream = cuda, kernels, spec, stream
        self._images = _Buffer(cuda, stream)
        self._results = _Buffer(cuda, stream)
        self._views: list[_Views] = []
        self._clock = _Clock(cuda, stream)

    def prepare(self, images: Sequence[Image], target: DeviceTensor) -> None:
        """Start preparing `images` as the first ones of `target`.

        Args:
            images: N or fewer, each (h, w, 3) uint8 BGR, of any size.
            target: Network input (N, 3, H, W), float32 or float16.
        """
        self._clock.mark(0)
        places = _find_places([image.nbytes for image in images])
        self._images.reserve(places[-1])
        for image, place in zip(images, places, strict=False):
            host = self._images.host[place : place + image.nbytes]
            np.copyto(host.reshape(image.shape), image)
        filled = self._images.host[: places[-2] + images[-1].nbytes]
        self._cuda.copy_to_device(self._images.address, filled, self._stream)
        for index, (image, place) in enumerate(zip(images, places, strict=False)):
            source = DeviceTensor(self._images.address + place, image.shape, image.dtype)
            launch = preprocess_launch(source, target.part(index), self._spec.input)
            self._kernels.run(launch, self._stream)
        self._clock.mark(1)

    def label(self, logits: DeviceTensor, sizes: Sequence[Size], confidence: bool) -> None:
        """Start labelling the first images of `logits`, and copying their labels to the host.

        Args:
            logits: (N, C, h, w) float32 or float16.
            sizes: (height, width) of each image, for N images or fewer.
            confidence: Whether to compute the probability of each label too.
        """
        self._clock.mark(2)
        dtype = np.dtype(label_dtype(logits.shape[1]))
        per_pixel = dtype.itemsize + confidence
        places = _find_places([_ALIGNMENT, *(math.prod(size) * per_pixel for size in sizes)])
        self._results.reserve(places[-1])
        self._views = []
        flag = self._results.host[:4]  # an int32 that kernels set where a logit is not finite
        flag.fill(0)
        self._cuda.copy_to_device(self._results.address, flag, self._stream)
        for index, (size, place) in enumerate(zip(sizes, places[1:], strict=False)):
            pixels, start = math.prod(size), self._results.address + place
            launch = upsample_argmax_launch(
                logits.part(index),
                DeviceTensor(start, (1, *size), dtype),
                confidence=start + pixels * dtype.itemsize if confidence else 0,
                not_finite=self._results.address,
            )
            self._kernels.run(launch, self._stream)
            self._views.append(_Views(self._results.host[place:], size, dtype, confidence))
        self._cuda.copy_to_host(
            self._results.host[: places[-1]], self._results.address, self._stream
        )
        self._clock.mark(3)

    def read_results(self) -> LabelledBatch:
        """Return a copy of the results of `label`. Synchronise the stream first.

        Raises:
            ModelError: The logits are not finite.
        """
        if self._results.host[:4].view(np.int32)[0]:
            raise not_finite_error()
        return LabelledBatch([views.copy_scores() for views in self._views], *self._clock.measure())

    def close(self) -> None:
        """Free the memory. Synchronise the stream first."""
        self._clock.close()
        self._images.free()
        self._results.free()


def require_right_results(cuda: Cuda, kernels: Kernels, spec: ModelSpec) -> None:
    """Prepare and label one small image on the GPU, and compare the result with the CPU's.

    Raises:
        CudaError: The results differ.
    """
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (37, 53, 3), np.uint8)
    given = preprocess(image, (29, 67), spec.input)
    logits = random.normal(0, 4, (1, spec.network.num_classes, 9, 17)).astype(np.float32)
    with cuda.current():
        seen, labelled = _run_once(cuda, kernels, spec, (image, given, logits))
    expected = scores_from_logits(logits[0], (37, 53)).labels
    distance = np.abs(seen - given).max() * min(spec.input.std)
    alike = float(np.mean(labelled == expected))
    if not (distance <= LARGEST_DISTANCE and alike >= LEAST_AGREEMENT):
        raise CudaError(
            f"the CUDA kernels give wrong results on {cuda.gpu.name} ({cuda.name}): images differ "
            f"from the CPU's by up to {distance:.3g} grey levels, and {alike:.1%} of the labels "
            "agree",
            f"a difference of at most {LARGEST_DISTANCE} grey levels, and {LEAST_AGREEMENT:.0%} of "
            "the labels alike",
            "pass on_device=False to keep this on the CPU, and report the problem",
        )


def _run_once(
    cuda: Cuda, kernels: Kernels, spec: ModelSpec, arrays: tuple[Image, Floats, Floats]
) -> tuple[Floats, Labels]:
    """Run both kernels once.

    Args:
        cuda: The GPU.
        kernels: The kernels to run.
        spec: The model's facts.
        arrays: An image (h, w, 3); the network input (1, 3, H, W) that the CPU prepared from it,
            for its shape and dtype; logits (1, C, h', w').

    Returns:
        The network input (1, 3, H, W) float32 and the labels (h, w) that the GPU computed.
    """
    image, given, logits = arrays
    with contextlib.ExitStack() as stack:
        stream = cuda.new_stream()
        stack.callback(cuda.free_stream, stream)
        images, memory = DeviceImages(cuda, kernels, spec, stream), _Buffer(cuda, stream)
        stack.callback(images.close)
        stack.callback(memory.free)
        memory.reserve(max(given.nbytes, logits.nbytes))
        images.prepare([image], DeviceTensor(memory.address, given.shape, given.dtype))
        prepared = memory.host[: given.nbytes].view(np.float32).reshape(given.shape)
        cuda.copy_to_host(prepared, memory.address, stream)
        cuda.synchronize(stream)
        prepared = prepared.copy()
        held = memory.host[: logits.nbytes].view(np.float32).reshape(logits.shape)
        np.copyto(held, logits)
        cuda.copy_to_device(memory.address, held, stream)
        tensor = DeviceTensor(memory.address, logits.shape, logits.dtype)
        images.label(tensor, [(image.shape[0], image.shape[1])], confidence=False)
        cuda.synchronize(stream)
        return prepared, images.read_results().scores[0].labels


class _Views(NamedTuple):
    """Where the result for one image lies in host memory: labels, then confidence if wanted."""

    memory: NDArray[np.uint8]
    size: Size
    dtype: np.dtype[np.generic]
    confidence: bool

    def copy_scores(self) -> Scores:
        pixels = math.prod(self.size)
        end = pixels * self.dtype.itemsize
        labels = self.memory[:end].view(self.dtype).reshape(self.size).copy()  # (height, width)
        if not self.confidence:
            return Scores(labels, None, None)
        levels = self.memory[end : end + pixels].reshape(self.size)  # (height, width), 0..255
        return Scores(labels, levels * np.float32(1 / 255), None)


class _Buffer:
    """Memory on the GPU and page-locked memory of the same size on the host; grows on demand."""

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self._stack = contextlib.ExitStack()
        self.address = 0
        self.host = np.empty(0, np.uint8)

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes. Growing loses the content."""
        if size <= self.host.size:
            return
        self._cuda.synchronize(self._stream)  # running work may still use the old memory
        self.free()
        self.address = self._cuda.allocate(size)
        self._stack.callback(self._cuda.free, self.address)
        self.host = self._cuda.allocate_pinned(size)
        self._stack.callback(self._cuda.free_pinned, self.host)

    def free(self) -> None:
        """Free the memory on both sides."""
        self.host = np.empty(0, np.uint8)
        self._stack.close()


class _Clock:
    """Four marks in a stream, and the milliseconds on the GPU between them."""

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self._events = [cuda.new_event() for _ in range(4)]

    def mark(self, index: int) -> None:
        """Set mark `index` after the work that is in the stream so far."""
        self._cuda.record(self._events[index], self._stream)

    def measure(self) -> tuple[float, float, float]:
        """Wait for the last mark, and return the milliseconds from each mark to the next."""
        first, second, third, last = self._events
        elapsed = self._cuda.elapsed
        return elapsed(first, second), elapsed(second, third), elapsed(third, last)

    def close(self) -> None:
        """Free the marks."""
        for event in self._events:
            self._cuda.free_event(event)


def _find_places(sizes: Sequence[int]) -> list[int]:
    """Return the aligned offset of each block of memory, one after the other, and the last's end.

    Args:
        sizes: The bytes of each block.
    """
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    return places
