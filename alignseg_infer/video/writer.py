"""Writing pictures to an H.264 file at exact times."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from alignseg_infer.arrays import Image
from alignseg_infer.errors import OptionError, OutputError
from alignseg_infer.video.audio import AudioCopy
from alignseg_infer.video.colors import H264Frames
from alignseg_infer.video.file_source import FileSource
from alignseg_infer.video.frames import DEFAULT_RATE, StreamFacts
from alignseg_infer.video.output_file import (
    MATROSKA_ENDING,
    OutputFile,
    count_frames,
)
from alignseg_infer.video.pyav import av

ENDINGS = (".mp4", ".mov", ".m4v", MATROSKA_ENDING)
ENCODER = "libx264"
PRESET = "veryfast"
FINEST = Fraction(1, 10_000_000)  # seconds; finer time bases would allow for short gaps only
BT709, LIMITED = 1, 1  # AVCOL_SPC_BT709, also AVCOL_PRI_ and AVCOL_TRC_; AVCOL_RANGE_MPEG


class VideoWriter:
    """Encodes pictures as H.264, in YUV 4:2:0 and BT.709, with the times of the source.

    MP4, MOV and M4V keep times exactly, to 100 ns. They cannot show a picture for more than 2^30
    ticks, such as 3.3 hours of 1/90000 s, so it is encoded again then. Matroska rounds times to
    whole milliseconds, and its audio begins at 0: the encoder's delay, which AAC in MP4 stores
    before 0 and which is usually 21 ms, is left out. Odd sides are made even by repeating the last
    row or column.

    Attributes:
        frames: How many frames were written.
        begin: Seconds at which the first frame is shown.
        end: Seconds at which the last frame ends.

    Args:
        path: The file to write, absolute. Its ending decides the container.
        facts: Time base, rate and pixel aspect of the source.
        crf: Quality, 0 (lossless) to 51.
        audio_from: A file whose audio is copied, if any.
    """

    def __init__(
        self, path: Path, facts: StreamFacts, *, crf: int, audio_from: FileSource | None = None
    ) -> None:
        self.frames = 0
        self.begin = self.end = Fraction(0)
        self._path = path
        self._time_base = facts.time_base if facts.time_base.denominator <= 1 / FINEST else FINEST
        self._step = 1 / (facts.rate or DEFAULT_RATE)
        self._durations: dict[int, int] = {}
        self._frames = H264Frames()
        self._flushed = False
        self._shown: av.VideoFrame | None = None  # the last one, and since when
        self._since = Fraction(0)
        self._repeated = 0
        self._output = OutputFile(path, self._time_base)
        try:
            self._stream = self._add_video_stream(facts, crf)
            self._audio = AudioCopy(audio_from, self._output) if audio_from else None
        except BaseException:
            self._output.close()
            raise

    @property
    def notes(self) -> list[str]:
        """Sentences that say what was left out, or is unusual about the file."""
        notes = [*(self._audio.notes if self._audio else []), *self._output.notes]
        if self._repeated and self._output.longest:
            notes.append(
                f"pictures were repeated {self._repeated} times, since {self._path.suffix} cannot "
                f"show one for more than {float(self._output.longest):.0f} s here"
            )
        return notes

    def write(self, image: Image, time: Fraction, duration: Fraction | None) -> None:
        """Add a picture.

        Args:
            image: (H, W, 3) uint8 BGR. All pictures must have the same size.
            time: Seconds at which it is shown; later than the one before.
            duration: Seconds for which it is shown; None for the usual time between frames.

        Raises:
            OSError: The picture cannot be written.
            OutputError: The picture cannot be encoded.
        """
        frame = self._frames.frame(image)
        if not self.frames:
            self.begin = time
            self._stream.width, self._stream.height = frame.width, frame.height
        self._repeat_last(time)
        duration = duration or self._step
        self._show(frame, time, duration)
        self.frames += 1
        self.end = time + max(1, round(duration / self._time_base)) * self._time_base
        if self._audio:
            with _translate_errors("the audio cannot be copied"):
                self._audio.copy(until=time)

    def finish(self, target: Path, *, with_rest_of_audio: bool = True) -> None:
        """Write the frames that are still in the encoder, and make a checked file at `target`.

        Args:
            target: On the same disk. What was written so far may stay under its name.
            with_rest_of_audio: Whether to copy all of the audio, or only the packets that begin
                before the last frame ends.

        Raises:
            OSError: The file cannot be written.
            OutputError: The file does not hold the frames that were written to it.
        """
        self._flush()
        if self._audio:
            with _translate_errors("the audio cannot be copied"):
                self._audio.copy(until=None if with_rest_of_audio else self.end)
        self._close()
        with _translate_errors("the video cannot be copied"):
            self._output.move(target, self.frames + self._repeated)

    def rescue(self) -> int:
        """End the file after an error or Ctrl-C, and return how many of its frames can be read.

        `write` and `finish` may have been interrupted anywhere.
        """
        with contextlib.suppress(OSError, OutputError):
            self._flush()
            if self._audio:
                self._audio.copy(until=self.end)
        with contextlib.suppress(OSError, OutputError):
            self._close()
        return count_frames(self._path)

    def _flush(self) -> None:
        """Write the frames that are still in the encoder; a second call does nothing."""
        if not self._flushed:
            self._flushed = True
            self._repeat_last(self.end)
            self._mux(self._encode(None))

    def _close(self) -> None:
        """Close the files; a second call does nothing."""
        if self._audio:
            self._audio.close()
        with _translate_errors("the end of the video cannot be written"):
            self._output.close()

    def _add_video_stream(self, facts: StreamFacts, crf: int) -> av.VideoStream:
        # With B-frames, FFmpeg makes an MP4 with a variable rate shorter than its frames.
        options = {"crf": str(crf), "preset": PRESET, "bf": "0"}
        stream = self._output.container.add_stream(ENCODER, rate=1 / self._step, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        if facts.pixel_aspect != 1:
            context.sample_aspect_ratio = facts.pixel_aspect
        return stream

    def _repeat_last(self, until: Fraction) -> None:
        """Show the last picture again as often as needed, so that it can be shown `until` then."""
        longest = self._output.longest
        while self._shown and longest and until - self._since > longest:
            self._repeated += 1
            self._show(self._shown, self._since + longest, until - self._since - longest)

    def _show(self, frame: av.VideoFrame, time: Fraction, duration: Fraction) -> None:
        """Encode a frame, to be shown at `time` and for `duration` at most."""
        longest = min(duration, self._output.longest or duration)
        frame.time_base = self._time_base
        last = -1 if self._shown is None else round(self._since / self._time_base)
        frame.pts = max(last + 1, round(time / self._time_base))
        self._durations[frame.pts] = max(1, round(longest / self._time_base))
        self._shown, self._since = frame, frame.pts * self._time_base
        self._mux(self._encode(frame))

    def _encode(self, frame: av.VideoFrame | None) -> list["av.Packet[av.VideoStream]"]:
        with _translate_errors(f"frame {self.frames} cannot be encoded as H.264"):
            return self._stream.encode(frame)

    def _mux(self, packets: list["av.Packet[av.VideoStream]"]) -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration)
            with _translate_errors(f"a packet of frame {self.frames} cannot be written"):
                self._output.container.mux(packet)


@contextlib.contextmanager
def _translate_errors(problem: str) -> Iterator[None]:
    """Turn FFmpeg's own errors into OutputError; pass on errors of the operating system."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OutputError(
            f"{problem}: {error.strerror}",
            "pictures that libx264 can encode (at most 16384 pixels per side), and common audio",
            "a smaller source, or audio=False",
        ) from error


def require_video_ending(path: Path) -> None:
    """Raise OptionError unless the ending of `path` names a container that can be written.

    Raises:
        OptionError: It does not.
    """
    if path.suffix.lower() not in ENDINGS:
        raise OptionError(
            f"the output {path} ends in {path.suffix or 'nothing'}",
            f"one of {', '.join(ENDINGS)}",
            f"-o {path.with_suffix('.mp4')}",
        )
