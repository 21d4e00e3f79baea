"""Segments a video: frames in, a playable H.264 file out."""

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from alignseg_infer.errors import AlignSegError, OptionError, OutputError, VideoError
from alignseg_infer.files import written_atomically
from alignseg_infer.inference.pipeline import Pipeline
from alignseg_infer.inference.stream import SegmentationStream
from alignseg_infer.pixels.images import Image
from alignseg_infer.predictor import Predictor
from alignseg_infer.video.file_source import FileSource
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.render import Renderer
from alignseg_infer.video.sources import Frame, FrameSource
from alignseg_infer.video.writer import VideoWriter, require_video_ending

logger = logging.getLogger(__name__)

T = TypeVar("T")
Progress: TypeAlias = Callable[[int, int | None], None]
View: TypeAlias = Callable[[Image], Image]
LONGEST_WRITE = 5.0  # seconds that the end waits for a frame that is being written
STAGES = ("decode", "preprocess", "infer", "postprocess", "render", "encode")


@dataclass(frozen=True)
class VideoSummary:
    """What `segment_source` did.

    Attributes:
        output: The file.
        frames: How many it holds.
        duration: Seconds from the first frame to the end of the last.
        damaged: Frames of the source that could not be decoded, and were left out.
        dropped: Frames of a live source that came while earlier ones were at work.
        reconnects: How often a live source was lost and came back.
        seconds: What it took.
        stages: Mean ms per frame of each of `STAGES`. They overlap: their sum is more than it took.
        backend: What ran the network.
        notes: What else was unusual, in sentences.
    """

    output: Path
    frames: int
    duration: float
    damaged: int
    dropped: int
    reconnects: int
    seconds: float
    stages: dict[str, float]
    backend: str
    notes: tuple[str, ...]

    @property
    def fps(self) -> float:
        """Frames per second that were segmented."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


def segment_source(
    predictor: Predictor,
    source: FrameSource,
    output: str | Path,
    options: VideoOptions | None = None,
    progress: Progress | None = None,
    *,
    view: View | None = None,
) -> VideoSummary:
    """Segments an open `source` and writes the result to `output`.

    Decoding, preparing, the network, labelling, drawing and encoding overlap in threads. `output`
    appears when it is complete and was read back. If something stops the work, as Ctrl-C, a source
    that fails or a full disk, what was encoded so far is kept as ``NAME.partial.mp4`` where that is
    possible, logged, and the exception goes on; a live source ends with Ctrl-C, or with SystemExit
    as of a signal handler, as if it were over. Such a file of an earlier run stays, and is noted.

    Args:
        predictor: The model.
        source: From `open_source`; it is closed at the end.
        output: The video to write: .mp4, .mov, .m4v, or .mkv.
        options: What it is to look like.
        progress: Is called with how many frames are done, and of how many (None: not known).
        view: Makes another picture of each frame, for the right side, such as a
            `render.OffsetView`; (H, W, 3) uint8 BGR in and out.

    Raises:
        VideoError: The source cannot be read to its end.
        OutputError: The output cannot be written.
        OptionError: The output is the source, or no video by its name; or `view` failed.
        SizeError: The frames are too small for the network.
    """
    output, options = Path(output), options or VideoOptions()
    with contextlib.closing(source):
        require_video_ending(output)
        _require_other_file(source, output)
        with written_atomically(output) as temporary:
            work = _Work(predictor, source, temporary, options, view)
            return work.done(output, progress)


class _Work:
    """One video on its way; the generators run in threads of their own."""

    def __init__(
        self,
        predictor: Predictor,
        source: FrameSource,
        temporary: Path,
        options: VideoOptions,
        view: View | None,
    ) -> None:
        self._predictor, self._source, self._options = predictor, source, options
        self._temporary = temporary
        self._renderer = Renderer(predictor.spec.classes, options, view)
        self._writer: VideoWriter | None = None
        self._writing = threading.Lock()
        self._waiting: deque[Frame] = deque()  # frames whose results are not there yet
        self._read = 0
        self._spent = dict.fromkeys(STAGES, 0.0)  # seconds; each entry is written by one thread
        self._cut = False
        self._dropped = 0

    def done(self, output: Path, progress: Progress | None) -> VideoSummary:
        """Does all of it.

        Raises:
            BaseException: What stopped it; see `segment_source`.
        """
        begin = time.perf_counter()
        try:
            self._run(progress)
        except BaseException as error:
            told = isinstance(error, (KeyboardInterrupt, SystemExit))
            if not (told and self._source.facts.live):
                self._keep_partial(output)
                raise
        with self._nobody_writing():
            writer = self._required_writer()
            writer.finish(with_rest_of_audio=not self._cut)
        return self._summary(output, writer, time.perf_counter() - begin)

    def _run(self, progress: Progress | None) -> None:
        live, total = self._source.facts.live, self._total()
        with Pipeline() as pipeline:
            try:
                decoded = pipeline.thread(self._decoded(), depth=1 if live else 2, drop_old=live)
                results = self._predictor.stream(
                    self._images(decoded),
                    smoothing=self._options.smoothing,
                    depth=0 if live else 2,
                )
                drawn = pipeline.thread(self._drawn(results))
                for count in pipeline.thread(self._encoded(drawn)):
                    if progress:
                        progress(count, total)
            finally:
                self._source.stop()
                self._dropped = pipeline.dropped

    def _total(self) -> int | None:
        facts, options = self._source.facts, self._options
        bounds = [facts.frames, options.max_frames]
        if options.seconds is not None and facts.rate and not facts.live:
            bounds.append(math.ceil(options.seconds * facts.rate))
        return min((bound for bound in bounds if bound is not None), default=None)

    def _decoded(self) -> Iterator[Frame]:
        frames = iter(self._source)
        try:
            while (frame := self._timed("decode", lambda: next(frames, None))) is not None:
                self._read += 1
                yield frame
        except OSError as error:  # it would be taken for one of the disk that is written to
            raise VideoError(
                f"{self._source.name} cannot be read: {error.strerror or error}",
                "a video, folder or camera that can be read to its end",
                "look at its disk or network, and try again",
            ) from error

    def _images(self, frames: Iterable[Frame]) -> Iterator[Image]:
        begin: Fraction | None = None
        for count, frame in enumerate(frames):
            begin = frame.time if begin is None else begin
            if self._is_enough(count, frame.time - begin):
                self._cut = True
                return
            self._waiting.append(frame)
            yield frame.image

    def _is_enough(self, count: int, seconds: Fraction) -> bool:
        """Whether the frame number `count`, `seconds` after the first, is one too many."""
        frames, longest = self._options.max_frames, self._options.seconds
        return (frames is not None and count >= frames) or (
            longest is not None and seconds >= longest
        )

    def _drawn(self, results: SegmentationStream) -> Iterator[tuple[Image, Frame]]:
        with results:
            for result in results:
                frame = self._waiting.popleft()
                self._spent["preprocess"] += (result.times.load + result.times.preprocess) / 1e3
                self._spent["infer"] += result.times.infer / 1e3
                self._spent["postprocess"] += result.times.postprocess / 1e3
                yield self._timed("render", partial(self._renderer.picture, result)), frame

    def _encoded(self, drawn: Iterable[tuple[Image, Frame]]) -> Iterator[int]:
        for picture, frame in drawn:
            with self._writing:
                writer = self._writer = self._writer or self._new_writer()
                self._timed("encode", partial(writer.write, picture, frame.time, frame.duration))
            yield writer.frames

    def _timed(self, stage: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        done = work()
        self._spent[stage] += time.perf_counter() - start
        return done

    def _new_writer(self) -> VideoWriter:
        source = self._source
        audio_from = source if self._options.audio and isinstance(source, FileSource) else None
        return VideoWriter(
            self._temporary, source.facts, crf=self._options.crf, audio_from=audio_from
        )

    def _required_writer(self) -> VideoWriter:
        if self._writer is None:
            raise VideoError(
                f"{self._source.name} gave no frame",
                "a video, folder or camera that gives at least one",
                "try it again; with a camera, for longer",
            )
        return self._writer

    def _keep_partial(self, output: Path) -> None:
        """Makes what was encoded so far a file of its own, if that can be done."""
        try:
            with self._nobody_writing():
                if self._writer is None:
                    return
                self._writer.finish(with_rest_of_audio=False)
                os.replace(self._temporary, partial_path(output))
        except (OSError, AlignSegError) as error:
            logger.warning("the %d frames so far are lost: %s", self._frames_written, error)
        else:
            kept = partial_path(output)
            logger.warning("the %d frames so far are kept in %s", self._frames_written, kept)

    @property
    def _frames_written(self) -> int:
        return self._writer.frames if self._writer else 0

    @contextlib.contextmanager
    def _nobody_writing(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=LONGEST_WRITE):
            raise OutputError(
                f"a frame is still being written after {LONGEST_WRITE:g} s",
                "a disk that takes what is written",
                "look at the disk or network that the output is on",
            )
        try:
            yield
        finally:
            self._writing.release()

    def _summary(self, output: Path, writer: VideoWriter, seconds: float) -> VideoSummary:
        source = self._source
        return VideoSummary(
            output=output,
            frames=writer.frames,
            duration=float(writer.end - writer.begin),
            damaged=source.damaged,
            dropped=self._dropped,
            reconnects=source.reconnects,
            seconds=seconds,
            stages={
                # Frames that were read ahead, and are not in the file, took their time as well.
                stage: 1e3 * spent / (self._read if stage == "decode" else writer.frames)
                for stage, spent in self._spent.items()
            },
            backend=self._predictor.backend,
            notes=(*source.notes, *writer.notes, *_partial_note(output)),
        )


def partial_path(output: Path) -> Path:
    """Where an unfinished `output` is kept: ``out.partial.mp4`` for ``out.mp4``."""
    return output.with_name(f"{output.stem}.partial{output.suffix}")


def _partial_note(output: Path) -> list[str]:
    path = partial_path(output)
    return [f"{path} of an earlier run is still there"] if path.exists() else []


def _require_other_file(source: FrameSource, output: Path) -> None:
    if not isinstance(source, FileSource):
        return
    for path in (output, partial_path(output)):
        if os.path.realpath(path) == os.path.realpath(source.path):
            raise OptionError(
                f"the destination {output} would overwrite the source {source.path}",
                "different files",
                f"destination={source.path.stem}_segmented.mp4",
            )
