"""Where frames come from: what all sources have in common, and which one a name stands for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.images import Image
from alignseg_infer.pixels.preprocess import Size
from alignseg_infer.video.options import is_number, require_seconds

STREETS = "streets"
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")
DEFAULT_RATE = Fraction(25)
SLOWEST, FASTEST = 0.001, 1000  # frames per second of a folder or a drawn drive
FINEST_RATE = 1001  # denominator, as in 30000/1001; FFmpeg takes 32-bit ones
WEBCAM_DIGITS = 4  # OpenCV has 100 indices for each of its camera libraries


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Attributes:
        image: (H, W, 3) uint8 BGR, upright.
        time: Seconds since the video began, a multiple of the source's time base; strictly
            increasing.
        duration: Seconds it is shown; None where that is not known.
    """

    image: Image = field(repr=False)
    time: Fraction
    duration: Fraction | None = None


@dataclass(frozen=True)
class StreamFacts:
    """What is known of a source before its first frame.

    Attributes:
        size: (height, width) of its upright frames.
        time_base: Seconds; all times of frames are multiples of it.
        rate: Frames per second, on average; None where that is not known.
        frames: How many there will be, as its header says; None where that is not known.
        live: Whether frames come whether or not somebody takes them.
        pixel_aspect: Width over height of a pixel.
    """

    size: Size
    time_base: Fraction
    rate: Fraction | None = None
    frames: int | None = None
    live: bool = False
    pixel_aspect: Fraction = Fraction(1)


class FrameSource(Protocol):
    """Gives frames, once.

    Attributes:
        name: For people.
        facts: Size, rate and more.
        damaged: Frames that could not be decoded so far, and were left out.
        reconnects: How often a live source was lost and came back.
        notes: What else was unusual, in sentences.
    """

    name: str
    facts: StreamFacts
    damaged: int
    reconnects: int
    notes: list[str]

    def __iter__(self) -> Iterator[Frame]:
        """The frames, in the order they are shown.

        Raises:
            VideoError: It cannot be read any further.
        """
        ...

    def stop(self) -> None:
        """Ends the iteration soon; may be called from another thread."""
        ...

    def close(self) -> None:
        """Frees what it holds, once nobody iterates."""
        ...


def open_source(
    source: str | Path, *, rate: Fraction | float | None = None, seconds: float | None = None
) -> FrameSource:
    """Opens what `source` names.

    Args:
        source: A video file; a folder of images; the index of a webcam, such as ``"0"``; the
            address of a stream, such as ``"rtsp://camera/1"``; or ``"streets"`` for a drawn drive,
            ``"streets:SEED"`` for another one. Write ``./streets`` for a file of that name.
        rate: Frames per second of a folder or a drawn drive, 0.001 to 1000; 25 if None. It is
            taken as the nearest fraction with a denominator of 1001 at most.
        seconds: How long a drawn drive takes; 4 if None.

    Raises:
        VideoError: It cannot be opened, or holds no frame.
        OptionError: The name, rate or number of seconds makes no sense.
        MissingDependencyError: PyAV, which reads files, is not installed.
    """
    text = str(source)
    rate = None if rate is None else _exact_rate(rate, text)
    require_seconds(seconds)
    if not text:
        raise OptionError("the source has no name", "a file, folder, webcam or stream", "streets")
    if text == STREETS or text.startswith(f"{STREETS}:"):
        from alignseg_infer.video.pictures import STREET_SECONDS, StreetSource

        return StreetSource(_seed(text), rate or DEFAULT_RATE, seconds or STREET_SECONDS)
    if text.isdecimal() or "://" in text:
        return _live_source(text, rate)
    if Path(source).is_dir():
        from alignseg_infer.video.pictures import FolderSource

        return FolderSource(Path(source), rate or DEFAULT_RATE)
    from alignseg_infer.video.file_source import FileSource

    _require_no_rate(rate, text)
    return FileSource(Path(source))


def drive_seconds(
    seconds: float | None, max_frames: int | None, rate: Fraction | float | None
) -> float | None:
    """Return how long a drawn drive takes: as long as its frames, where only these are given."""
    if seconds is not None or max_frames is None:
        return seconds
    return float(max_frames / (rate or DEFAULT_RATE))


def _live_source(text: str, rate: Fraction | None) -> FrameSource:
    from alignseg_infer.video.camera_source import stream_source, webcam_source

    _require_no_rate(rate, text)
    if text.isdecimal():
        if len(text) > WEBCAM_DIGITS:
            raise OptionError(
                f"{text} is no index of a webcam", "0 for the first, 1 for the second, ...", "0"
            )
        return webcam_source(int(text))
    scheme = text.partition("://")[0].lower()
    if scheme not in LIVE_SCHEMES:
        raise OptionError(
            f"{text} has the scheme {scheme}",
            f"a live stream ({', '.join(LIVE_SCHEMES)}), or a file",
            f"download it first: curl -O {text}",
        )
    return stream_source(text)


def _seed(text: str) -> int:
    seed = text.partition(":")[2] or None
    if seed is None:
        from alignseg_infer.demo import FIRST_HELD_OUT

        return FIRST_HELD_OUT
    if not re.fullmatch("[0-9]{1,18}", seed):
        raise OptionError(
            f"{text!r} has the seed {seed!r}", "a whole number from 0 on", f"{STREETS}:7"
        )
    return int(seed)


def _exact_rate(rate: Fraction | float, text: str) -> Fraction:
    if not (is_number(rate) and SLOWEST <= rate <= FASTEST):
        shown = f"{float(rate):g}" if is_number(rate) else repr(rate)
        raise OptionError(
            f"rate={shown} frames per second of {text}", f"{SLOWEST} to {FASTEST}", "rate=25"
        )
    return Fraction(rate).limit_denominator(FINEST_RATE)


def _require_no_rate(rate: Fraction | None, text: str) -> None:
    if rate is not None:
        raise OptionError(
            f"rate={float(rate):g} was given, but {text} has its own times",
            "a rate with a folder or drawn streets only",
            "leave rate= out",
        )
