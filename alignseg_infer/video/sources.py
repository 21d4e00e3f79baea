"""Opening the source of frames that a name stands for."""

import os
import re
import shlex
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote

from alignseg_infer.errors import OptionError, VideoError
from alignseg_infer.files.reading import is_folder, user_path
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.video.frames import DEFAULT_RATE, FrameSource
from alignseg_infer.video.options import is_number, require_seconds

STREETS = "streets"
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")
SLOWEST, FASTEST = 0.001, 1000  # frames per second, for folders and drawn drives
FINEST_RATE = 1001  # denominator, as in 30000/1001; FFmpeg allows 32 bits
WEBCAM_DIGITS = 4  # OpenCV has 100 indices for each of its camera libraries


def open_source(
    source: str | os.PathLike[str],
    *,
    rate: Fraction | float | None = None,
    seconds: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FrameSource:
    """Open the file, folder, webcam, stream or drawn drive that `source` names.

    Args:
        source: A video or animated image file; a folder of images; the index of a webcam, such as
            ``"0"``; the address of a stream, such as ``"rtsp://camera/1"``; or ``"streets"`` for a
            drawn drive, and ``"streets:SEED"`` for another one; a pipe, or ``"-"`` for stdin. A
            path object is always a file, folder or pipe, and so is the name of one that exists;
            but write ``./streets`` and ``./-`` for files with these names.
        rate: Frames per second for a folder or a drawn drive, 0.001 to 1000; 25 if None. It is
            rounded to the nearest fraction with a denominator of at most 1001.
        seconds: How long a drawn drive takes; 4 if None.
        max_pixels: The largest number of pixels of an image in a folder, or of a frame of an
            animated WebP file.

    Raises:
        VideoError: The source cannot be opened, or holds no frame.
        OptionError: The name, the rate or the number of seconds cannot be used.
        MissingDependencyError: PyAV, which reads files, is not installed.
    """
    path, text = user_path(source), os.fspath(source)
    name = source if isinstance(source, str) else ""  # what is not a path only
    rate = None if rate is None else _make_exact(rate, text)
    require_seconds(seconds)
    if not text:
        raise OptionError("the source is empty", "a file, folder, webcam or stream", "streets")
    if name == STREETS or name.startswith(f"{STREETS}:"):
        from alignseg_infer.video.pictures import STREET_SECONDS, StreetSource

        return StreetSource(_parse_seed(name), rate or DEFAULT_RATE, seconds or STREET_SECONDS)
    if (name.isdecimal() or "://" in name) and not os.path.exists(path):
        return _open_live_source(name, rate)
    if is_folder(path, VideoError):
        from alignseg_infer.video.pictures import FolderSource

        return FolderSource(path, rate or DEFAULT_RATE, max_pixels)
    _require_no_rate(rate, text)
    return _open_file(Path("/dev/stdin") if name == "-" else path, max_pixels)


def drive_seconds(
    seconds: float | None, max_frames: int | None, rate: Fraction | float | None
) -> float | None:
    """Return how long a drawn drive takes: as long as its frames, where only these are given."""
    if seconds is not None or max_frames is None:
        return seconds
    return float(max_frames / (rate or DEFAULT_RATE))


def _open_file(path: Path, max_pixels: int) -> FrameSource:
    camera = re.fullmatch(r"/dev/video([0-9]+)", os.path.realpath(path))
    if camera and os.path.exists(path):
        from alignseg_infer.video.camera_source import open_webcam

        return open_webcam(int(camera[1]))
    from alignseg_infer.video.animation_source import WebpSource, is_animated_webp

    if is_animated_webp(path):
        return WebpSource(path, max_pixels)
    from alignseg_infer.video.file_source import FileSource

    return FileSource(path)


def _open_live_source(text: str, rate: Fraction | None) -> FrameSource:
    from alignseg_infer.video.camera_source import open_stream, open_webcam

    _require_no_rate(rate, text)
    if text.isdecimal():
        if len(text) > WEBCAM_DIGITS:
            raise OptionError(
                f"{text} is not the index of a webcam",
                "0 for the first, 1 for the second, ...",
                "0",
            )
        return open_webcam(int(text))
    scheme = text.partition("://")[0].lower()
    if scheme not in LIVE_SCHEMES:
        raise OptionError(
            f"{text} has the scheme {scheme}, which is not read here",
            f"the address of a live stream ({', '.join(LIVE_SCHEMES)}), a file or a pipe",
            _advise(scheme, text),
        )
    try:
        return open_stream(text)
    except VideoError as error:
        if scheme != "srt":
            raise
        expected = "an OpenCV whose FFmpeg has libsrt, unlike that of pip"
        raise VideoError(error.problem, expected, _advise(scheme, text)) from error


def _advise(scheme: str, text: str) -> str:
    if scheme == "file":
        return f"name the file: {shlex.quote(unquote(text[len('file://') :]))}"
    if scheme in ("http", "https", "ftp"):
        address = shlex.quote(text)
        return (
            f"download it first: curl -O {address}; or, if it never ends: "
            f"curl {address} | alignseg video MODEL - -o OUT.mp4"
        )
    return f"ffmpeg -i {shlex.quote(text)} -f mpegts - | alignseg video MODEL - -o OUT.mp4"


def _parse_seed(text: str) -> int:
    seed = text.partition(":")[2] or None
    if seed is None:
        from alignseg_infer.demo import FIRST_HELD_OUT

        return FIRST_HELD_OUT
    if not re.fullmatch("[0-9]{1,18}", seed):
        raise OptionError(
            f"{text!r} has the seed {seed!r}", "a whole number, 0 or more", f"{STREETS}:7"
        )
    return int(seed)


def _make_exact(rate: Fraction | float, text: str) -> Fraction:
    if not (is_number(rate) and SLOWEST <= rate <= FASTEST):
        shown = f"{float(rate):g}" if is_number(rate) else repr(rate)
        raise OptionError(
            f"rate={shown} frames per second was given for {text}",
            f"{SLOWEST} to {FASTEST}",
            "rate=25",
        )
    return Fraction(rate).limit_denominator(FINEST_RATE)


def _require_no_rate(rate: Fraction | None, text: str) -> None:
    if rate is not None:
        raise OptionError(
            f"rate={float(rate):g} was given, but {text} has its own times",
            "a rate only for a folder or drawn streets",
            "leave rate= out",
        )
