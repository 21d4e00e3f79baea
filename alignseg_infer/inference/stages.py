"""The stages that turn images into segmentations. Each iterates over the items of the one before.

They can run one after the other, one image or batch at a time, or in threads (`pipeline`).
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Image, Size
from alignseg_infer.backend import Backend, ImageBackend, OwnProcess, out_of_memory
from alignseg_infer.demo.domain import watch_demo
from alignseg_infer.inference.averaging import Averaging
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.pixels.images import ImageSource, load_image
from alignseg_infer.pixels.network_output import as_promised, returns_probabilities
from alignseg_infer.pixels.postprocess import (
    Scores,
    remap_scores,
    resize_labels,
    scores_from_logits,
)
from alignseg_infer.pixels.preprocess import SizePolicy, network_input
from alignseg_infer.results.failure import Failure
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.results.times import StageClock, StageTimes
from alignseg_infer.spec.forms import takes_uint8

T = TypeVar("T")
U = TypeVar("U")


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
        failures: Whether an error becomes a `Failure` in place of the result, instead of ending
            everything.
    """

    confidence: bool = False
    probabilities: bool = False
    smoothing: float = 0.0
    failures: bool = False


class _Prepared(NamedTuple):
    """One image and its network input (1, 3, H, W), float32 or uint8; times in ms."""

    image: Image
    source: str | None
    tensor: NDArray[Any]
    load: float
    preprocess: float

    @property
    def input_size(self) -> Size:
        return self.tensor.shape[2], self.tensor.shape[3]


class _Loaded(NamedTuple):
    """One image and the size of its network input; time in ms."""

    image: Image
    source: str | None
    input_size: Size
    load: float


class _Output(NamedTuple):
    """The network's output for one image: logits or probabilities (C, h, w), or labels (h, w)."""

    image: Image
    source: str | None
    output: NDArray[np.generic]
    input_size: Size
    times: StageTimes


P = TypeVar("P", _Prepared, _Loaded)


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
        max_pixels: The largest number of pixels of an image that is read.
        process: The process that opened the model.
    """

    backend: Backend
    policy: SizePolicy
    averaging: Averaging | None
    image_backend: ImageBackend | None
    least_batch: int
    batch: int
    max_pixels: int = MAX_PIXELS
    process: OwnProcess = field(default_factory=OwnProcess)

    def segment(
        self, sources: Iterable[ImageSource | Failure], wanted: Wanted, before: Join, after: Join
    ) -> Iterator[Segmentation | Failure]:
        """Segment images, in their order.

        Args:
            sources: Images as `images.load_image` takes them. Failures stay as they are.
            wanted: What the results should contain.
            before: Joins the stages before the network.
            after: Joins the network and the stages behind it.

        Raises:
            AlignSegError: An error that `Predictor` documents.
        """
        failures = wanted.failures
        plain = not (wanted.probabilities or wanted.smoothing or self._needs_sums(wanted))
        if self.image_backend is not None and plain:
            label = partial(self._label, self.image_backend, confidence=wanted.confidence)
            loaded = _try_each(self._load, sources, failures=failures)
            labelled = _try_batches(label, self._group(before(loaded)), failures=failures)
            return after(labelled)
        if self.averaging is not None:
            average = partial(self._average, self.averaging)
            averaged = _try_each(average, sources, failures=failures)
            outputs = after(averaged)
        else:
            prepared = _try_each(self._prepare, sources, failures=failures)
            batches = self._group(before(prepared))
            inferred = _try_batches(self._infer_batch, batches, failures=failures)
            outputs = after(inferred)
        if wanted.smoothing:
            outputs = _smooth(outputs, np.float32(wanted.smoothing))
        results = _try_each(partial(self._finish, wanted), outputs, failures=failures)
        return after(results)

    def _needs_sums(self, wanted: Wanted) -> bool:
        """Whether probabilities of merged classes are needed, which only the CPU adds up."""
        remap = self.backend.spec.remap_to_apply
        if remap is None or not remap.needs_sums:
            return False
        return wanted.confidence or remap.threshold is not None

    def _load(self, source: ImageSource) -> _Loaded:
        start = time.perf_counter()
        image = load_image(source, self.max_pixels)
        milliseconds = 1e3 * (time.perf_counter() - start)
        size = self.policy.input_size(_size_of(image))
        return _Loaded(image, _path_of(source), size, milliseconds)

    def _prepare(self, source: ImageSource) -> _Prepared:
        loaded = self._load(source)
        start = time.perf_counter()
        tensor = network_input(loaded.image, loaded.input_size, self.backend.spec)
        milliseconds = 1e3 * (time.perf_counter() - start)
        return _Prepared(loaded.image, loaded.source, tensor, loaded.load, milliseconds)

    def _group(self, images: Iterable[P | Failure]) -> Iterator[list[P] | Failure]:
        return _group(images, self.batch, lambda image: image.input_size)

    def _infer_batch(self, batch: list[_Prepared]) -> list[_Output]:
        start = time.perf_counter()
        outputs = self._infer([prepared.tensor for prepared in batch])
        infer = 1e3 * (time.perf_counter() - start) / len(batch)
        found = []
        for one, output in zip(batch, outputs, strict=True):
            times = StageTimes(one.load, one.preprocess, infer, 0.0)
            found.append(_Output(one.image, one.source, output, one.input_size, times))
        return found

    def _infer(self, tensors: list[Floats]) -> NDArray[np.generic]:
        """Run the network on inputs (1, 3, H, W) of one size, and return one output for each."""
        count = len(tensors)
        # Fill the batch up with copies, whose outputs nobody reads.
        tensors = tensors + tensors[-1:] * (self.least_batch - count)
        stacked = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)  # (N, 3, H, W)
        if not takes_uint8(self.backend.spec):  # whose pixels lie together as the graph takes them
            stacked = np.ascontiguousarray(stacked)
        output = self.backend.infer(stacked)
        return as_promised(self.backend.spec, stacked.shape, output)[:count]

    def _average(self, averaging: Averaging, source: ImageSource) -> _Output:
        clock = StageClock()
        image = load_image(source, self.max_pixels)
        clock.lap("load")
        input_sizes = [self.policy.input_size(_size_of(image), scale) for scale in averaging.scales]

        def prepare(input_size: Size) -> Floats:
            clock.lap("postprocess")
            tensor = network_input(image, input_size, self.backend.spec)
            clock.lap("preprocess")
            return tensor

        def infer(tensors: Iterable[Floats]) -> Iterator[Floats]:
            remaining = iter(tensors)
            while batch := list(islice(remaining, self.batch)):
                clock.lap("postprocess")
                outputs = self._infer(batch)
                clock.lap("infer")
                yield from outputs

        logits = averaging.mean_logits(input_sizes, _size_of(image), prepare, infer)
        clock.lap("postprocess")
        seen = averaging.tiling.tile if averaging.tiling else max(input_sizes)
        return _Output(image, _path_of(source), logits, seen, clock.times())

    def _finish(self, wanted: Wanted, found: _Output) -> Segmentation:
        start = time.perf_counter()
        size, output = _size_of(found.image), found.output
        if output.ndim == 2:
            scores = Scores(resize_labels(output, size), None, None)  # type: ignore[arg-type]
        else:
            are_probabilities = returns_probabilities(self.backend.spec)
            if not are_probabilities:
                watch_demo(self.backend.spec, output, found.input_size)
            scores = scores_from_logits(
                output,  # type: ignore[arg-type]  # float32, as promised
                size,
                are_probabilities=are_probabilities,
                confidence=wanted.confidence,
                probabilities=wanted.probabilities,
                remap=self.backend.spec.remap_to_apply,
            )
        spent = found.times.postprocess + 1e3 * (time.perf_counter() - start)
        times = replace(found.times, postprocess=spent)
        return self._make_segmentation(found, scores, found.input_size, times)

    def _label(
        self, backend: ImageBackend, batch: list[_Loaded], *, confidence: bool
    ) -> list[Segmentation]:
        """Segment a batch, all on the device."""
        size, count, remap = batch[0].input_size, len(batch), self.backend.spec.remap_to_apply
        judged = confidence or (remap is not None and remap.threshold is not None)
        done = backend.segment([loaded.image for loaded in batch], size, confidence=judged)
        spent = (done.preprocess / count, done.infer / count, done.postprocess / count)
        return [
            self._make_segmentation(
                loaded,
                remap_scores(scores, remap, confidence=confidence),
                size,
                StageTimes(loaded.load, *spent),
            )
            for loaded, scores in zip(batch, done.scores, strict=True)
        ]

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


def _path_of(source: object) -> str | None:
    """Return the path of an image that was given as one."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else None


def _size_of(image: Image) -> Size:
    return image.shape[0], image.shape[1]


def _group(
    items: Iterable[T | Failure], limit: int, kind: Callable[[T], tuple[int, ...]]
) -> Iterator[list[T] | Failure]:
    """Group consecutive items of one kind, up to `limit` of them, without failures."""
    waiting: list[T] = []
    for item in items:
        if waiting and (isinstance(item, Failure) or kind(waiting[0]) != kind(item)):
            yield waiting
            waiting = []
        if isinstance(item, Failure):
            yield item
            continue
        waiting.append(item)
        if len(waiting) == limit:  # do not wait for the next item: a stream may pause
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def try_one(work: Callable[[Any], U], item: object, *, failures: bool) -> U | Failure:
    """Do `work` on an item that is no failure; with `failures`, an error becomes a `Failure`."""
    if isinstance(item, Failure):
        return item
    try:
        return work(item)
    except Exception as error:
        named = _name_short_memory(error, item)
        if failures:
            return Failure.of(_source_of(item), named)
        if named is error:
            raise
        raise named from error


def _try_each(
    work: Callable[[Any], U], items: Iterable[object], *, failures: bool
) -> Iterator[U | Failure]:
    return map(partial(try_one, work, failures=failures), items)


def _try_batches(
    work: Callable[[list[T]], list[U]], batches: Iterable[list[T] | Failure], *, failures: bool
) -> Iterator[U | Failure]:
    """Do `work` on batches. Where one fails, each of its items is tried alone."""
    for batch in batches:
        done = try_one(work, batch, failures=failures)
        if not isinstance(done, Failure):
            yield from done
        elif isinstance(batch, Failure) or len(batch) == 1:
            yield done
        else:
            yield from _try_batches(work, [[item] for item in batch], failures=failures)


def _name_short_memory(error: Exception, item: object) -> Exception:
    """Return an `OutOfMemoryError` for an error of NumPy or OpenCV that says so, or else `error`.

    What a runtime raises was translated before, by `backend.run_error`.
    """
    short = isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
    if not (short or isinstance(error, MemoryError)):
        return error
    what = _source_of(item) or "an image"
    if isinstance(item, list):
        what = f"{len(item)} images, the first of which is {what}"
    if isinstance(item, _Prepared | _Loaded | _Output):
        height, width = item.input_size
        what += f", with an input of {height}x{width},"
    return out_of_memory(f"memory ran out for {what}: {' '.join(str(error).split())}")


def _source_of(item: object) -> str | None:
    """Return the path of what a stage works on: an image, as it came or prepared, or a batch."""
    if isinstance(item, list):
        return _source_of(item[0])
    if isinstance(item, _Prepared | _Loaded | _Output):
        return item.source
    return _path_of(item)


def _smooth(
    outputs: Iterable[_Output | Failure], weight: np.float32
) -> Iterator[_Output | Failure]:
    """Average logits exponentially: ``weight`` times the mean so far, plus the rest of the new.

    The average starts again when the shape (C, h, w) of the logits changes.
    """
    mean: Floats | None = None
    for found in outputs:
        if isinstance(found, Failure):
            yield found
            continue
        logits = found.output.astype(np.float32, copy=False)
        if mean is None or mean.shape != logits.shape:
            mean = logits
        else:
            mean = mean * weight + logits * (1 - weight)
        yield found._replace(output=mean)
