"""Pictures into an H.264 file, at exact times."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from alignseg_infer.errors import OptionError, OutputError
from alignseg_infer.pixels.images import Image
from alignseg_infer.video.audio import AudioCopy
from alignseg_infer.video.colors import H264Frames
from alignseg_infer.video.file_source import FileSource
from alignseg_infer.video.pyav import av
from alignseg_infer.video.sources import DEFAULT_RATE, StreamFacts

MATROSKA = ".mkv"
ENDINGS = (".mp4", ".mov", ".m4v", MATROSKA)
FINE_SCALE = 10_000  # per second, at least; FFmpeg does the same to the times of MP4 tracks
ENCODER = "libx264"
PRESET = "veryfast"
BT709, LIMITED = 1, 1  # AVCOL_SPC_BT709, also AVCOL_PRI_ and AVCOL_TRC_; AVCOL_RANGE_MPEG


class VideoWriter:
    """Encodes pictures as H.264, YUV 4:2:0 in BT.709, with the times of the source.

    MP4, MOV and M4V keep times exactly; Matroska has whole milliseconds, and its audio begins at 0:
    the encoder's delay that AAC in MP4 has before 0, 21 ms mostly, is left out. Odd sides become
    even: the last row or column is there twice.

    Attributes:
        frames: How many were written.
        begin: Seconds at which the first of them is shown.
        end: Seconds at which the last of them ends.

    Args:
        path: What to write; its ending says the container.
        facts: Of the source: time base, rate, and the form of its pixels.
        crf: Quality, 0 (lossless) to 51.
        audio_from: A file whose audio is copied.
    """

    def __init__(
        self, path: Path, facts: StreamFacts, *, crf: int, audio_from: FileSource | None = None
    ) -> None:
        self.frames = 0
        self.begin = self.end = Fraction(0)
        self._path = path
        self._time_base = facts.time_base
        self._step = 1 / (facts.rate or DEFAULT_RATE)
        self._durations: dict[int, int] = {}
        self._frames = H264Frames()
        self._container = av.open(str(path), "w", options=_muxer_options(path, facts.time_base))
        try:
            self._stream = self._video_stream(facts, crf)
            self._audio = AudioCopy(audio_from, self._container) if audio_from else None
        except BaseException:
            self._container.close()
            raise

    @property
    def notes(self) -> list[str]:
        """What was left out, in sentences."""
        return self._audio.notes if self._audio else []

    def write(self, image: Image, time: Fraction, duration: Fraction | None) -> None:
        """Adds a picture.

        Args:
            image: (H, W, 3) uint8 BGR, always of one size.
            time: Seconds, later than the last one's.
            duration: Seconds it is shown; None for as long as frames usually are.

        Raises:
            OSError: It cannot be written.
            OutputError: It cannot be encoded.
        """
        frame = self._frames.frame(image)
        if not self.frames:
            self.begin = time
            self._stream.width, self._stream.height = frame.width, frame.height
        frame.time_base = self._time_base
        frame.pts = round(time / self._time_base)
        shown = max(1, round((duration or self._step) / self._time_base))
        self._durations[frame.pts] = shown
        self._mux(self._encoded(frame))
        self.frames += 1
        self.end = time + shown * self._time_base
        if self._audio:
            with _typed_errors("the audio cannot be copied"):
                self._audio.copy(until=time)

    def finish(self, *, with_rest_of_audio: bool = True) -> None:
        """Writes what is still in the encoder, and the index.

        Args:
            with_rest_of_audio: Whether all of it is copied, or what begins before the last frame
                ends.

        Raises:
            OSError: It cannot be written.
            OutputError: The file turned out other than it was written.
        """
        self._mux(self._encoded(None))
        if self._audio:
            with _typed_errors("the audio cannot be copied"):
                self._audio.copy(until=None if with_rest_of_audio else self.end)
        self.close()
        require_playable(self._path, self.frames)

    def close(self) -> None:
        """Closes the files. What was written is of use only after `finish`."""
        if self._audio:
            self._audio.close()
        with _typed_errors("the end of the video cannot be written"):
            self._container.close()

    def _video_stream(self, facts: StreamFacts, crf: int) -> av.VideoStream:
        # With B-frames, FFmpeg makes an MP4 of variable rate shorter than its frames are.
        options = {"crf": str(crf), "preset": PRESET, "bf": "0"}
        stream = self._container.add_stream(ENCODER, rate=1 / self._step, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        if facts.pixel_aspect != 1:
            context.sample_aspect_ratio = facts.pixel_aspect
        return stream

    def _encoded(self, frame: av.VideoFrame | None) -> list["av.Packet[av.VideoStream]"]:
        with _typed_errors(f"frame {self.frames} cannot be encoded as H.264"):
            return self._stream.encode(frame)

    def _mux(self, packets: list["av.Packet[av.VideoStream]"]) -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration)
            with _typed_errors(f"a packet of frame {self.frames} cannot be written"):
                self._container.mux(packet)


@contextlib.contextmanager
def _typed_errors(problem: str) -> Iterator[None]:
    """Makes FFmpeg's own errors ours; those of the operating system stay what they are."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OutputError(
            f"{problem}: {error.strerror}",
            "pictures that libx264 takes (at most 16384 pixels per side), and audio as usual",
            "a smaller source, or audio=False",
        ) from error


def _muxer_options(path: Path, time_base: Fraction) -> dict[str, str]:
    """Makes FFmpeg count an MP4's length in units of the frames' times, not of milliseconds."""
    if path.suffix.lower() == MATROSKA:
        return {}
    scale = time_base.denominator
    while scale < FINE_SCALE:
        scale *= 2
    return {"movie_timescale": str(scale)}


def require_video_ending(path: Path) -> None:
    """Checks that the name says which container to write.

    Raises:
        OptionError: It does not.
    """
    if path.suffix.lower() not in ENDINGS:
        raise OptionError(
            f"the output {path} ends in {path.suffix or 'nothing'}",
            f"one of {', '.join(ENDINGS)}",
            f"-o {path.with_suffix('.mp4')}",
        )


def require_playable(path: Path, frames: int) -> None:
    """Reads a video back: it opens, its first frame decodes, and none is missing.

    Raises:
        OutputError: It is not so.
    """
    try:
        with av.open(str(path)) as container:
            next(container.decode(video=0))
            container.seek(0)
            seen = sum(1 for packet in container.demux(video=0) if packet.size)
    except (av.FFmpegError, StopIteration) as error:
        raise _unplayable(path, f"cannot be read back: {error}") from error
    if seen != frames:
        raise _unplayable(path, f"holds {seen} frames, and {frames} were written")


def _unplayable(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"the video written as {path.name} {reason}",
        "a file that plays",
        f"df -h {path.parent.parent}, and once more",
    )
