"""Opening files and pipes with FFmpeg."""

import io
import os
import select
import stat
from pathlib import Path
from typing import Any, BinaryIO

from alignseg_infer.errors import VideoError
from alignseg_infer.video.pyav import av

STDIN = Path("/dev/stdin")
WAIT_MS = 200
# Titles and such may be no UTF-8. From 19 on, PyAV reads them anyhow, and the option is gone.
READING: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)


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


class _Pipe(io.FileIO):
    """A pipe whose reads end on Ctrl-C, whenever it comes.

    Python notes a signal that arrives while FFmpeg computes, and acts on it when it runs Python
    code again. A read that began before that would wait forever, so each read waits in short steps.
    """

    def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes; none at the end."""
        if hasattr(select, "poll"):  # not on Windows
            ready = select.poll()
            ready.register(self.fileno(), select.POLLIN)
            while not ready.poll(WAIT_MS):
                pass
        return super().read(-1 if size is None else size)


def open_pipe(path: Path) -> BinaryIO:
    """Wait until something writes to a pipe, and return the end to read from.

    Raises:
        VideoError: There is no permission to read it.
    """
    try:
        is_stdin = path == STDIN
        return _Pipe(0 if is_stdin else os.fspath(path), "rb", closefd=not is_stdin)
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
        opened: av.container.InputContainer = av.open(pipe or f"file:{path}", "r", **READING)
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
    return opened


def pipe_error(path: Path, problem: str) -> VideoError:
    """Return an error that says which videos can be read from a pipe."""
    return VideoError(
        problem,
        "MPEG-TS, Matroska or another video whose index is not at its end, in a pipe",
        f"cat {path} > VIDEO, and read that file",
    )
