"""Frames of a video file: times, colours and rotation as the file says, damaged frames left out."""

import logging
import re
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path

from alignseg_infer.arrays import Image
from alignseg_infer.errors import VideoError
from alignseg_infer.files import require_file
from alignseg_infer.video.colors import BgrFrames
from alignseg_infer.video.frames import DEFAULT_RATE, Frame, StreamFacts
from alignseg_infer.video.pyav import av

logger = logging.getLogger(__name__)

MOST_READ_ERRORS = 10  # one after the other; then the file is taken to end there
FEWEST_ANNOUNCED = 0.98  # share of the announced frames; some headers count two too many
COVER = av.stream.Disposition.attached_pic  # a picture of the album, in the form of a stream


class FileSource:
    """The frames of a video file, as `FrameSource` has it.

    H.264, H.265, VP9 and whatever else the installed FFmpeg decodes, in any container and under
    any name, with 8 bits or more. Frames that cannot be decoded, or only in part, are counted and
    left out: the one before stays longer. Frames are turned upright as the file says. Where the
    file does not name its colour matrix, BT.709 is taken above 576 rows, else BT.601. Where its
    clock jumps back by more than a frame, as in joined MPEG-TS, what follows goes on from there.

    Attributes:
        start: Seconds at which the file begins by its own clock; frames have times from there.
        step: Seconds from frame to frame, usually.
        shifts: Seconds that are added to the times after the first jump back, the second, ...

    Args:
        path: The file.

    Raises:
        VideoError: It is missing, empty, or no frame of it can be decoded.
    """

    def __init__(self, path: Path) -> None:
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
        self._container = opened(path)
        try:
            self._stream = self._video_stream()
            self._stream.thread_type = "AUTO"  # by frames: by slices, concealed errors go unnoticed
            self._time_base = self._stream.time_base or 1 / DEFAULT_RATE
            self.step = 1 / self._rate if self._rate else 1 / DEFAULT_RATE
            self._decoder = self._decoded()
            self._first = self._first_frame()
        except BaseException:
            self._container.close()
            raise
        self.start = self._start()
        self._pixels = BgrFrames(self._first)
        self.facts = self._facts()

    def __iter__(self) -> Iterator[Frame]:
        last: Fraction | None = None
        shown = 0
        for frame in self._all_frames():
            image = self._image(frame)
            if image is None:
                continue
            shown += 1
            last = self._time(frame, last)
            duration = (frame.duration or 0) * self._time_base
            yield Frame(image, last, duration or None)
            if self._stopped:
                return
        self._note_early_end(shown + self.damaged, last)

    def stop(self) -> None:
        """Ends the iteration after the present frame."""
        self._stopped = True

    def close(self) -> None:
        """Closes the file, unless a thread hangs in it: to free what that uses would crash."""
        try:
            self._decoder.close()
        except ValueError as error:  # the generator is running
            logger.warning("%s is left open: %s", self.path, error)
        else:
            self._container.close()

    @property
    def _rate(self) -> Fraction | None:
        return self._stream.average_rate or self._stream.guessed_rate

    def _video_stream(self) -> av.VideoStream:
        streams = self._container.streams.video
        moving = [stream for stream in streams if not stream.disposition & COVER]
        if not moving or moving[0].codec_context is None:
            kinds = ", ".join(stream.type for stream in self._container.streams) or "nothing"
            raise VideoError(
                f"{self.path} holds {kinds}, and no video that can be decoded",
                "a file with a video stream",
                f"look at it with: ffprobe {self.path}",
            )
        return moving[0]

    def _first_frame(self) -> av.VideoFrame:
        first = next(self._decoder, None)
        if first is None:
            seen = f"{self.damaged} damaged ones" if self.damaged else "none at all"
            raise VideoError(
                f"no frame of {self.path} can be decoded, it has {seen}",
                "a video with at least one frame",
                f"look at it with: ffprobe {self.path}; copy it again",
            )
        return first

    def _start(self) -> Fraction:
        """When the first of video and audio begins, if after 0; a multiple of the time base."""
        begins = [
            stream.start_time * stream.time_base
            for stream in (self._stream, *self._container.streams.audio)
            if stream.start_time is not None and stream.time_base
        ]
        start = max(Fraction(0), min(begins, default=Fraction(0)))
        return start // self._time_base * self._time_base

    def _facts(self) -> StreamFacts:
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        return StreamFacts(
            size=self._pixels.size,
            time_base=self._time_base,
            rate=self._rate,
            frames=self._announced(),
            pixel_aspect=1 / aspect if self._pixels.turned else aspect,
        )

    def _announced(self) -> int | None:
        """How many frames there should be, where the header knows it of the video alone."""
        if self._stream.frames:
            return self._stream.frames
        end = _matroska_seconds(self._stream.metadata.get("DURATION", ""))
        if not (end and self._rate):
            return None
        begin = (self._stream.start_time or 0) * self._time_base
        return round((end - begin) * self._rate) or None

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        yield self._first
        yield from self._decoder

    def _decoded(self) -> Generator[av.VideoFrame]:
        for packet in self._packets():
            if packet.size == 0 and packet.pts is not None:
                continue  # Theora and AVI: "the same picture again"
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

    def _packets(self) -> Iterator["av.Packet[av.VideoStream]"]:
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

    def _image(self, frame: av.VideoFrame) -> Image | None:
        try:
            return self._pixels.image(frame)
        except av.FFmpegError:
            self.damaged += 1
            return None

    def _time(self, frame: av.VideoFrame, last: Fraction | None) -> Fraction:
        """When the frame is shown; without a usable time, right after the one before."""
        if last is None:
            return max(Fraction(0), (frame.pts or 0) * self._time_base - self.start)
        following = last + max(self._ticks(self.step), self._time_base)
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
            f"the clock of {self.path} jumps back {times} times, and is taken to go on"
        )
        self.notes.append(self._clock_note)

    def _ticks(self, seconds: Fraction) -> Fraction:
        return round(seconds / self._time_base) * self._time_base

    def _note_early_end(self, frames: int, last: Fraction | None) -> None:
        announced = self.facts.frames
        if announced and frames < FEWEST_ANNOUNCED * announced and announced - frames > 1:
            end = float(last + self.step) if last is not None else 0.0
            self.notes.append(
                f"{self.path} is cut: its header announces {announced} frames, "
                f"it ends after {frames} ({end:.2f} s)"
            )


def _matroska_seconds(text: str) -> Fraction | None:
    """``00:01:00.049000000`` in seconds; None if it is no such text."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)


def opened(path: Path) -> av.container.InputContainer:
    """`path`, for reading.

    Raises:
        VideoError: FFmpeg cannot open it.
    """
    try:
        # "file:" keeps names such as "concat:a" or "a:b" from being taken for addresses.
        return av.open(f"file:{path}", "r", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            f"{path} cannot be opened as a video: {reason}",
            "a complete video file (an MP4 without its end has lost its index)",
            f"look at it with: ffprobe {path}; copy or record it again",
        ) from error
