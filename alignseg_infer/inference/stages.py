"""The stages that turn images into segmentations. Each iterates over the items of the one before.

They can run one after the other, one image or batch at a time, or in threads (`pipeline`).
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Image, Size
from alignseg_infer.backend import Backend, ImageBackend
from alignseg_infer.demo.domain import watch_demo
from alignseg_infer.inference.averaging import Averaging
from alignseg_infer.pixels.images import ImageSource, load_image
from alignseg_infer.pixels.postprocess import Scores, resize_labels, scores_from_logits
from alignseg_infer.pixels.preprocess import SizePolicy, preprocess
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.results.times import StageClock, StageTimes

T = TypeVar("T")


class Join(Protocol):
    """Hands the items of one stage to the next."""

    def __call__(self, items: Iterable[T], /) -> Iterator[T]:
        """Return the same items."""
        ...


class Wanted(NamedTuple):
    """What the results should contain.

    Attributes:
        confidence: Whether to include the probability of each pixel's label.
        probabilities: Whether to include the probabilities of all classes.
        smoothing: Weight of the previous images' logits, 0 to below 1.
    """

    confidence: bool = False
    probabilities: bool = False
    smoothing: float = 0.0


class _Prepared(NamedTuple):
    """One image and its network input (1, 3, H, W); times in ms."""

    image: Image
    source: str | None
    tensor: NDArray[np.float32]
    load: float
    preprocess: float


class _Loaded(NamedTuple):
    """One image and the size of its network input; time in ms."""

    image: Image
    source: str | None
    input_size: Size
    load: float


class _Output(NamedTuple):
    """The network's output for one image: logits (C, h, w), or labels (h, w)."""

    image: Image
    source: str | None
    output: NDArray[np.generic]
    input_size: Size
    times: StageTimes


@dataclass(frozen=True)
class Stages:
    """All stages of one model.

    Attributes:
        backend: Runs the network.
        policy: Chooses the network input size of each image.
        averaging: Which outputs to average; None for none.
        image_backend: Prepares images and labels pixels on the GPU; None for the CPU.
        least_batch: The fewest inputs per network call; copies fill smaller batches up.
        batch: The most inputs per network call.
    """

    backend: Backend
    policy: SizePolicy
    averaging: Averaging | None
    image_backend: ImageBackend | None
    least_batch: int
    batch: int

    def segment(
        self, sources: Iterable[ImageSource], wanted: Wanted, before: Join, after: Join
    ) -> Iterator[Segmentation]:
        """Segment images, in their order.

        Args:
            sources: Images as `images.load_image` takes them.
            wanted: What the results should contain.
            before: Joins the stages before the network.
            after: Joins the network and the stages behind it.

        Raises:
            AlignSegError: An error that `Predictor` documents.
        """
        plain = not (wanted.probabilities or wanted.smoothing)
        if self.image_backend is not None and plain:
            loaded = before(map(self._load, sources))
            return after(self._label(self.image_backend, loaded, wanted.confidence))
        if self.averaging is not None:
            outputs = after(map(partial(self._average, self.averaging), sources))
        else:
            outputs = after(self._infer_batches(before(map(self._prepare, sources))))
        if wanted.smoothing:
            outputs = _smooth(outputs, np.float32(wanted.smoothing))
        return after(map(partial(self._finish, wanted), outputs))

    def _load(self, source: ImageSource) -> _Loaded:
        start = time.perf_counter()
        image = load_image(source)
        milliseconds = 1e3 * (time.perf_counter() - start)
        size = self.policy.input_size(_size_of(image))
        return _Loaded(image, _path_of(source), size, milliseconds)

    def _prepare(self, source: ImageSource) -> _Prepared:
        loaded = self._load(source)
        start = time.perf_counter()
        tensor = preprocess(loaded.image, loaded.input_size, self.backend.spec.input)
        milliseconds = 1e3 * (time.perf_counter() - start)
        return _Prepared(loaded.image, loaded.source, tensor, loaded.load, milliseconds)

    def _infer_batches(self, images: Iterable[_Prepared]) -> Iterator[_Output]:
        for batch in _group(images, self.batch, lambda prepared: prepared.tensor.shape):
            start = time.perf_counter()
            outputs = self._infer([prepared.tensor for prepared in batch])
            infer = 1e3 * (time.perf_counter() - start) / len(batch)
            for prepared, output in zip(batch, outputs, strict=True):
                height, width = prepared.tensor.shape[2:]
                times = StageTimes(prepared.load, prepared.preprocess, infer, 0.0)
                yield _Output(prepared.image, prepared.source, output, (height, width), times)

    def _infer(self, tensors: list[Floats]) -> NDArray[np.generic]:
        """Run the network on inputs (1, 3, H, W) of one size, and return one output for each."""
        count = len(tensors)
        # Fill the batch up with copies, whose outputs nobody reads.
        tensors = tensors + tensors[-1:] * (self.least_batch - count)
        stacked = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)  # (N, 3, H, W)
        return self.backend.infer(np.ascontiguousarray(stacked))[:count]

    def _average(self, averaging: Averaging, source: ImageSource) -> _Output:
        clock = StageClock()
        image = load_image(source)
        clock.lap("load")
        input_sizes = [self.policy.input_size(_size_of(image), scale) for scale in averaging.scales]

        def prepare(input_size: Size) -> Floats:
            clock.lap("postprocess")
            tensor = preprocess(image, input_size, self.backend.spec.input)
            clock.lap("preprocess")
            return tensor

        def infer(tensors: Iterable[Floats]) -> Iterator[Floats]:
            remaining = iter(tensors)
            while batch := list(islice(remaining, self.batch)):
                clock.lap("postprocess")
                outputs = self._infer(batch)
                clock.lap("infer")
                yield from outputs.astype(np.float32, copy=False)

        logits = averaging.mean_logits(input_sizes, _size_of(image), prepare, infer)
        clock.lap("postprocess")
        seen = averaging.tiling.tile if averaging.tiling else max(input_sizes)
        return _Output(image, _path_of(source), logits, seen, clock.times())

    def _finish(self, wanted: Wanted, found: _Output) -> Segmentation:
        start = time.perf_counter()
        size, output = _size_of(found.image), found.output
        if output.ndim == 2:
            labels = output if output.dtype == np.uint16 else output.astype(np.uint8, copy=False)
            scores = Scores(resize_labels(labels, size), None, None)  # type: ignore[arg-type]
        else:
            watch_demo(self.backend.spec, output, found.input_size)
            scores = scores_from_logits(
                output.astype(np.float32, copy=False),
                size,
                confidence=wanted.confidence,
                probabilities=wanted.probabilities,
            )
        spent = found.times.postprocess + 1e3 * (time.perf_counter() - start)
        times = replace(found.times, postprocess=spent)
        return self._make_segmentation(found, scores, found.input_size, times)

    def _label(
        self, backend: ImageBackend, images: Iterable[_Loaded], confidence: bool
    ) -> Iterator[Segmentation]:
        """Segment images in batches, all on the device."""
        for batch in _group(images, self.batch, lambda loaded: loaded.input_size):
            size, count = batch[0].input_size, len(batch)
            done = backend.segment([loaded.image for loaded in batch], size, confidence=confidence)
            spent = (done.preprocess / count, done.infer / count, done.postprocess / count)
            for loaded, scores in zip(batch, done.scores, strict=True):
                times = StageTimes(loaded.load, *spent)
                yield self._make_segmentation(loaded, scores, size, times)

    def _make_segmentation(
        self, found: _Loaded | _Output, scores: Scores, input_size: Size, times: StageTimes
    ) -> Segmentation:
        return Segmentation(
            labels=scores.labels,
            image=found.image,
            classes=self.backend.spec.classes,
            input_size=input_size,
            backend=self.backend.name,
            times=times,
            confidence=scores.confidence,
            probabilities=scores.probabilities,
            source=found.source,
        )


def _path_of(source: ImageSource) -> str | None:
    """Return the path of an image that was given as one."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else None


def _size_of(image: Image) -> Size:
    return image.shape[0], image.shape[1]


def _group(
    items: Iterable[T], limit: int, kind: Callable[[T], tuple[int, ...]]
) -> Iterator[list[T]]:
    """Group consecutive items of one kind, up to `limit` of them."""
    waiting: list[T] = []
    for item in items:
        if waiting and kind(waiting[0]) != kind(item):
            yield waiting
            waiting = []
        waiting.append(item)
        if len(waiting) == limit:  # do not wait for the next item: a stream may pause
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _smooth(outputs: Iterable[_Output], weight: np.float32) -> Iterator[_Output]:
    """Average logits exponentially: ``weight`` times the mean so far, plus the rest of the new.

    The average starts again when the shape (C, h, w) of the logits changes.
    """
    mean: Floats | None = None
    for found in outputs:
        logits = found.output.astype(np.float32, copy=False)
        if mean is None or mean.shape != logits.shape:
            mean = logits
        else:
            mean = mean * weight + logits * (1 - weight)
        yield found._replace(output=mean)
