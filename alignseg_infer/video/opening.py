"""Opening files and pipes with FFmpeg."""

import stat
from pathlib import Path
from typing import BinaryIO

from alignseg_infer.errors import VideoError
from alignseg_infer.video.pyav import av

STDIN = Path("/dev/stdin")


def is_pipe(path: Path) -> bool:
    """Return whether `path` is a pipe or socket.

    Raises:
        VideoError: It is a terminal or another device.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # `require_file` says what is wrong
        return False
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise VideoError(
            f"{path} is a terminal or another device, not a video",
            "a file or a pipe",
            "cat VIDEO | alignseg video MODEL - -o OUT.mp4",
        )
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def open_pipe(path: Path) -> BinaryIO:
    """Wait until something writes to a pipe, and return the end to read from.

    Raises:
        VideoError: There is no permission to read it.
    """
    try:
        return open(0 if path == STDIN else path, "rb", buffering=0, closefd=path != STDIN)
    except OSError as error:
        raise pipe_error(path, f"{path} cannot be read: {error.strerror}") from error


def open_video(path: Path, pipe: BinaryIO | None = None) -> av.container.InputContainer:
    """Open `path` for reading.

    Args:
        path: The file or pipe.
        pipe: From `open_pipe` if it is one. PyAV loses a Ctrl-C that arrives while FFmpeg itself
            waits for a pipe.

    Raises:
        VideoError: FFmpeg cannot open it.
    """
    try:
        # "file:" keeps FFmpeg from taking names such as "concat:a" or "a:b" for addresses.
        return av.open(pipe or f"file:{path}", "r", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"{path} cannot be opened as a video: {reason}"
        if pipe:
            raise pipe_error(path, problem) from error
        raise VideoError(
            problem,
            "a complete video file (an MP4 that was cut off has lost its index)",
            f"inspect it with: ffprobe {path}; or copy or record it again",
        ) from error


def pipe_error(path: Path, problem: str) -> VideoError:
    """Return an error that says which videos can be read from a pipe."""
    return VideoError(
        problem,
        "MPEG-TS, Matroska or another video whose index is not at its end, in a pipe",
        f"cat {path} > VIDEO, and read that file",
    )
