"""Frames of a video file, with its times, colours and rotation, and without damaged frames."""

import logging
import re
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeVar

from alignseg_infer.arrays import Image
from alignseg_infer.errors import VideoError
from alignseg_infer.files.reading import require_file
from alignseg_infer.pixels.wide_color import color_name
from alignseg_infer.video.colors import BgrFrames
from alignseg_infer.video.frames import DEFAULT_RATE, Frame, StreamFacts
from alignseg_infer.video.opening import is_pipe, open_pipe, open_video, pipe_error
from alignseg_infer.video.pyav import av

logger = logging.getLogger(__name__)

_Done = TypeVar("_Done")

MOST_READ_ERRORS = 10  # in a row; after that, the file is taken to end there
CUT_STEPS = Fraction(5, 2)  # usual steps between frames: some headers announce two frames too many
CUT_SHARE = Fraction(2, 100)  # of the announced length
CUT_SECONDS = Fraction(1, 10)  # a shorter end is not missed, and rounding may make one
COVER = av.stream.Disposition.attached_pic  # an album cover, stored as a video stream


class FileSource:
    """A `FrameSource` that reads a video file.

    It reads H.264, H.265, VP9 and whatever else the installed FFmpeg decodes, in any container,
    under any name, with 8 bits or more. Frames that cannot be decoded completely are counted and
    left out; the frame before them is then shown for longer. Frames are turned upright as the file
    says. HDR (PQ and HLG) and BT.2020 are converted to BT.709. If the file does not name its colour
    matrix, BT.709 is assumed above 576 rows, and BT.601 otherwise. Where the clock jumps back by
    more than a frame, as it does in joined MPEG-TS files, the frames that follow continue from the
    time reached.

    Attributes:
        is_pipe: Whether it can be read only once.
        start: Seconds at which the file begins by its own clock; times of frames count from there.
        step: Usual number of seconds from one frame to the next.
        shifts: Seconds added to the times after the first jump back, after the second, and so on.

    Args:
        path: The file.

    Raises:
        VideoError: The file is missing, empty or a device, or none of its frames can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.is_pipe = is_pipe(path)
        if not self.is_pipe:
            require_file(path, "a video", VideoError)
        self.path = path
        self.name = str(path)
        self.damaged = 0
        self.reconnects = 0
        self.notes: list[str] = []
        self.start = Fraction(0)
        self.shifts: list[Fraction] = []
        self._clock_note = ""
        self._stopped = False
        self._pipe = open_pipe(path) if self.is_pipe else None
        self._container = self._read(lambda: open_video(path, self._pipe))
        try:
            self._stream = self._choose_stream()
            self._stream.thread_type = (
                "AUTO"  # by frames; with slices, concealed errors go unnoticed
            )
            self._time_base = Fraction(self._stream.time_base or 1 / DEFAULT_RATE)
            self.step = 1 / self._rate if self._rate else 1 / DEFAULT_RATE
            self._decoder = self._decode()
            self._first = self._read_first_frame()
        except BaseException:
            if self._pipe:
                self._pipe.stop()
            self._container.close()
            raise
        self.start = self._find_start()
        self._pixels = BgrFrames(self._first)
        if name := color_name(self._first.color_primaries, self._first.color_trc):
            self.notes.append(f"{self.path} is {name}; its colours were converted to BT.709")
        self.facts = self._gather_facts()

    def __iter__(self) -> Iterator[Frame]:
        last: Frame | None = None
        following = iter(lambda: self._read(lambda: next(self._decoder, None)), None)
        for frame in chain((self._first,), following):
            image = self._convert(frame)
            if image is None:
                continue
            time = self._time_frame(frame, last.time if last else None)
            duration = (frame.duration or 0) * self._time_base
            last = Frame(image, time, duration or None)
            yield last
            if self._stopped:
                return
        self._note_early_end(last)

    def stop(self) -> None:
        """End the iteration after the current frame."""
        self._stopped = True

    def close(self) -> None:
        """Close the file, unless a thread hangs in its decoder: closing it then would crash."""
        if self._pipe:
            self._pipe.stop()
        try:
            self._decoder.close()
        except ValueError as error:  # the generator is running
            logger.warning("%s is left open: %s", self.path, error)
        else:
            self._container.close()
            if self._pipe:
                self._pipe.close()

    @property
    def has_audio(self) -> bool:
        """Whether the file has audio too."""
        return bool(self._container.streams.audio)

    @property
    def _rate(self) -> Fraction | None:
        # PyAV 19 has its own fractions, which know less than Python's and are 0 for None.
        rate = self._stream.average_rate or self._stream.guessed_rate
        return Fraction(rate) if rate else None

    def _choose_stream(self) -> av.VideoStream:
        streams = self._container.streams.video
        moving = [stream for stream in streams if not stream.disposition & COVER]
        if not moving or moving[0].codec_context is None:
            kinds = ", ".join(stream.type for stream in self._container.streams) or "nothing"
            raise VideoError(
                f"{self.path} holds {kinds}, but no video that can be decoded",
                "a file with a video stream",
                f"inspect it with: ffprobe {self.path}",
            )
        # AVIF has its first picture as a stream of its own, before the moving ones.
        return next((stream for stream in moving if stream.frames > 1), moving[0])

    def _read(self, work: Callable[[], _Done]) -> _Done:
        """Return what `work` returns, which reads the file."""
        return self._pipe.run(work) if self._pipe else work()

    def _read_first_frame(self) -> av.VideoFrame:
        first = self._read(lambda: next(self._decoder, None))
        if first is None:
            seen = f"{self.damaged} frames, all damaged" if self.damaged else "no frames at all"
            problem = f"no frame of {self.path} can be decoded; it has {seen}"
            if self.is_pipe:
                raise pipe_error(self.path, problem)
            raise VideoError(
                problem,
                "a video with at least one frame",
                f"inspect it with: ffprobe {self.path}; or copy it again",
            )
        return first

    def _find_start(self) -> Fraction:
        """Return when video or audio begins first, 0 or later, as a multiple of the time base."""
        begins = [
            stream.start_time * stream.time_base
            for stream in (self._stream, *self._container.streams.audio)
            if stream.start_time is not None and stream.time_base
        ]
        start = max(Fraction(0), min(begins, default=Fraction(0)))
        return start // self._time_base * self._time_base

    def _gather_facts(self) -> StreamFacts:
        aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        return StreamFacts(
            size=self._pixels.size,
            time_base=self._time_base,
            rate=self._rate,
            frames=self._count_announced(),
            pixel_aspect=1 / aspect if self._pixels.turned else aspect,
        )

    def _count_announced(self) -> int | None:
        """Return how many frames the header announces for the video; None if it does not say."""
        if self._stream.frames:
            return self._stream.frames
        end = _matroska_seconds(self._stream.metadata.get("DURATION", ""))
        if not (end and self._rate):
            return None
        begin = (self._stream.start_time or 0) * self._time_base
        return round((end - begin) * self._rate) or None

    def _decode(self) -> Generator[av.VideoFrame]:
        for packet in self._read_packets():
            if packet.size == 0 and packet.pts is not None:
                continue  # in Theora and AVI this means "the same picture again"
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.damaged += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damaged += 1
                else:
                    yield frame

    def _read_packets(self) -> Iterator["av.Packet[av.VideoStream]"]:
        errors = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    errors = 0
                    yield packet
            except av.FFmpegError as error:
                errors += 1
                if errors > MOST_READ_ERRORS:
                    self.notes.append(f"{self.path} cannot be read to its end: {error.strerror}")
                    return
            else:
                return

    def _convert(self, frame: av.VideoFrame) -> Image | None:
        try:
            return self._pixels.image(frame)
        except av.FFmpegError:
            self.damaged += 1
            return None

    def _time_frame(self, frame: av.VideoFrame, last: Fraction | None) -> Fraction:
        """Return when the frame is shown; without a usable time, right after the one before it."""
        if last is None:
            return max(Fraction(0), (frame.pts or 0) * self._time_base - self.start)
        following = last + max(self._round_to_ticks(self.step), self._time_base)
        if frame.pts is None:
            return following
        shown = frame.pts * self._time_base - self.start
        time = shown + (self.shifts[-1] if self.shifts else 0)
        if time < last - self.step:
            self._jump_back(following - shown)
            return following
        return max(last + self._time_base, time)

    def _jump_back(self, shift: Fraction) -> None:
        self.shifts.append(shift)
        if self._clock_note:
            self.notes.remove(self._clock_note)
        times = len(self.shifts)
        self._clock_note = (
            f"the clock of {self.path} jumps back {times} times; the times were made continuous"
        )
        self.notes.append(self._clock_note)

    def _round_to_ticks(self, seconds: Fraction) -> Fraction:
        return round(seconds / self._time_base) * self._time_base

    def _note_early_end(self, last: Frame | None) -> None:
        """Note that the file ends before its header says; whole files have no such note.

        Times are compared, not numbers of frames: headers count frames that an edit list hides, or
        that are only shown for longer, and rates are averages.
        """
        announced = self._announced_end()
        if announced is None or self.shifts:  # a clock that jumps back makes the header's end void
            return
        end = self.damaged * self.step
        if last is not None:
            end += last.time + max(last.duration or 0, self.step)
        if announced - end > max(CUT_STEPS * self.step, CUT_SHARE * announced, CUT_SECONDS):
            self.notes.append(
                f"{self.path} is cut off: its header announces {float(announced):.2f} s, "
                f"but it ends after {float(end):.2f} s"
            )

    def _announced_end(self) -> Fraction | None:
        """Return when the video ends according to the header, in seconds from its start."""
        if self._stream.duration:
            end = ((self._stream.start_time or 0) + self._stream.duration) * self._time_base
        else:
            seconds = _matroska_seconds(self._stream.metadata.get("DURATION", ""))
            if seconds is None:
                return None
            end = seconds
        return end - self.start


def _matroska_seconds(text: str) -> Fraction | None:
    """Return ``00:01:00.049000000`` in seconds; None for text of another form."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
