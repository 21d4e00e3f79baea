"""Copying the audio of a video file into another file without encoding it again."""

import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from alignseg_infer.video.file_source import FileSource
from alignseg_infer.video.opening import open_video
from alignseg_infer.video.output_file import MOST_TICKS, OutputFile
from alignseg_infer.video.pyav import av

Packet: TypeAlias = "av.Packet[av.stream.Stream]"

PACKETS_TRIED = 4
LATEST_BEGIN = 10  # seconds; frames wait in memory for audio that begins later
KEPT_TAGS = {"language", "title"}


class AudioCopy:
    """Copies the packets of a file's audio streams without decoding them.

    The file is opened a second time, so that audio is read as far as it is needed, no matter how
    far ahead the frames have been read. Where the clock of the file jumps back, the audio is
    shifted in the same way as the frames. Packets with times before 0, which in MP4 hold the
    encoder's delay, are not written to Matroska, which cannot store such times.

    Attributes:
        notes: Sentences that say what was left out, and why.

    Args:
        source: The file. Its `start` becomes time 0.
        output: A file to which nothing has been written yet.
    """

    def __init__(self, source: FileSource, output: OutputFile) -> None:
        self.notes: list[str] = []
        self._source = source
        self._container = open_video(source.path)
        self._outputs: dict[int, av.AudioStream] = {}
        self._filters: dict[int, av.BitStreamFilterContext] = {}
        self._last: dict[int, int] = {}
        self._own_shifts: dict[tuple[int, int], Fraction] = {}
        self._output = output
        self._format = output.container.format.name
        for stream in self._container.streams:
            if isinstance(stream, av.AudioStream) and self._accepts(source.path, stream):
                copied = output.container.add_stream_from_template(stream)
                copied.disposition = stream.disposition
                for name in KEPT_TAGS & stream.metadata.keys():
                    copied.metadata[name] = stream.metadata[name]
                self._outputs[stream.index] = copied
                if _codec_name(stream) == "aac" and not output.is_matroska:
                    # In MPEG-TS each packet has a header; for fragments, FFmpeg leaves it in.
                    headers = av.BitStreamFilterContext("aac_adtstoasc", stream)
                    self._filters[stream.index] = headers
        self._packets = self._read() if self._outputs else iter(())
        self._next = next(self._packets, None)

    def copy(self, until: Fraction | None = None) -> None:
        """Copy the packets that begin before `until` (seconds), or all that are left.

        Raises:
            OSError: The output cannot be written.
        """
        while self._next is not None:
            packet, jumps = self._next
            shift = self._find_shift(packet, jumps, at_end=until is None)
            if shift is None or (until is not None and _time(packet) + shift >= until):
                return
            self._next = next(self._packets, None)  # first: `_write` uses up the packet
            self._write(packet, shift)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _accepts(self, path: Path, stream: av.AudioStream) -> bool:
        """Return whether the output can hold this stream, by writing some of it in memory."""
        try:
            begin = _try_in_memory(path, stream.index, self._format)
        except (av.FFmpegError, ValueError):
            codec = _codec_name(stream)
            self.notes.append(f"audio ({codec}) was left out: {self._format} cannot hold it")
            return False
        if begin is None:
            return False  # there is none
        if begin - self._source.start > LATEST_BEGIN:
            self._output.write_without_fragments()
        return True

    def _read(self) -> Iterator[tuple[Packet, int]]:
        """Yield each packet, and how often the clock of its stream has jumped back so far."""
        streams = [self._container.streams[index] for index in self._outputs]
        jumps, last = dict.fromkeys(self._outputs, 0), dict[int, Fraction]()
        try:
            for packet in self._container.demux(streams):
                if packet.dts is None or not packet.size:
                    continue
                index, time = packet.stream_index, _time(packet)
                jumps[index] += time < last.get(index, time) - self._source.step
                last[index] = time
                yield packet, jumps[index]
        except av.FFmpegError as error:
            self.notes.append(f"the audio ends where the file cannot be read: {error.strerror}")

    def _find_shift(self, packet: Packet, jumps: int, *, at_end: bool) -> Fraction | None:
        """Return the seconds to add to the file's clock; None until the frames have jumped too."""
        start, shifts = self._source.start, self._source.shifts
        if jumps <= len(shifts):
            return shifts[jumps - 1] - start if jumps else -start
        if not at_end:
            return None
        index = packet.stream_index
        following = (self._last[index] + (packet.duration or 1)) * packet.time_base
        return self._own_shifts.setdefault((index, jumps), following - _time(packet))

    def _is_too_long(self, gap: Fraction, stream: av.AudioStream) -> bool:
        """Return whether MP4 cannot hold this gap in seconds, and note that it cannot."""
        if self._output.is_matroska or gap * stream.rate <= MOST_TICKS:
            return False
        note = (
            f"audio after a gap of more than {MOST_TICKS / stream.rate / 3600:.1f} hours was left "
            f"out: {self._format} cannot hold it, but .mkv can"
        )
        if note not in self.notes:
            self.notes.append(note)
        return True

    def _write(self, packet: Packet, seconds: Fraction) -> None:
        index = packet.stream_index
        shift = round(seconds / packet.time_base)
        assert packet.dts is not None  # see _read
        packet.dts += shift
        packet.pts = packet.dts if packet.pts is None else packet.pts + shift
        step = packet.dts - self._last.get(index, packet.dts - 1)
        if step <= 0:
            return  # containers refuse even a small step back in time
        if self._is_too_long(step * packet.time_base, self._outputs[index]):
            return
        if packet.pts < 0 and self._output.is_matroska:
            return  # otherwise FFmpeg shifts the times of all streams
        self._last[index] = packet.dts
        base = packet.time_base
        for copied in self._filters[index].filter(packet) if index in self._filters else [packet]:
            copied.time_base = base
            copied.stream = self._outputs[index]
            self._output.container.mux(copied)


def _codec_name(stream: av.AudioStream) -> str:
    return stream.codec_context.name if stream.codec_context else "of an unknown kind"


def _time(packet: Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _try_in_memory(path: Path, index: int, container_format: str) -> Fraction | None:
    """Copy the first packets, and return when the first one begins; None if there is none.

    Containers refuse some audio at the beginning, some at the end.

    Raises:
        av.FFmpegError, ValueError: The audio cannot be copied.
    """
    with (
        open_video(path) as container,
        av.open(io.BytesIO(), "w", format=container_format) as trial,
    ):
        stream = container.streams[index]
        target = trial.add_stream_from_template(stream)
        packets = (packet for packet in container.demux(stream) if packet.dts is not None)
        begin: Fraction | None = None
        for packet in islice(packets, PACKETS_TRIED):
            begin = _time(packet) if begin is None else begin
            packet.stream = target
            trial.mux(packet)
        return begin
