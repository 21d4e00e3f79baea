"""Clocks that jump back, begin late or begin before 0; and where the audio ends."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from alignseg_infer.video.options import VideoOptions
from tests.support.video_clips import Clip, probe, write_clip
from tests.video.test_video import run_video

RATE = Fraction(25)
TICK = Fraction(1, 90_000)


def packets_of(path: Path, kind: str) -> list[tuple[Fraction, Fraction]]:
    """Return when each packet begins and ends."""
    with av.open(str(path)) as container:
        return [
            (
                packet.pts * packet.time_base,
                (packet.pts + (packet.duration or 0)) * packet.time_base,
            )
            for packet in container.demux(**{kind: 0})
            if packet.pts is not None and packet.size
        ]


@pytest.mark.parametrize("options", [VideoOptions(), VideoOptions(max_frames=80)])
def test_clock_that_jumps_back_goes_on(options: VideoOptions, tmp_path: Path) -> None:
    part = write_clip(tmp_path / "a.ts", Clip(frames=30, rate=RATE, audio="mp2"))
    source = tmp_path / "c.ts"
    source.write_bytes(part.read_bytes() * 3)
    summary = run_video(source, tmp_path / "out.mp4", options)
    after = probe(tmp_path / "out.mp4")
    count = options.max_frames or 90
    assert summary.frames == count
    assert summary.duration == pytest.approx(count / 25, abs=0.01)
    for number, time in enumerate(after.times):
        assert abs(time - after.times[0] - number / RATE) <= TICK
    assert summary.notes == (
        f"the clock of {source} jumps back 2 times; the times were made continuous",
    )
    sound = packets_of(tmp_path / "out.mp4", "audio")
    given = len(packets_of(part, "audio"))
    assert abs(len(sound) - 3 * given * count / 90) <= 2
    gaps = [later[0] - earlier[1] for earlier, later in pairwise(sound)]
    assert max(map(abs, gaps)) < Fraction(1, 20)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [(VideoOptions(max_frames=3), 3), (VideoOptions(seconds=1.5), 2), (VideoOptions(), 5)],
)
def test_audio_lasts_as_long_as_the_last_frame(
    options: VideoOptions, seconds: int, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "slow.mp4", Clip(frames=5, rate=Fraction(1), audio="aac"))
    summary = run_video(source, tmp_path / "out.mp4", options)
    assert summary.duration == seconds
    end = packets_of(tmp_path / "out.mp4", "audio")[-1][1]
    assert abs(end - seconds) <= Fraction(1024, 48000)


def write_late_matroska(path: Path) -> Path:
    """Write three seconds of sound, with frames only in the last second."""
    with av.open(str(path), "w") as target:
        sound = write_clip(path.with_name("sound.mkv"), Clip(frames=75, rate=RATE, audio="mp2"))
        clip = Clip(frames=25, rate=RATE, options={"crf": "2", "bf": "0"})
        frames = write_clip(path.with_name("frames.mkv"), clip)
        with av.open(str(sound)) as heard, av.open(str(frames)) as seen:
            streams = [heard.streams.audio[0], seen.streams.video[0]]
            copies = [target.add_stream_from_template(stream) for stream in streams]
            for container, stream, copy in zip((heard, seen), streams, copies, strict=True):
                for packet in container.demux(stream):
                    if packet.dts is not None:
                        packet.stream = copy
                        late = 0 if container is heard else 2000
                        packet.pts, packet.dts = (packet.pts or 0) + late, packet.dts + late
                        target.mux(packet)
    return path


@pytest.mark.parametrize(
    ("options", "frames", "duration"),
    [
        (VideoOptions(), 25, 1.0),
        (VideoOptions(seconds=1), 25, 1.0),
        (VideoOptions(seconds=0.5), 13, 0.52),
    ],
)
def test_late_frames_of_matroska_are_all_there(
    options: VideoOptions, frames: int, duration: float, tmp_path: Path
) -> None:
    summary = run_video(write_late_matroska(tmp_path / "late.mkv"), tmp_path / "out.mp4", options)
    assert (summary.frames, summary.notes) == (frames, ())
    assert summary.duration == pytest.approx(duration, abs=1e-3)
    after = probe(tmp_path / "out.mp4")
    assert after.times[0] == 2
    end = packets_of(tmp_path / "out.mp4", "audio")[-1][1]
    assert abs(end - 2 - Fraction(duration)) < Fraction(1, 20)


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_frames_begin_at_0_though_the_audio_begins_before(ending: str, tmp_path: Path) -> None:
    """AAC in MP4 begins with 1024 samples before 0; Matroska would then shift all times."""
    source = write_clip(tmp_path / "a.mp4", Clip(frames=50, rate=RATE, audio="aac"))
    run_video(source, tmp_path / f"out{ending}")
    after = probe(tmp_path / f"out{ending}")
    assert after.times == [number / RATE for number in range(50)]
    before = packets_of(source, "audio")
    sound = packets_of(tmp_path / f"out{ending}", "audio")
    assert before[0][0] < 0
    kept = [begin for begin, _ in before if begin >= 0 or ending == ".mp4"]
    assert len(sound) == len(kept)
    assert all(
        abs(got - given) < Fraction(1, 1000) for (got, _), given in zip(sound, kept, strict=True)
    )
