"""Clocks that jump back, begin late or begin before 0; and where the audio ends."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from alignseg_infer.video.frames import StreamFacts
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.writer import VideoWriter
from tests.support.video_clips import Clip, picture, probe, write_clip
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


def write_gap(path: Path, seconds: int, audio: str | None) -> Path:
    """Write 20 frames with a gap after the tenth one."""
    clip = Clip(frames=20, rate=RATE, audio=audio, options={"crf": "2", "bf": "0"})
    whole = write_clip(path.with_name("whole.mp4"), clip)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        copies = [target.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                late = packet.dts * packet.time_base >= Fraction(2, 5)
                gap = round(seconds / packet.time_base) if late else 0
                packet.pts, packet.dts = (packet.pts or 0) + gap, packet.dts + gap
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
    return path


HOUR = 3600


@pytest.mark.parametrize(
    ("name", "gap", "audio", "repeated"),
    [
        ("days.mkv", 72 * HOUR, None, 3),  # 1/16000 s in the MP4: 18.6 hours in 2^30 ticks
        ("hours.ts", 7 * HOUR, None, 2),  # 1/90000 s: 3.3 hours
        ("hours.ts", 7 * HOUR, "aac", 2),  # 1/48000 s for audio: 6.2 hours
        ("hours.mkv", 5 * HOUR, "aac", 0),
    ],
)
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_times_after_a_long_gap_are_exact(
    name: str, gap: int, audio: str | None, repeated: int, ending: str, tmp_path: Path
) -> None:
    """From 2^31 ticks on, FFmpeg's MP4 has wrong times, or ends the process."""
    source = write_gap(tmp_path / name, gap, audio)
    expected = {number / RATE + gap * (number >= 10) for number in range(20)}
    summary = run_video(source, tmp_path / f"out{ending}")
    after = probe(tmp_path / f"out{ending}")
    begin = after.times[0]
    repeated = repeated if ending == ".mp4" else 0
    assert summary.frames == 20
    assert len(after.times) == 20 + repeated
    assert {time - begin for time in after.times} >= expected or name.endswith(".ts")
    assert after.times[-1] - begin == pytest.approx(gap + 0.76, abs=1e-3)
    assert summary.duration == pytest.approx(gap + 0.8, abs=1e-3)
    if repeated:
        assert f"pictures were repeated {repeated} times" in summary.notes[-1]
    if audio:
        end = packets_of(tmp_path / f"out{ending}", "audio")[-1][1]
        left_out = repeated and gap > 6 * HOUR
        assert (abs(end - gap) < 1) == (not left_out)
        assert any("audio after a gap of more than 6.2 hours" in n for n in summary.notes) == bool(
            left_out
        )


def test_last_frame_may_be_shown_for_hours(tmp_path: Path) -> None:
    facts = StreamFacts((64, 96), time_base=Fraction(1, 1000), rate=RATE)
    writer = VideoWriter(tmp_path / "a.mp4", facts, crf=20)
    writer.write(picture((64, 96)), Fraction(0), Fraction(40 * HOUR))
    writer.finish(tmp_path / "out.mp4")
    after = probe(tmp_path / "out.mp4")
    assert len(after.times) == 3
    assert writer.end == after.end == after.duration == 40 * HOUR


def test_times_finer_than_100_ns_are_rounded(tmp_path: Path) -> None:
    """A time base of 1 ns would allow for gaps of 1 s only."""
    facts = StreamFacts((64, 96), time_base=Fraction(1, 10**9), rate=RATE)
    writer = VideoWriter(tmp_path / "a.mp4", facts, crf=20)
    times = [Fraction(0), Fraction(1, 10**9), Fraction(1, 3), Fraction(100)]
    for time in times:
        writer.write(picture((64, 96)), time, None)
    writer.finish(tmp_path / "out.mp4")
    after = probe(tmp_path / "out.mp4")
    assert len(after.times) == 4
    pairs = zip(after.times, times, strict=True)
    assert all(abs(shown - time) <= Fraction(1, 10**7) for shown, time in pairs)
    assert writer.notes == []
