"""A video file that can be played as far as it was written, whatever stops the writing."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from alignseg_infer.errors import OutputError
from alignseg_infer.files.writing import NO_ROOM
from alignseg_infer.video.pyav import av

MATROSKA_ENDING = ".mkv"
FINE_SCALE = 10_000  # ticks per second, at least; FFmpeg does the same for the tracks of an MP4
MOST_TICKS = 1 << 30  # from one packet to the next; from 2^31 on, FFmpeg's MP4 is wrong or aborts
FRAGMENT_MS = 500  # what is in memory, and lost when the process is killed
LONGEST_NAME = 255  # bytes, on all common file systems


class OutputFile:
    """An MP4, MOV, M4V or Matroska file that is being written.

    MP4 loses everything if its index, which comes last, is missing. So the file consists of
    fragments that have an index each, until `move` makes a plain MP4 of it. The clusters of
    Matroska need no index.

    Attributes:
        container: For adding streams and writing packets.
        notes: Sentences that say what is unusual about the file.
        is_matroska: Whether it is a Matroska file.
        longest: Seconds for which one picture can be shown; None for as long as you like.

    Args:
        path: The file to write, absolute. Its ending decides the container.
        time_base: Of the video.
    """

    def __init__(self, path: Path, time_base: Fraction) -> None:
        self.notes: list[str] = []
        self.is_matroska = path.suffix.lower() == MATROSKA_ENDING
        self._path = path
        self._closed = False
        scale = time_base.denominator
        while scale < FINE_SCALE:
            scale *= 2
        # Otherwise FFmpeg stores the length of an MP4 in milliseconds.
        self._plain = {} if self.is_matroska else {"movie_timescale": str(scale)}
        self.longest = None if self.is_matroska else Fraction(MOST_TICKS, scale)
        options = {**self._plain, "flush_packets": "1", **self._choose_fragments()}
        self.container = av.open(str(path), "w", container_options=options)

    def write_without_fragments(self) -> None:
        """Write a plain MP4 from the start, of which nothing can be played before `close`.

        Fragments begin when each track has a packet; until then, all packets wait in memory.
        """
        if not self.is_matroska and not self.notes:
            self.notes.append(
                "the audio begins late, so the video could not have been played if it had been "
                "interrupted; .mkv can be played in this case too"
            )
        for name in self._choose_fragments():
            self.container.container_options.pop(name, None)

    def close(self) -> None:
        """Write what is in memory and close the file; a second call does nothing.

        Raises:
            OSError: It cannot be written. What was written before can be played.
        """
        if not self._closed:
            self._closed = True
            self.container.close()

    def move(self, target: Path, frames: int) -> None:
        """Make `target` of the closed file: a plain MP4 if it has fragments, else the same.

        The file stays: only whoever knows that the target is safe may remove it. If there is no
        room for a plain MP4, the target has the fragments too, and a note says so.

        Args:
            target: A file that does not exist.
            frames: How many frames there have to be.

        Raises:
            OSError: The target cannot be written.
            OutputError: It does not hold the frames that were written.
        """
        copied = False
        if not self.is_matroska:
            try:
                _copy_packets(self._path, target, self._plain)
                copied = True
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                target.unlink(missing_ok=True)
                self.notes.append(
                    f"there is no room for a plain copy ({error.strerror}), so the video stays in "
                    "fragments, which FFmpeg reads but some players may not"
                )
        require_playable(target if copied else self._path, frames)
        with (target if copied else self._path).open("rb+") as file:
            os.fsync(file.fileno())  # a power cut after the move could leave an empty file
        if not copied:
            self._link(target)

    def _link(self, target: Path) -> None:
        """Give the file a second name, or copy it where that is not possible."""
        try:
            os.link(self._path, target)
        except OSError:  # on another disk, or on one without links
            try:
                shutil.copyfile(self._path, target)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                target.unlink(missing_ok=True)
                os.replace(self._path, target)

    def _choose_fragments(self) -> dict[str, str]:
        if self.is_matroska:
            return {"cluster_time_limit": str(FRAGMENT_MS)}
        # With delay_moov, the beginnings of tracks are known and stored exactly. Without
        # skip_trailer, FFmpeg 8 does not report that the last fragment could not be written.
        flags = "delay_moov+skip_trailer"
        return {"movflags": flags, "frag_duration": str(1000 * FRAGMENT_MS)}


def _copy_packets(path: Path, target: Path, options: dict[str, str]) -> None:
    """Copy all streams to another file of the same kind, without encoding them again.

    Raises:
        OSError: The target cannot be written.
    """
    with (
        av.open(str(path)) as source,
        av.open(str(target), "w", container_options=options) as copy,
    ):
        streams = [copy.add_stream_from_template(stream) for stream in source.streams]
        for stream, copied in zip(source.streams, streams, strict=True):
            copied.disposition = stream.disposition
            copied.metadata.update(stream.metadata)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                copy.mux(packet)


@contextlib.contextmanager
def unfinished_file(output: Path) -> Iterator[Path]:
    """Yield a new file beside `output` to write to, and remove it if it is empty at the end.

    It is ``out.partial.mp4`` for ``out.mp4``, or ``out.partial2.mp4`` if that exists.

    Raises:
        OSError: It cannot be made.
    """
    path = _create_partial_file(output.resolve())
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            if not path.stat().st_size:
                path.unlink()


def _create_partial_file(output: Path) -> Path:
    for number in itertools.count(1):
        path = partial_path(output, number)
        with contextlib.suppress(FileExistsError), path.open("xb"):
            return path
    raise AssertionError  # there is always another number


def partial_path(output: Path, number: int = 1) -> Path:
    """Return where an unfinished `output` is kept: ``out.partial.mp4`` for ``out.mp4``."""
    ending = f".partial{number if number > 1 else ''}{output.suffix}"
    stem = output.stem
    while len(os.fsencode(stem + ending)) > LONGEST_NAME:
        stem = stem[:-1]
    return output.with_name(stem + ending)


def note_partial_file(output: Path) -> list[str]:
    """Return a sentence that says that there is a partial file, if there is one."""
    path = partial_path(output)
    return [f"{path} is still there from an earlier run"] if path.exists() else []


def count_frames(path: Path) -> int:
    """Return how many frames can be read from a video; 0 if it does not open."""
    seen = 0
    with contextlib.suppress(av.FFmpegError), av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[:1]):
            seen += bool(packet.size and not packet.is_corrupt)
    return seen


def require_playable(path: Path, frames: int) -> None:
    """Read a video back, and raise OutputError unless it is complete.

    Raises:
        OutputError: It does not open, its first frame cannot be decoded, or frames are missing.
    """
    try:
        with av.open(str(path)) as container:
            next(container.decode(video=0))
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise _unplayable_error(path, f"cannot be read back: {error}") from error
    seen = count_frames(path)
    if seen != frames:
        raise _unplayable_error(path, f"holds {seen} frames, but {frames} were written")


def _unplayable_error(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"the video written as {path.name} {reason}",
        "a file that can be played",
        f"df -h {path.parent}, then try again",
    )
