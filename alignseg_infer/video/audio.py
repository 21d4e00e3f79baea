"""The audio of a video file, copied into another file as it is."""

import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from alignseg_infer.video.file_source import FileSource, opened
from alignseg_infer.video.pyav import av

Packet: TypeAlias = "av.Packet[av.stream.Stream]"

MATROSKA = "matroska"  # FFmpeg's name
PACKETS_TRIED = 4


class AudioCopy:
    """Copies the packets of a file's audio streams, without decoding them.

    The file is opened once more, so that audio is read where it is written, however far the
    frames are. Where its clock jumps back, it is shifted as the frames are. Matroska, which has no
    times before 0, gets no packets from there; in MP4 they are the encoder's delay.

    Attributes:
        notes: What was left out, and why, in sentences.

    Args:
        source: The file; its `start` becomes 0.
        output: A container whose streams have not been written to yet.
    """

    def __init__(self, source: FileSource, output: av.container.OutputContainer) -> None:
        self.notes: list[str] = []
        self._source = source
        self._container = opened(source.path)
        self._outputs: dict[int, av.AudioStream] = {}
        self._last: dict[int, int] = {}
        self._own_shifts: dict[tuple[int, int], Fraction] = {}
        self._output = output
        for stream in self._container.streams:
            if isinstance(stream, av.AudioStream) and self._accepted(source.path, stream):
                self._outputs[stream.index] = output.add_stream_from_template(stream)
        self._packets = self._read() if self._outputs else iter(())
        self._next = next(self._packets, None)

    def copy(self, until: Fraction | None = None) -> None:
        """Copies what begins before `until` (seconds), or all that is left.

        Raises:
            OSError: It cannot be written.
        """
        while self._next is not None:
            packet, jumps = self._next
            shift = self._shift(packet, jumps, at_end=until is None)
            if shift is None or (until is not None and _time(packet) + shift >= until):
                return
            self._write(packet, shift)
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def _accepted(self, path: Path, stream: av.AudioStream) -> bool:
        """Whether the output takes such audio, as a try in memory with some of it shows."""
        try:
            _try_in_memory(path, stream.index, self._output.format.name)
        except (av.FFmpegError, ValueError):
            codec = stream.codec_context.name if stream.codec_context else "of an unknown kind"
            self.notes.append(
                f"audio ({codec}) was left out: {self._output.format.name} does not take it so"
            )
            return False
        return True

    def _read(self) -> Iterator[tuple[Packet, int]]:
        """Packets, and how often the clock of their stream has jumped back."""
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
            self.notes.append(f"audio ends where the file cannot be read: {error.strerror}")

    def _shift(self, packet: Packet, jumps: int, *, at_end: bool) -> Fraction | None:
        """Seconds to add to the file's clock; None before the frames have jumped too."""
        start, shifts = self._source.start, self._source.shifts
        if jumps <= len(shifts):
            return shifts[jumps - 1] - start if jumps else -start
        if not at_end:
            return None
        index = packet.stream_index
        following = (self._last[index] + (packet.duration or 1)) * packet.time_base
        return self._own_shifts.setdefault((index, jumps), following - _time(packet))

    def _write(self, packet: Packet, seconds: Fraction) -> None:
        index = packet.stream_index
        shift = round(seconds / packet.time_base)
        assert packet.dts is not None  # see _read
        packet.dts += shift
        packet.pts = packet.dts if packet.pts is None else packet.pts + shift
        if packet.dts <= self._last.get(index, packet.dts - 1):
            return  # a small step back in time, which no container takes
        if packet.pts < 0 and self._output.format.name == MATROSKA:
            return  # else FFmpeg moves the times of all streams
        self._last[index] = packet.dts
        packet.stream = self._outputs[index]
        self._output.mux(packet)


def _time(packet: Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _try_in_memory(path: Path, index: int, container_format: str) -> None:
    """Copies the first packets. Some audio is refused at the beginning, some not before the end.

    Raises:
        av.FFmpegError, ValueError: It cannot be copied.
    """
    with (
        opened(path) as container,
        av.open(io.BytesIO(), "w", format=container_format) as trial,
    ):
        stream = container.streams[index]
        target = trial.add_stream_from_template(stream)
        packets = (packet for packet in container.demux(stream) if packet.dts is not None)
        for packet in islice(packets, PACKETS_TRIED):
            packet.stream = target
            trial.mux(packet)
