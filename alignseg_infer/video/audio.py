"""The audio of a video file, copied into another file as it is."""

import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from alignseg_infer.video.file_source import FileSource, opened
from alignseg_infer.video.pyav import av

PACKETS_TRIED = 4


class AudioCopy:
    """Copies the packets of a file's audio streams, without decoding them.

    The file is opened once more, so that audio is read where it is written, however far the
    frames are.

    Attributes:
        notes: What was left out, and why, in sentences.

    Args:
        source: The file; its `start` becomes 0.
        output: A container whose streams have not been written to yet.
    """

    def __init__(self, source: FileSource, output: av.container.OutputContainer) -> None:
        self.notes: list[str] = []
        self._start = source.start
        self._container = opened(source.path)
        self._outputs: dict[int, av.AudioStream] = {}
        self._last: dict[int, int] = {}
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
        while self._next is not None and (until is None or self._time(self._next) < until):
            self._write(self._next)
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

    def _read(self) -> Iterator["av.Packet[av.stream.Stream]"]:
        streams = [self._container.streams[index] for index in self._outputs]
        try:
            for packet in self._container.demux(streams):
                if packet.dts is not None and packet.size:
                    yield packet
        except av.FFmpegError as error:
            self.notes.append(f"audio ends where the file cannot be read: {error.strerror}")

    def _time(self, packet: "av.Packet[av.stream.Stream]") -> Fraction:
        return (packet.dts or 0) * packet.time_base - self._start

    def _write(self, packet: "av.Packet[av.stream.Stream]") -> None:
        index = packet.stream_index
        shift = round(self._start / packet.time_base)
        assert packet.dts is not None  # see _read
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        if packet.dts <= self._last.get(index, packet.dts - 1):
            return  # a step back in time, which no container takes
        self._last[index] = packet.dts
        packet.stream = self._outputs[index]
        self._output.mux(packet)


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
