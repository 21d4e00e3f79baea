"""Segmenting a video: frames in, a playable H.264 file out."""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from alignseg_infer.arrays import Image
from alignseg_infer.errors import OptionError, OutputError, VideoError
from alignseg_infer.files.reading import real_path, user_path
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.inference.pipeline import Pipeline
from alignseg_infer.inference.stream import SegmentationStream
from alignseg_infer.pixels.images import OwnImage, load_image
from alignseg_infer.predictor import Predictor
from alignseg_infer.progress import FrameProgress
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.video.display import Display
from alignseg_infer.video.file_source import FileSource
from alignseg_infer.video.frames import Frame, FrameSource, SizeChanges
from alignseg_infer.video.options import VideoOptions, exact_seconds
from alignseg_infer.video.output_file import note_partial_file, unfinished_file
from alignseg_infer.video.render import Renderer
from alignseg_infer.video.writer import VideoWriter, require_video_ending

logger = logging.getLogger(__name__)

T = TypeVar("T")
View: TypeAlias = Callable[[Image], Image]
LONGEST_WRITE = 5.0  # seconds to wait at the end for a frame that is still being written
STAGES = ("decode", "preprocess", "infer", "postprocess", "render", "encode")


@dataclass(frozen=True)
class VideoSummary:
    """What `segment_source` did.

    Attributes:
        output: The file that was written; None if the video was only shown.
        frames: How many frames it holds, or were shown.
        duration: Seconds from the start of the first frame to the end of the last.
        damaged: How many frames of the source could not be decoded and were left out.
        dropped: How many frames of a live source were skipped because earlier ones were at work.
        reconnects: How often a live source was lost and found again.
        seconds: How long the work took.
        stages: Mean ms per frame for each of `STAGES`. Stages overlap, so their sum is more than
            the time that the work took.
        backend: What ran the network.
        notes: Sentences about anything else that was unusual.
    """

    output: Path | None
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
        """Frames segmented per second."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


def segment_source(
    predictor: Predictor,
    source: FrameSource,
    output: str | Path | None,
    options: VideoOptions | None = None,
    progress: FrameProgress | None = None,
    *,
    view: View | None = None,
    display: Display | None = None,
) -> VideoSummary:
    """Segment an open `source` and write the result to `output`.

    Decoding, preprocessing, the network, postprocessing, drawing and encoding overlap in threads.
    All pictures of `output` have the size of the first frame: a frame of another size is segmented
    as it is, and then fitted in with black bars.

    `output` appears only when it is complete and has been read back. Until then the frames are in
    ``NAME.partial.mp4``, which can be played as far as it was written, even after the process was
    killed.

    If Ctrl-C, a failing source, a full disk or anything else stops the work, this file is kept,
    that is logged, and the exception is raised again. For a live source, Ctrl-C is the normal end,
    and so is SystemExit, which a signal handler may raise. A partial file of an earlier run is left
    alone and mentioned in the notes; the new one is then called ``NAME.partial2.mp4``.

    A video that is only shown is shown at its own pace, and ends normally on Ctrl-C.

    Args:
        predictor: The model.
        source: From `open_source`. It is closed at the end.
        output: The video to write: .mp4, .mov, .m4v, or .mkv; None to show it only.
        options: How to segment and draw.
        progress: Called with the number of frames done, and their total (None if unknown).
        view: Makes another picture of each frame to show on the right, such as a
            `render.OffsetView`; (H, W, 3) uint8 BGR in and out.
        display: Shows the pictures. If someone ends it, the video ends there.

    Raises:
        VideoError: The source cannot be read to its end.
        OutputError: The output cannot be written.
        OptionError: The output is the source, or is not named like a video; or `view` failed.
        SizeError: The frames are too small for the network.
    """
    options = options or VideoOptions()
    if output is None:
        with contextlib.closing(source):
            return _Work(predictor, source, None, options, view=view, display=display).show(
                progress
            )
    output = user_path(output)
    with contextlib.closing(source):
        require_video_ending(output)
        _require_other_file(source, output)
        whole: Path | None = None
        try:
            with write_atomically(output) as temporary, unfinished_file(output) as partial:
                work = _Work(predictor, source, partial, options, view=view, display=display)
                summary = work.run(output, temporary, progress)
                whole = partial
        except BaseException:
            if whole is not None and whole.exists():
                logger.warning("the whole video stays in %s", whole)
            raise
        partial.unlink(missing_ok=True)  # not before the video has its name
        return replace(summary, notes=(*summary.notes, *note_partial_file(output)))


class _Work:
    """The work on one video. Each generator runs in a thread of its own."""

    def __init__(
        self,
        predictor: Predictor,
        source: FrameSource,
        partial: Path | None,
        options: VideoOptions,
        *,
        view: View | None,
        display: Display | None,
    ) -> None:
        self._predictor, self._source, self._options = predictor, source, options
        self._partial, self._display = partial, display
        self._renderer = Renderer(predictor.spec.classes, options, view)
        self._writer: VideoWriter | None = None
        self._writing = threading.Lock()
        self._waiting: deque[Frame] = deque()  # frames that wait for their results
        self._sizes = SizeChanges()
        self._read = 0
        self._spent = dict.fromkeys(STAGES, 0.0)  # seconds; only one thread writes to each entry
        self._cut = False
        self._dropped = 0
        self._shown = 0
        self._begin = self._end = Fraction(0)

    def show(self, progress: FrameProgress | None) -> VideoSummary:
        """Do all of the work without writing a file; Ctrl-C is a normal end.

        Raises:
            Exception: Whatever stopped the work; see `segment_source`.
        """
        begin = time.perf_counter()
        self._run_until_told(progress)
        if not self._shown:
            raise self._no_frames()
        return self._summarise(None, self._shown, [], time.perf_counter() - begin)

    def run(self, output: Path, target: Path, progress: FrameProgress | None) -> VideoSummary:
        """Do all of the work; the video is at `target` then, which will be called `output`.

        Raises:
            BaseException: Whatever stopped the work; see `segment_source`.
        """
        begin = time.perf_counter()
        try:
            self._run_until_told(progress)
            with self._lock_writer():
                writer = self._require_writer()
                writer.finish(target, with_rest_of_audio=not self._cut)
        except BaseException:
            self._keep_partial()
            raise
        self._begin, self._end = writer.begin, writer.end
        return self._summarise(output, writer.frames, writer.notes, time.perf_counter() - begin)

    def _run_until_told(self, progress: FrameProgress | None) -> None:
        """Do the work; a live source, or a video that is only shown, may be told to end."""
        try:
            self._run_pipeline(progress)
        except (KeyboardInterrupt, SystemExit):
            if self._partial and not self._source.facts.live:
                raise

    def _run_pipeline(self, progress: FrameProgress | None) -> None:
        live, total = self._source.facts.live, self._count_expected()
        with Pipeline() as pipeline:
            try:
                decoded = pipeline.thread(self._decode(), depth=1 if live else 2, drop_old=live)
                results = self._predictor.stream(
                    self._take_images(decoded),
                    smoothing=self._options.smoothing,
                    depth=0 if live else 2,
                )
                drawn = pipeline.thread(self._draw(results))
                for picture, frame in pipeline.thread(self._encode(drawn)):
                    self._count(frame)
                    if progress:
                        progress(self._shown, total)
                    if self._display and not self._display.show(picture, self._due(frame)):
                        self._cut = True
                        break
            finally:
                self._source.stop()
                self._dropped = pipeline.dropped

    def _count(self, frame: Frame) -> None:
        """Take note of a frame that is shown or written."""
        self._begin = self._begin if self._shown else frame.time
        self._end = frame.time + (frame.duration or 0)
        self._shown += 1

    def _due(self, frame: Frame) -> Fraction | None:
        """Return the time of a frame, unless it should be shown at once."""
        return None if self._partial or self._source.facts.live else frame.time

    def _count_expected(self) -> int | None:
        facts, options = self._source.facts, self._options
        bounds = [facts.frames, options.max_frames]
        if options.seconds is not None and facts.rate and not facts.live:
            bounds.append(math.ceil(exact_seconds(options.seconds) * facts.rate))
        return min((bound for bound in bounds if bound is not None), default=None)

    def _decode(self) -> Iterator[Frame]:
        frames = iter(self._source)
        try:
            while (frame := self._time("decode", lambda: next(frames, None))) is not None:
                self._read += 1
                yield replace(frame, image=load_image(frame.image))  # the source may reuse it
        except OSError as error:  # otherwise it would look like an error of the output disk
            raise VideoError(
                f"{self._source.name} cannot be read: {error.strerror or error}",
                "a video, folder or camera that can be read to its end",
                "check its disk or network, then try again",
            ) from error

    def _take_images(self, frames: Iterable[Frame]) -> Iterator[OwnImage]:
        begin: Fraction | None = None
        for count, frame in enumerate(frames):
            begin = frame.time if begin is None else begin
            if self._is_beyond_end(count, frame.time - begin):
                self._cut = True
                return
            self._sizes.see(frame)
            self._waiting.append(frame)
            yield OwnImage(frame.image)

    def _is_beyond_end(self, count: int, seconds: Fraction) -> bool:
        """Return whether frame `count`, `seconds` after the first, is beyond the options' end."""
        frames, longest = self._options.max_frames, self._options.seconds
        return (frames is not None and count >= frames) or (
            longest is not None and seconds >= exact_seconds(longest)
        )

    def _draw(self, results: SegmentationStream[Segmentation]) -> Iterator[tuple[Image, Frame]]:
        with results:
            for result in results:
                frame = self._waiting.popleft()
                self._spent["preprocess"] += (result.times.load + result.times.preprocess) / 1e3
                self._spent["infer"] += result.times.infer / 1e3
                self._spent["postprocess"] += result.times.postprocess / 1e3
                yield self._time("render", partial(self._renderer.draw, result)), frame

    def _encode(self, drawn: Iterable[tuple[Image, Frame]]) -> Iterator[tuple[Image, Frame]]:
        for picture, frame in drawn:
            if self._partial:
                with self._writing:
                    writer = self._writer = self._writer or self._open_writer(self._partial)
                    self._time("encode", partial(writer.write, picture, frame.time, frame.duration))
            yield picture, frame

    def _time(self, stage: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        done = work()
        self._spent[stage] += time.perf_counter() - start
        return done

    def _open_writer(self, path: Path) -> VideoWriter:
        source = self._source
        audio_from = source if self._options.audio and isinstance(source, FileSource) else None
        if audio_from and audio_from.is_pipe:
            if audio_from.has_audio:
                source.notes.append("audio was left out: a pipe can be read only once")
            audio_from = None
        return VideoWriter(path, source.facts, crf=self._options.crf, audio_from=audio_from)

    def _require_writer(self) -> VideoWriter:
        if self._writer is None:
            raise self._no_frames()
        return self._writer

    def _no_frames(self) -> VideoError:
        return VideoError(
            f"{self._source.name} gave no frames",
            "a video, folder or camera that gives at least one frame",
            "try again; a camera may need more time",
        )

    def _keep_partial(self) -> None:
        """Keep the frames encoded so far in a file of their own, and say where it is."""
        try:
            with self._lock_writer():
                if self._writer is None or self._partial is None:
                    return
                kept, written = self._writer.rescue(), self._writer.frames
        except OutputError as error:  # it is still in use
            logger.warning("what was written so far stays in %s: %s", self._partial, error.problem)
            return
        if not kept:
            self._partial.unlink(missing_ok=True)
            logger.warning("the %d frames encoded so far are lost", written)
        else:
            share = f"the {written}" if kept >= written else f"{kept} of the {written}"
            logger.warning("%s frames encoded so far are kept in %s", share, self._partial)

    @contextlib.contextmanager
    def _lock_writer(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=LONGEST_WRITE):
            raise OutputError(
                f"a frame is still being written after {LONGEST_WRITE:g} s",
                "a disk that can be written to",
                "check the disk or network that holds the output",
            )
        try:
            yield
        finally:
            self._writing.release()

    def _summarise(
        self, output: Path | None, frames: int, notes: list[str], seconds: float
    ) -> VideoSummary:
        source = self._source
        return VideoSummary(
            output=output,
            frames=frames,
            duration=float(self._end - self._begin),
            damaged=source.damaged,
            dropped=self._dropped,
            reconnects=source.reconnects,
            seconds=seconds,
            stages={
                # Frames that were read ahead took time as well, though they are not in the file.
                stage: 1e3 * spent / (self._read if stage == "decode" else frames)
                for stage, spent in self._spent.items()
            },
            backend=self._predictor.backend,
            notes=(*source.notes, *self._sizes.notes, *notes),
        )


def _require_other_file(source: FrameSource, output: Path) -> None:
    if not isinstance(source, FileSource):
        return
    if real_path(output) == real_path(source.path):
        raise OptionError(
            f"the destination {output} would overwrite the source {source.path}",
            "a destination that is not the source",
            f"destination={source.path.stem}_segmented.mp4",
        )
