"""Segmentation of a stream of images, by stages in overlapping threads."""

import contextlib
import os
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from numbers import Real
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

import numpy as np

from alignseg_infer.backports import Self
from alignseg_infer.errors import OptionError, ProcessError
from alignseg_infer.inference.pipeline import Pipeline, PipelineStopped
from alignseg_infer.inference.stages import Join, Stages, Wanted, try_one
from alignseg_infer.pixels.images import Encoded, ImageSource, PILImage, take_over
from alignseg_infer.results.failure import Failure
from alignseg_infer.results.segmentation import Segmentation

R = TypeVar("R", Segmentation, Segmentation | Failure)


class SegmentationStream(Iterator[R], Generic[R]):
    """An iterator over the segmentations of a stream of images; `Predictor.stream` creates it.

    Several threads may iterate it at once; each result goes to one of them.
    """

    def __init__(
        self,
        stages: Stages,
        images: Iterable[ImageSource],
        wanted: Wanted,
        *,
        depth: int,
        live: bool,
    ) -> None:
        self._pipeline = Pipeline()
        self._taking = threading.Lock()
        weakref.finalize(self, self._pipeline.stop)  # for loops that end with a break
        thread: Join = partial(self._pipeline.thread, depth=max(depth, 1))
        before: Join = iter if live or depth == 0 else thread
        self._owned = _take_over_each(images, stages.max_pixels, wanted.failures)
        owned: Iterator[ImageSource | Failure] = self._owned
        if live:
            owned = self._pipeline.thread(owned, depth=1, drop_old=True)
        self._results = stages.segment(before(owned), wanted, before, thread)

    @property
    def dropped(self) -> int:
        """Number of images of a live source that were skipped in favour of newer ones."""
        return self._pipeline.dropped

    def __next__(self) -> R:
        self._pipeline.process.require("a stream")
        try:
            with self._taking:
                return next(self._results)  # type: ignore[return-value]  # as `wanted` says
        except PipelineStopped as stopped:  # closed
            raise StopIteration from stopped
        except BaseException:  # includes StopIteration at the end
            self.close()
            raise

    def __getstate__(self) -> NoReturn:
        raise ProcessError(
            "a stream cannot be pickled or copied, since it has threads",
            "what can be sent to another process: the predictor, images and results",
            "send the predictor, and call predictor.stream(images) in the other process",
        )

    def close(self) -> None:
        """Stop all threads, and close the images if they are a generator, before this returns.

        A second call does nothing.
        """
        self._pipeline.stop()
        if self._pipeline.process.is_this():
            with contextlib.suppress(ValueError):  # it makes an image in a thread that goes on
                self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _take_over_each(
    images: Iterable[ImageSource], max_pixels: int, failures: bool
) -> Generator[ImageSource | Failure]:
    """Take over each image in the thread that iterates, before the source makes the next.

    Cameras and shared memory return the same array again and again.
    """
    try:
        take = partial(take_over, max_pixels=max_pixels)
        yield from map(partial(try_one, take, failures=failures), images)
    finally:
        if isinstance(images, Generator):
            images.close()


def require_stream_options(images: object, smoothing: object, depth: object) -> None:
    """Check the arguments of `Predictor.stream`, which documents them.

    Raises:
        OptionError: An argument makes no sense.
    """
    if isinstance(images, str | os.PathLike | Encoded | np.ndarray | PILImage) or not isinstance(
        images, Iterable
    ):
        raise OptionError(
            f"images is one {type(images).__name__}",
            "an iterable of images",
            "for one image: predictor(image); for a video: alignseg video MODEL VIDEO -o "
            "OUTPUT.mp4",
        )
    if not (isinstance(smoothing, Real) and 0 <= float(smoothing) < 1):
        raise OptionError(f"smoothing={smoothing!r}", "0 to below 1", "smoothing=0.6")
    if type(depth) is not int or depth < 0:
        raise OptionError(f"depth={depth!r}", "a whole number, 0 or more", "depth=2")
