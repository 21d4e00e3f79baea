"""Compares what goes into `segment_source` with what comes out."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from alignseg_infer import (
    Predictor,
)
from alignseg_infer.arrays import Image
from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.drawing.masks import draw_legend
from alignseg_infer.video.colors import BgrFrames
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.process import VideoSummary, segment_source
from alignseg_infer.video.sources import open_source
from tests.support.models import FakeBackend
from tests.support.video_clips import Clip, picture, probe, write_clip

LOSSY = ("mpeg4", "mjpeg", "libvpx-vp9")
PLAIN = VideoOptions(opacity=0.0, crf=2)  # the frames themselves
CLIPS = {
    "h264.mp4": Clip(),
    "h265.mp4": Clip("libx265"),
    "vp9.webm": Clip("libvpx-vp9"),
    "mpeg4.avi": Clip("mpeg4"),
    "h264.mkv": Clip(),
    "h264.ts": Clip(),
    "h264.mov": Clip(rate=Fraction(24000, 1001)),
    "25fps.mp4": Clip(rate=Fraction(25)),
    "variable.mp4": Clip(times=(0, 40, 95, 180, 200, 500)),
    "late.mp4": Clip(times=(1000, 1040, 1080, 1120, 1160, 1200)),
    "odd.mkv": Clip("ffv1", (65, 97), pixels="bgr0"),
    "one.mp4": Clip(frames=1),
    "ten_bits.mp4": Clip("libx265", pixels="yuv420p10le"),
    "ten_bits.mkv": Clip(pixels="yuv420p10le", matrix=(9, 1)),
    "444.mp4": Clip(pixels="yuv444p"),
    "422.mkv": Clip("ffv1", pixels="yuv422p"),
    "full_range.mp4": Clip(matrix=(1, 2)),
    "bt709.mp4": Clip(matrix=(1, 1)),
    "bt601.mp4": Clip(matrix=(6, 1)),
    "mjpeg.avi": Clip("mjpeg", pixels="yuvj420p"),
}


def run_video(
    source: str | Path,
    output: Path,
    options: VideoOptions = PLAIN,
    backend: FakeBackend | None = None,
) -> VideoSummary:
    return segment_source(Predictor(backend or FakeBackend()), open_source(source), output, options)


def require_shown(images: list[Image], clip: Clip, tolerance: float) -> None:
    """Check that each picture shows the colours of the corners and its own number."""
    height, width = clip.size
    for number, image in enumerate(images):
        expected = picture(clip.size, number).astype(float)
        for rows in (slice(4, height // 2 - 6), slice(height // 2 + 6, height - 4)):
            for columns in (slice(4, width // 2 - 4), slice(width // 2 + 4, width - 4)):
                seen = image[rows, columns].mean((0, 1))
                assert np.abs(seen - expected[rows, columns].mean((0, 1))).max() < tolerance
        bar = image[height // 2 - 1 : height // 2 + 1, :width].min(2).mean(0)
        assert abs(int(bar.argmax()) - (4 * number + 1)) <= 2


@pytest.mark.parametrize("name", CLIPS)
def test_frames_times_and_colours_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    clip = CLIPS[name]
    source = write_clip(tmp_path / name, clip)
    summary = run_video(source, tmp_path / "out.mp4")
    before, after = probe(source), probe(tmp_path / "out.mp4")

    assert summary.frames == len(after.images) == len(before.images) == clip.frames
    start = before.times[0] if name.endswith(".ts") or name.startswith("late") else 0
    assert after.times == [time - start for time in before.times]
    assert after.duration == after.end == before.end - start
    if clip.times is None and "mkv" not in name and "webm" not in name:
        assert after.rate == clip.rate
    assert after.tags == (1, 1, 1, 1)
    assert after.codec == ("h264", "yuv420p")
    assert (summary.damaged, summary.dropped, summary.notes) == (0, 0, ())
    height, width = clip.size
    assert after.images[0].shape[:2] == (height + height % 2, width + width % 2)
    assert np.abs(np.diff(after.images[0][height - 1 :].astype(int), axis=0)).max(initial=0) <= 4
    require_shown(after.images, clip, 6 if clip.codec in LOSSY else 3.5)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ((0, False), lambda image: image),
        ((90, False), lambda image: np.rot90(image, 1)),
        ((-90, False), lambda image: np.rot90(image, -1)),
        ((180, False), lambda image: np.rot90(image, 2)),
        ((0, True), lambda image: image[:, ::-1]),
        ((180, True), lambda image: image[::-1]),
        ((90, True), lambda image: np.rot90(image, 1)[:, ::-1]),
        ((-90, True), lambda image: np.rot90(image, -1)[:, ::-1]),
    ],
)
def test_frames_are_turned_as_the_file_says(
    turn: tuple[int, bool], expected: Callable[[Image], Image], tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "turned.mp4", Clip(frames=2, turn=turn))
    run_video(source, tmp_path / "out.mp4")
    after = probe(tmp_path / "out.mp4")
    upright = expected(picture((64, 96)))
    assert after.images[0].shape == upright.shape
    off = np.abs(after.images[0].astype(int) - upright.astype(int))
    assert np.median(off) <= 3
    assert off.mean() < 8  # half a picture in another colour would be 40 or more


def test_gray_video_stays_gray(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "gray.mkv", Clip("ffv1", pixels="gray"))
    run_video(source, tmp_path / "out.mp4")
    before, after = probe(source), probe(tmp_path / "out.mp4")
    for image, expected in zip(after.images, before.images, strict=True):
        assert np.ptp(image.astype(int), 2).max() <= 4
        assert np.abs(image.astype(int) - expected.astype(int)).mean() < 2


def test_large_video_that_names_no_matrix_is_bt709(tmp_path: Path) -> None:
    size = (592, 64)  # above 576 rows
    named = write_clip(tmp_path / "named.mp4", Clip(size=size, frames=1, matrix=(1, 1)))
    data = {name: open_source(tmp_path / name) for name in ("named.mp4",)}
    image = next(iter(data["named.mp4"])).image
    with av.open(str(named)) as container:
        frame = next(container.decode(video=0))
    frame.colorspace = 2  # unspecified
    assert np.abs(BgrFrames(frame).image(frame).astype(int) - image.astype(int)).max() <= 1


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture((64, 96)), "bgr24")))
        container.mux(stream.encode())
    run_video(path, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").aspect == Fraction(16, 11)


@pytest.mark.parametrize(
    ("name", "audio", "copied"),
    [
        ("aac.mp4", "aac", True),
        ("opus.webm", "libopus", True),
        ("mp3.avi", "libmp3lame", True),
        ("flac.mkv", "flac", True),
        ("mulaw.avi", "pcm_mulaw", False),
    ],
)
def test_audio_is_copied_or_its_absence_said(
    name: str, audio: str, copied: bool, tmp_path: Path
) -> None:
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(name.rpartition(".")[2], "libx264")
    source = write_clip(tmp_path / name, Clip(codec, frames=15, audio=audio))
    summary = run_video(source, tmp_path / "out.mp4")
    before, after = probe(source), probe(tmp_path / "out.mp4")
    assert len(before.audio) > 5
    assert after.audio == (before.audio if copied else [])
    assert len(summary.notes) == (0 if copied else 1)
    assert after.times == before.times


def audio_tags(path: Path) -> list[tuple[str | None, str | None, int]]:
    with av.open(str(path)) as container:
        return [
            (stream.metadata.get("language"), stream.metadata.get("title"), stream.disposition)
            for stream in container.streams.audio
        ]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_audio_keeps_its_languages_and_flags(ending: str, tmp_path: Path) -> None:
    flags = av.stream.Disposition
    wanted = [("eng", flags(0)), ("deu", flags.default), ("fra", flags.forced)]
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        tracks: list[Any] = [container.add_stream("aac", rate=48000) for _ in wanted]
        for track, (language, disposition) in zip(tracks, wanted, strict=True):
            track.metadata["language"], track.disposition = language, disposition
            track.metadata["title"] = f"in {language}"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(picture((64, 96), number), "bgr24")
            container.mux(video.encode(frame))
            for track in tracks:
                sound = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1920), np.float32), format="fltp", layout="mono"
                )
                sound.sample_rate, sound.pts = 48000, 1920 * number
                container.mux(track.encode(sound))
        for stream in (video, *tracks):
            container.mux(stream.encode())
    run_video(source, tmp_path / f"out{ending}")
    before, after = audio_tags(source), audio_tags(tmp_path / f"out{ending}")
    assert [(language, flag) for language, _, flag in before] == wanted
    assert [(language, flag) for language, _, flag in after] == wanted
    if ending == ".mkv":  # MP4 calls a title the name of the handler
        assert after == before


def test_frames_that_begin_after_the_audio_stay_so(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "late.ts", Clip(frames=15, first=1, audio="aac"))
    run_video(source, tmp_path / "out.mp4")
    before, after = probe(source), probe(tmp_path / "out.mp4")
    with av.open(str(source)) as container:
        (stream,) = container.streams.audio
        assert stream.start_time is not None
        assert stream.time_base is not None
        begins = stream.start_time * stream.time_base
    late = before.times[0] - begins
    assert late > Fraction(1, 100)
    assert abs(after.times[0] - late) <= Fraction(1, 90_000)
    assert [time - after.times[0] for time in after.times] == [
        time - before.times[0] for time in before.times
    ]
    assert after.audio


def test_audio_ends_with_the_frames_that_were_asked_for(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "long.mp4", Clip(frames=60, rate=Fraction(25), audio="aac"))
    summary = run_video(source, tmp_path / "out.mp4", VideoOptions(seconds=0.5))
    after = probe(tmp_path / "out.mp4")
    assert summary.frames == len(after.times) == 13  # 0 to 0.48 s
    assert 0.35 < len(after.audio) * 1024 / 48000 < 0.65
    silent = run_video(source, tmp_path / "silent.mp4", VideoOptions(max_frames=3, audio=False))
    assert (silent.frames, probe(tmp_path / "silent.mp4").audio) == (3, [])


def test_overlay_legend_and_both_sides(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", Clip(frames=2))
    options = VideoOptions(opacity=1.0, legend=True, side_by_side=True, crf=2)
    run_video(source, tmp_path / "out.mp4", options)
    (image, _) = probe(tmp_path / "out.mp4").images
    shares = {name: float(name == "road") for name in CITYSCAPES.names}
    key = draw_legend(CITYSCAPES, 192, shares)
    assert image.shape == (64 + key.shape[0], 192, 3)
    frame = next(iter(open_source(source))).image
    assert np.abs(image[:64, :96].astype(int) - frame.astype(int)).mean() < 3
    classes = Predictor(FakeBackend())(frame).color()
    assert np.median(np.abs(image[:64, 96:].astype(int) - classes.astype(int))) <= 3
    assert np.abs(image[64:].astype(int) - key.astype(int)).mean() < 6
