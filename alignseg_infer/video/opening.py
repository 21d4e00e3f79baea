"""Opening files and pipes with FFmpeg."""

import io
import os
import select
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from alignseg_infer.errors import VideoError
from alignseg_infer.video.pyav import av

STDIN = Path("/dev/stdin")
WAIT_MS = 200
# Titles and such may be no UTF-8. From 19 on, PyAV reads them anyhow, and the option is gone.
READING: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)

_Done = TypeVar("_Done")


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


class Pipe(io.FileIO):
    """A pipe that FFmpeg reads in a thread of its own, so that Ctrl-C ends the wait for it.

    Python raises KeyboardInterrupt in the main thread alone, wherever that is; PyAV loses it in a
    read that FFmpeg asked for. So the main thread waits for the other one, and the other one waits
    for data in steps, between which it can be stopped.
    """

    def __init__(self, file: str | int) -> None:
        super().__init__(file, "rb", closefd=isinstance(file, str))
        self._stopped = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alignseg-pipe")

    def run(self, work: Callable[[], _Done]) -> _Done:
        """Return what `work` returns, which may read the pipe."""
        try:
            return self._thread.submit(work).result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End what `run` waits for, as if the pipe had ended; nothing can be read after that."""
        self._stopped = True
        self._thread.shutdown()

    def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes; none at the end."""
        if hasattr(select, "poll"):  # not on Windows
            ready = select.poll()
            ready.register(self.fileno(), select.POLLIN)
            while not ready.poll(WAIT_MS):
                if self._stopped:
                    return b""
        return b"" if self._stopped else super().read(-1 if size is None else size)


def open_pipe(path: Path) -> Pipe:
    """Wait until something writes to a pipe, and return the end to read from.

    Raises:
        VideoError: There is no permission to read it.
    """
    try:
        return Pipe(0 if path == STDIN else os.fspath(path))
    except OSError as error:
        raise pipe_error(path, f"{path} cannot be read: {error.strerror}") from error


def open_video(path: Path, pipe: Pipe | None = None) -> av.container.InputContainer:
    """Open `path` for reading.

    Args:
        path: The file or pipe.
        pipe: From `open_pipe` if it is one; call this in its `run` then.

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
