"""A stream of images, segmented by stages in overlapping threads."""

import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

from alignseg_infer.images import ImageSource
from alignseg_infer.pipeline import Pipeline, PipelineStopped
from alignseg_infer.result import Segmentation
from alignseg_infer.stages import Join, Stages, Wanted


class SegmentationStream(Iterator[Segmentation]):
    """Segmentations of images as they come; made by `Predictor.stream`."""

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
        weakref.finalize(self, self._pipeline.stop)  # for a loop that was left with break
        thread: Join = partial(self._pipeline.thread, depth=max(depth, 1))
        before: Join = iter if live or depth == 0 else thread
        if live:
            images = self._pipeline.thread(images, depth=1, drop_old=True)
        self._results = stages.segmented(before(images), wanted, before, thread)

    @property
    def dropped(self) -> int:
        """Images of a live source that were not segmented because newer ones had come."""
        return self._pipeline.dropped

    def __next__(self) -> Segmentation:
        try:
            return next(self._results)
        except PipelineStopped as stopped:  # closed
            raise StopIteration from stopped
        except BaseException:  # the end is one, too
            self.close()
            raise

    def close(self) -> None:
        """Stops all threads. A second call does nothing."""
        self._pipeline.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
