"""How images become segmentations: stages, each an iterator over what the one before makes.

They can be joined as they are, one image or batch at a time, or by threads (`pipeline`).
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backend import Backend, ImageBackend
from alignseg_infer.inference.averaging import Averaging
from alignseg_infer.pixels.images import ImageSource, load_image
from alignseg_infer.pixels.postprocess import Floats, Scores, resized_labels, scores_from_logits
from alignseg_infer.pixels.preprocess import SizePolicy, preprocess
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.results.times import StageClock, StageTimes

T = TypeVar("T")


class Join(Protocol):
    """Hands the items of one stage to the next."""

    def __call__(self, items: Iterable[T], /) -> Iterator[T]:
        """The same items."""
        ...


class Wanted(NamedTuple):
    """What results shall have.

    Attributes:
        confidence: The probability of each pixel's label.
        probabilities: All probabilities.
        smoothing: Weight of the logits before, 0 to below 1.
    """

    confidence: bool = False
    probabilities: bool = False
    smoothing: float = 0.0


class _Prepared(NamedTuple):
    """One image on its way to the network; times in ms."""

    image: Image
    tensor: NDArray[np.float32]
    load: float
    preprocess: float


class _Loaded(NamedTuple):
    """One image and the network input size it gets; time in ms."""

    image: Image
    input_size: Size
    load: float


class _Output(NamedTuple):
    """What the network said of one image: logits (C, h, w), or labels (h, w)."""

    image: Image
    output: NDArray[np.generic]
    input_size: Size
    times: StageTimes


@dataclass(frozen=True)
class Stages:
    """All stages of one model.

    Attributes:
        backend: Runs the network.
        policy: The network input size of each image.
        averaging: What logits are the mean of, if they are.
        image_backend: Prepares images and labels pixels on the GPU; None: the CPU does.
        least_batch: Inputs per network call at least; copies fill it up.
        batch: Inputs per network call at most.
    """

    backend: Backend
    policy: SizePolicy
    averaging: Averaging | None
    image_backend: ImageBackend | None
    least_batch: int
    batch: int

    def segmented(
        self, sources: Iterable[ImageSource], wanted: Wanted, before: Join, after: Join
    ) -> Iterator[Segmentation]:
        """Segments images, in their order.

        Args:
            sources: As `images.load_image` takes them.
            wanted: What results shall have.
            before: Joins the stages before the network.
            after: Joins the network and the stages behind it.

        Raises:
            AlignSegError: As `Predictor` does.
        """
        plain = not (wanted.probabilities or wanted.smoothing)
        if self.image_backend is not None and plain:
            loaded = before(map(self._load, sources))
            return after(self._labelled(self.image_backend, loaded, wanted.confidence))
        if self.averaging is not None:
            outputs = after(map(partial(self._averaged, self.averaging), sources))
        else:
            outputs = after(self._inferred(before(map(self._prepare, sources))))
        if wanted.smoothing:
            outputs = _smoothed(outputs, np.float32(wanted.smoothing))
        return after(map(partial(self._finished, wanted), outputs))

    def _load(self, source: ImageSource) -> _Loaded:
        start = time.perf_counter()
        image = load_image(source)
        milliseconds = 1e3 * (time.perf_counter() - start)
        return _Loaded(image, self.policy.input_size(_size(image)), milliseconds)

    def _prepare(self, source: ImageSource) -> _Prepared:
        loaded = self._load(source)
        start = time.perf_counter()
        tensor = preprocess(loaded.image, loaded.input_size, self.backend.spec.input)
        return _Prepared(loaded.image, tensor, loaded.load, 1e3 * (time.perf_counter() - start))

    def _inferred(self, images: Iterable[_Prepared]) -> Iterator[_Output]:
        for batch in _batches(images, self.batch, lambda prepared: prepared.tensor.shape):
            start = time.perf_counter()
            outputs = self._infer([prepared.tensor for prepared in batch])
            infer = 1e3 * (time.perf_counter() - start) / len(batch)
            for prepared, output in zip(batch, outputs, strict=True):
                height, width = prepared.tensor.shape[2:]
                times = StageTimes(prepared.load, prepared.preprocess, infer, 0.0)
                yield _Output(prepared.image, output, (height, width), times)

    def _infer(self, tensors: list[Floats]) -> NDArray[np.generic]:
        """The outputs of equally sized inputs (1, 3, H, W)."""
        count = len(tensors)
        # Fill up with copies, whose outputs nobody reads.
        tensors = tensors + tensors[-1:] * (self.least_batch - count)
        stacked = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        return self.backend.infer(np.ascontiguousarray(stacked))[:count]

    def _averaged(self, averaging: Averaging, source: ImageSource) -> _Output:
        clock = StageClock()
        image = load_image(source)
        clock.lap("load")
        input_sizes = [self.policy.input_size(_size(image), scale) for scale in averaging.scales]

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

        logits = averaging.logits(input_sizes, _size(image), prepare, infer)
        clock.lap("postprocess")
        seen = averaging.tiling.tile if averaging.tiling else max(input_sizes)
        return _Output(image, logits, seen, clock.times())

    def _finished(self, wanted: Wanted, found: _Output) -> Segmentation:
        start = time.perf_counter()
        size, output = _size(found.image), found.output
        if output.ndim == 2:
            labels = output if output.dtype == np.uint16 else output.astype(np.uint8, copy=False)
            scores = Scores(resized_labels(labels, size), None, None)  # type: ignore[arg-type]
        else:
            scores = scores_from_logits(
                output.astype(np.float32, copy=False),
                size,
                confidence=wanted.confidence,
                probabilities=wanted.probabilities,
            )
        spent = found.times.postprocess + 1e3 * (time.perf_counter() - start)
        times = replace(found.times, postprocess=spent)
        return self._segmentation(found.image, scores, found.input_size, times)

    def _labelled(
        self, backend: ImageBackend, images: Iterable[_Loaded], confidence: bool
    ) -> Iterator[Segmentation]:
        """Batches on the device, images to labels."""
        for batch in _batches(images, self.batch, lambda loaded: loaded.input_size):
            size, count = batch[0].input_size, len(batch)
            done = backend.segment([loaded.image for loaded in batch], size, confidence=confidence)
            spent = (done.preprocess / count, done.infer / count, done.postprocess / count)
            for loaded, scores in zip(batch, done.scores, strict=True):
                times = StageTimes(loaded.load, *spent)
                yield self._segmentation(loaded.image, scores, size, times)

    def _segmentation(
        self, image: Image, scores: Scores, input_size: Size, times: StageTimes
    ) -> Segmentation:
        return Segmentation(
            labels=scores.labels,
            image=image,
            classes=self.backend.spec.classes,
            input_size=input_size,
            backend=self.backend.name,
            times=times,
            confidence=scores.confidence,
            probabilities=scores.probabilities,
        )


def _size(image: Image) -> Size:
    return image.shape[0], image.shape[1]


def _batches(
    items: Iterable[T], limit: int, kind: Callable[[T], tuple[int, ...]]
) -> Iterator[list[T]]:
    """Up to `limit` items of one kind that follow each other."""
    waiting: list[T] = []
    for item in items:
        if waiting and kind(waiting[0]) != kind(item):
            yield waiting
            waiting = []
        waiting.append(item)
        if len(waiting) == limit:  # not when the next comes: a stream may pause
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _smoothed(outputs: Iterable[_Output], weight: np.float32) -> Iterator[_Output]:
    """Logits averaged exponentially: ``weight`` times what it was, the rest what it is now.

    An image of another size, or another number of classes, begins anew.
    """
    mean: Floats | None = None
    for found in outputs:
        logits = found.output.astype(np.float32, copy=False)
        if mean is None or mean.shape != logits.shape:
            mean = logits
        else:
            mean = mean * weight + logits * (1 - weight)
        yield found._replace(output=mean)
