"""Small video files for tests, written with PyAV."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from alignseg_infer.arrays import Image

EXACT = 4 | 0x2000 | 0x40000  # SWS_BICUBIC, SWS_FULL_CHR_H_INT, SWS_ACCURATE_RND
NTSC = Fraction(30000, 1001)
CORNERS: Image = np.array(
    [[(200, 40, 40), (40, 200, 40)], [(40, 40, 200), (200, 200, 200)]], np.uint8
)  # blue, green; red, gray


@contextlib.contextmanager
def usual_priority() -> Iterator[None]:
    """Give this thread its scheduling back after the block, in which SVT-AV1 is used.

    As root, SVT-AV1 makes the thread that opens it a real-time one, as are all threads that this
    one starts later. If two of them wait for each other in a loop, as those of ONNX Runtime do,
    nothing else runs on the machine.
    """
    if not hasattr(os, "sched_getscheduler"):  # not on Linux
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


@dataclass(frozen=True)
class Clip:
    """What to encode.

    Attributes:
        codec: Name of the encoder.
        size: (height, width).
        frames: How many frames there are.
        rate: Frames per second.
        pixels: FFmpeg's name for the pixel format.
        times: Times of the frames in ms; None for one frame every 1/rate seconds.
        first: Time of the first frame, in frames.
        turn: Degrees counter-clockwise by which it is shown, and whether it is mirrored.
        matrix: FFmpeg's numbers for the colour matrix and range; None to name neither.
        audio: Codec of a tone to add; None for no audio.
        first_sample: At which sample of the tone the audio begins.
        options: Options of the encoder.
    """

    codec: str = "libx264"
    size: tuple[int, int] = (64, 96)
    frames: int = 6
    rate: Fraction = NTSC
    pixels: str = "yuv420p"
    times: Sequence[int] | None = None
    first: int = 0
    turn: tuple[int, bool] | None = None
    matrix: tuple[int, int] | None = None
    audio: str | None = None
    first_sample: int = 0
    options: dict[str, str] = field(default_factory=lambda: {"crf": "2"})


def picture(size: tuple[int, int], number: int = 0) -> Image:
    """Draw four plain corners, and a bar whose position shows the number."""
    height, width = size
    rows = (np.arange(height) * 2 // height)[:, np.newaxis]
    image: Image = CORNERS[rows, np.arange(width) * 2 // width].copy()
    image[height // 2 - 2 : height // 2 + 2, 4 * number % width : 4 * number % width + 4] = 255
    return image


def write_clip(path: Path, clip: Clip) -> Path:
    """Encode `clip`."""
    with av.open(str(path), "w") as container:
        options = clip.options if clip.codec.startswith("libx264") else {}
        stream: Any = container.add_stream(clip.codec, rate=clip.rate, options=options)
        stream.height, stream.width = clip.size
        stream.pix_fmt = clip.pixels
        stream.gop_size = 4
        if clip.times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if clip.turn:
            stream.set_display_rotation(*clip.turn)
        if clip.matrix:
            stream.codec_context.colorspace, stream.codec_context.color_range = clip.matrix
        tone: Any = container.add_stream(clip.audio, rate=48000) if clip.audio else None
        for number in range(clip.frames):
            container.mux(stream.encode(_make_frame(clip, number)))
        if clip.frames:
            container.mux(stream.encode())
        else:
            container.start_encoding()
        if tone is not None:
            _write_tone(container, tone, clip)
    return path


def _make_frame(clip: Clip, number: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture(clip.size, number), "bgr24")
    if clip.matrix:
        matrix, color_range = clip.matrix
        names = {1: "ITU709", 6: "SMPTE170M", 9: "BT2020"}
        if names[matrix] not in av.video.reformatter.Colorspace.__members__:
            pytest.skip(f"PyAV {av.__version__} writes no {names[matrix]}; 18 does")
        frame = frame.reformat(
            format=clip.pixels, dst_colorspace=names[matrix], dst_color_range=color_range
        )
    frame.pts = clip.times[number] if clip.times else clip.first + number
    frame.time_base = Fraction(1, 1000) if clip.times else 1 / clip.rate
    return frame


def _write_tone(container: av.container.OutputContainer, stream: Any, clip: Clip) -> None:
    samples = round(48000 * clip.frames / clip.rate)
    size = stream.codec_context.frame_size or 1024
    kind, layout = stream.codec_context.format.name, stream.codec_context.layout
    kinds = {"flt": (np.float32, 1.0), "s16": (np.int16, 2e4), "s32": (np.int32, 2e9)}
    dtype, loudest = kinds[kind.rstrip("p")]
    for start in range(clip.first_sample, samples, size):
        wave = (np.sin(np.arange(start, start + size) * 0.05) * loudest).astype(dtype)
        planar = kind.endswith("p")
        data = np.tile(wave, (layout.nb_channels, 1))
        if not planar:
            data = np.ascontiguousarray(data.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(data, format=kind, layout=layout.name)
        frame.sample_rate, frame.pts = 48000, start
        frame.time_base = Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


@dataclass(frozen=True, eq=False)
class Probe:
    """What PyAV finds in a file.

    Attributes:
        times: Seconds of the frames, from the start of the file.
        images: (H, W, 3) uint8 BGR.
        duration: Seconds of the video stream, according to the header.
        end: Seconds at which the last frame ends.
        rate: Average number of frames per second.
        audio: Bytes of each audio packet.
        tags: Colour matrix, primaries, transfer and range.
        codec: Name of the codec, and the pixel format.
        aspect: Width of a pixel divided by its height.
    """

    times: list[Fraction]
    images: list[Image]
    duration: Fraction | None
    end: Fraction
    rate: Fraction | None
    audio: list[bytes]
    tags: tuple[int, int, int, int]
    codec: tuple[str, str | None]
    aspect: Fraction | None


def probe(path: Path) -> Probe:
    """Decode all of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.time_base
        base = stream.time_base
        context = stream.codec_context
        times = [frame.pts * base for frame in frames if frame.pts is not None]
        images = [
            np.asarray(frame.to_ndarray(format="bgr24", interpolation=EXACT), np.uint8)
            for frame in frames
        ]
        tags = (
            context.colorspace,
            context.color_primaries,
            context.color_trc,
            context.color_range,
        )
        duration = stream.duration * base if stream.duration else None
        facts = (duration, times[-1] + (frames[-1].duration or 0) * base, stream.average_rate)
        kind = (context.name, stream.pix_fmt)
        aspect = stream.sample_aspect_ratio
    with av.open(str(path)) as container:
        audio = (
            [bytes(packet) for packet in container.demux(audio=0) if packet.size]
            if (container.streams.audio)
            else []
        )
    return Probe(times, images, *facts, audio, tags, kind, aspect)
