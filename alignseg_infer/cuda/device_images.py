"""Images to network input and logits to labels on the GPU, so that nothing else crosses the bus."""

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backend import LabelledBatch
from alignseg_infer.cuda.base import Cuda
from alignseg_infer.cuda.kernels import (
    DeviceTensor,
    Kernels,
    preprocess_launch,
    upsample_argmax_launch,
)
from alignseg_infer.errors import CudaError
from alignseg_infer.pixels.postprocess import (
    Floats,
    Labels,
    Scores,
    label_dtype,
    not_finite_error,
    scores_from_logits,
)
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import ModelSpec

LARGEST_DISTANCE = 0.5  # grey levels
LEAST_AGREEMENT = 0.99  # of labels; float32 rounding decides ties differently
_ALIGNMENT = 256  # bytes, as CUDA allocates


class DeviceImages:
    """Prepares images and labels their pixels in one stream, for one caller at a time.

    Its memory grows to the largest images seen and is kept. All methods must be called inside
    ``with cuda.current():``.

    Args:
        cuda: The GPU.
        kernels: From the same GPU.
        spec: How images are prepared; how many classes there are.
        stream: Where everything happens.
    """

    def __init__(self, cuda: Cuda, kernels: Kernels, spec: ModelSpec, stream: int) -> None:
        self._cuda, self._kernels, self._spec, self._stream = cuda, kernels, spec, stream
        self._images = _Buffer(cuda, stream)
        self._results = _Buffer(cuda, stream)
        self._views: list[_Views] = []
        self._clock = _Clock(cuda, stream)

    def prepare(self, images: Sequence[Image], target: DeviceTensor) -> None:
        """Starts filling the first images of `target`.

        Args:
            images: (h, w, 3) uint8 BGR, of any sizes.
            target: Network input (N, 3, H, W), float32 or float16, with N images or more.
        """
        self._clock.mark(0)
        places = _places([image.nbytes for image in images])
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
        """Starts labelling the first images of `logits`, and copying labels to the host.

        Args:
            logits: (N, C, h, w) float32 or float16.
            sizes: (height, width) of each image.
            confidence: Whether the probability of each label is wanted too.
        """
        self._clock.mark(2)
        dtype = np.dtype(label_dtype(logits.shape[1]))
        per_pixel = dtype.itemsize + confidence
        places = _places([_ALIGNMENT, *(math.prod(size) * per_pixel for size in sizes)])
        self._results.reserve(places[-1])
        self._views = []
        self._start_flag()
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

    def results(self) -> LabelledBatch:
        """What `label` was asked for, in memory of its own; the stream must be synchronised.

        Raises:
            ModelError: The logits are not finite.
        """
        if self._results.host[:4].view(np.int32)[0]:
            raise not_finite_error()
        return LabelledBatch([views.copied() for views in self._views], *self._clock.times())

    def close(self) -> None:
        """Frees its memory; the stream must be synchronised."""
        self._clock.close()
        self._images.free()
        self._results.free()

    def _start_flag(self) -> None:
        """Puts a zero where kernels say that a logit is not finite."""
        flag = self._results.host[:4]
        flag.fill(0)
        self._cuda.copy_to_device(self._results.address, flag, self._stream)


def require_right_results(cuda: Cuda, kernels: Kernels, spec: ModelSpec) -> None:
    """Prepares and labels one small image on the GPU, and compares with the CPU.

    Raises:
        CudaError: They differ.
    """
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (37, 53, 3), np.uint8)
    given = preprocess(image, (29, 67), spec.input)
    logits = random.normal(0, 4, (1, spec.network.num_classes, 9, 17)).astype(np.float32)
    with cuda.current():
        seen, labelled = _tried(cuda, kernels, spec, (image, given, logits))
    expected = scores_from_logits(logits[0], (37, 53)).labels
    distance = np.abs(seen - given).max() * min(spec.input.std)
    alike = float(np.mean(labelled == expected))
    if not (distance <= LARGEST_DISTANCE and alike >= LEAST_AGREEMENT):
        raise CudaError(
            f"on {cuda.gpu.name} ({cuda.name}) our kernels prepare images up to {distance:.3g} "
            f"grey levels otherwise than the CPU, and label {alike:.1%} of pixels alike",
            f"at most {LARGEST_DISTANCE} grey levels, and {LEAST_AGREEMENT:.0%}",
            "on_device=False, which does without them; and report this",
        )


def _tried(
    cuda: Cuda, kernels: Kernels, spec: ModelSpec, arrays: tuple[Image, Floats, Floats]
) -> tuple[Floats, Labels]:
    """What the GPU makes of an image at the size of its input, and of logits at the image's."""
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
        return prepared, images.results().scores[0].labels


class _Views(NamedTuple):
    """Where the result of one image is in host memory."""

    memory: NDArray[np.uint8]
    size: Size
    dtype: np.dtype[np.generic]
    confidence: bool

    def copied(self) -> Scores:
        pixels = math.prod(self.size)
        end = pixels * self.dtype.itemsize
        labels = self.memory[:end].view(self.dtype).reshape(self.size).copy()
        if not self.confidence:
            return Scores(labels, None, None)
        levels = self.memory[end : end + pixels].reshape(self.size)
        return Scores(labels, levels * np.float32(1 / 255), None)


class _Buffer:
    """Memory on the GPU and page-locked memory of the same size on the host; grows on demand."""

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self._stack = contextlib.ExitStack()
        self.address = 0
        self.host = np.empty(0, np.uint8)

    def reserve(self, size: int) -> None:
        """Makes room for `size` bytes; what was there is lost if it has to grow."""
        if size <= self.host.size:
            return
        self._cuda.synchronize(self._stream)  # work under way may use what is freed now
        self.free()
        self.address = self._cuda.allocate(size)
        self._stack.callback(self._cuda.free, self.address)
        self.host = self._cuda.pinned(size)
        self._stack.callback(self._cuda.free_pinned, self.host)

    def free(self) -> None:
        """Gives everything back."""
        self.host = np.empty(0, np.uint8)
        self._stack.close()


class _Clock:
    """Four marks in a stream, and the milliseconds between them on the GPU."""

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self._events = [cuda.new_event() for _ in range(4)]

    def mark(self, index: int) -> None:
        """The stream has come so far."""
        self._cuda.record(self._events[index], self._stream)

    def times(self) -> tuple[float, float, float]:
        """From each mark to the next; waits for the last."""
        first, second, third, last = self._events
        elapsed = self._cuda.elapsed
        return elapsed(first, second), elapsed(second, third), elapsed(third, last)

    def close(self) -> None:
        """Frees the marks."""
        for event in self._events:
            self._cuda.free_event(event)


def _places(sizes: Sequence[int]) -> list[int]:
    """Where things of these sizes start one after the other, aligned, and where the last ends."""
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    return places
