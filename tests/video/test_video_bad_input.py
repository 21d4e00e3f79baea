"""Unusable sources and outputs give typed errors, and nothing is written."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from alignseg_infer import AlignSegError, OptionError, OutputError, SizeError, VideoError
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.sources import open_source
from tests.support.video_clips import NTSC, Clip, probe, write_clip
from tests.video.test_video import run_video

NAN = math.nan


def cut(path: Path, share: float) -> None:
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    data = write_clip(path, Clip(codec, frames=100)).read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def write_sound(path: Path) -> None:
    both = write_clip(path.with_name("both.mp4"), Clip(audio="aac"))
    with av.open(str(both)) as source, av.open(str(path), "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


def spoil(path: Path, *, everything: bool = False, frames: int = 40) -> None:
    """Zero the data of all frames of an AVI, or of the frames in the middle."""
    data = bytearray(write_clip(path, Clip("mpeg4", frames=frames)).read_bytes())
    starts = [match.end() + 4 for match in re.finditer(b"00dc", data[: data.rfind(b"idx1")])]
    chosen = starts if everything else starts[frames // 2 : frames // 2 + 4]
    for start in chosen:
        size = int.from_bytes(data[start - 4 : start], "little")
        data[start : start + size] = bytes(size)
    path.write_bytes(data)


BAD: dict[str, tuple[Callable[[Path], object], type[AlignSegError], str]] = {
    "missing.mp4": (lambda path: None, VideoError, "does not exist"),
    "empty.mp4": (lambda path: path.write_bytes(b""), VideoError, "empty"),
    "noise.mp4": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(9000)),
        VideoError,
        "cannot be opened",
    ),
    "text.mkv": (lambda path: path.write_text("hello " * 99), VideoError, "cannot be opened"),
    "none.mp4": (lambda path: write_clip(path, Clip(frames=0)), VideoError, "no video"),
    "none.mkv": (lambda path: write_clip(path, Clip(frames=0)), VideoError, "cannot be opened"),
    "half.mp4": (lambda path: cut(path, 0.6), VideoError, "lost its index"),
    "small.mp4": (lambda path: write_clip(path, Clip(size=(16, 16))), SizeError, "16x16"),
    "sound.mka": (write_sound, VideoError, "no video"),
    "corrupt.avi": (lambda path: spoil(path, everything=True), VideoError, "no frame"),
    "http://host/a.mp4": (lambda path: None, OptionError, "scheme http"),
    "streets:x": (lambda path: None, OptionError, "seed"),
    "99": (lambda path: None, VideoError, "webcam 99"),
    "pictures": (lambda path: path.mkdir(), VideoError, "0 images"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sources_are_typed_errors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, error, message = BAD[name]
    if "://" not in name:
        make(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run_video(name, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert not list(tmp_path.glob(".writing-*"))


def test_damaged_frames_are_counted_and_left_out(tmp_path: Path) -> None:
    spoil(tmp_path / "spoiled.avi")
    summary = run_video(tmp_path / "spoiled.avi", tmp_path / "out.mp4")
    after = probe(tmp_path / "out.mp4")
    assert summary.damaged > 0
    assert 30 <= summary.frames == len(after.times) == 40 - summary.damaged
    assert set(after.times) <= {number / NTSC for number in range(40)}  # none is moved
    assert after.times[-1] == 39 / NTSC


@pytest.mark.parametrize("name", ["cut.mkv", "cut.avi"])
def test_a_file_that_is_cut_gives_what_there_is_and_says_so(name: str, tmp_path: Path) -> None:
    cut(tmp_path / name, 0.6)
    summary = run_video(tmp_path / name, tmp_path / "out.mp4")
    assert 10 <= summary.frames == len(probe(tmp_path / "out.mp4").times) < 90
    assert any("is cut" in note for note in summary.notes)
    assert summary.damaged == (1 if name.endswith("avi") else 0)  # it ends within a frame


def trim(source: Path, target: Path, seconds: Fraction) -> None:
    """Copy a file without its first seconds; the frames before the key frame are only hidden."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                container.mux(packet)


RATE = Fraction(25)
VARIABLE = np.cumsum([0] + [17 if number % 3 else 50 for number in range(59)]).tolist()
WHOLE = {
    "skipped.avi": Clip("mpeg4", frames=10, rate=RATE, times=[0, 40, 80, 240, 280, 320, 480, 600]),
    "variable.mkv": Clip(frames=60, times=VARIABLE),
    "variable.webm": Clip("libvpx", frames=60, times=VARIABLE),
    "constant.mp4": Clip(frames=50, rate=NTSC, audio="aac"),
    "constant.ts": Clip(frames=50, rate=NTSC),
}


@pytest.mark.parametrize("name", ["trimmed.mp4", *WHOLE])
def test_whole_files_are_not_said_to_be_cut(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "trimmed.mp4":
        options = {"g": "50", "bf": "2"}
        whole = write_clip(tmp_path / "whole.mp4", Clip(frames=50, rate=RATE, options=options))
        trim(whole, path, Fraction(4, 5))
    else:
        clip = WHOLE[name]
        frames = len(clip.times) if clip.times else clip.frames
        write_clip(path, replace(clip, frames=frames))
    source = open_source(path)
    assert len(list(source)) > 5
    source.close()
    assert source.notes == []


def test_ending_of_a_source_does_not_matter(tmp_path: Path) -> None:
    write_clip(tmp_path / "real.mp4", Clip()).rename(tmp_path / "renamed.txt")
    assert run_video(tmp_path / "renamed.txt", tmp_path / "out.mp4").frames == 6


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("a.mp4", OptionError),
        ("link.mp4", OptionError),
        ("out.gif", OptionError),
        ("out", OptionError),
        ("a.mp4/out.mp4", OutputError),
        ("folder.mp4", OutputError),
    ],
)
def test_bad_outputs_are_typed_errors(
    output: str, error: type[AlignSegError], tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "a.mp4", Clip())
    (tmp_path / "link.mp4").symlink_to(source)
    (tmp_path / "folder.mp4").mkdir()
    content = source.read_bytes()
    with pytest.raises(error):
        run_video(source, tmp_path / output)
    assert source.read_bytes() == content


def test_source_is_not_taken_for_the_partial_output(tmp_path: Path) -> None:
    """A partial file of an earlier run is never overwritten, so it can be a source."""
    source = write_clip(tmp_path / "out.partial.mp4", Clip())
    content = source.read_bytes()
    assert run_video(source, tmp_path / "out.mp4").frames == len(probe(source).times)
    assert source.read_bytes() == content
    assert (tmp_path / "out.mp4").exists()


def test_missing_folder_is_made(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", Clip())
    run_video(source, tmp_path / "new" / "er" / "out.mp4")
    assert (tmp_path / "new" / "er" / "out.mp4").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"opacity": 1.5},
        {"opacity": NAN},
        {"opacity": "x"},
        {"opacity": None},
        {"legend": "no"},
        {"audio": 1},
        {"smoothing": 1.0},
        {"smoothing": True},
        {"crf": 52},
        {"crf": 20.5},
        {"crf": None},
        {"max_frames": 0},
        {"max_frames": 2.5},
        {"max_frames": "3"},
        {"max_frames": True},
        {"seconds": 0.0},
        {"seconds": -1.0},
        {"seconds": NAN},
        {"seconds": math.inf},
        {"seconds": "4"},
    ],
    ids=str,
)
def test_bad_options_are_typed_errors(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        VideoOptions(**options)  # type: ignore[arg-type]
