"""Sources, stages and disks that fail midway, and Ctrl-C: no hang, no broken file."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer import ModelError, OutputError, Predictor, VideoError
from alignseg_infer.arrays import Image
from alignseg_infer.video import output_file, process
from alignseg_infer.video.file_source import FileSource
from alignseg_infer.video.frames import Frame, StreamFacts
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.process import segment_source
from alignseg_infer.video.render import Renderer
from alignseg_infer.video.sources import open_source
from alignseg_infer.video.writer import VideoWriter
from tests.support.models import FakeBackend
from tests.support.video_clips import Clip, picture, probe, write_clip
from tests.support.waiting import PATIENCE
from tests.video.test_video_clocks import packets_of

SIZE = (64, 96)
STEP = Fraction(1, 25)


class Source:
    """A source of twenty frames, followed by an error if one is given."""

    name = "fake source"
    damaged = reconnects = 0

    def __init__(self, error: BaseException | None = None, after: int = 20) -> None:
        self.facts = StreamFacts(size=SIZE, time_base=STEP, rate=1 / STEP)
        self.notes: list[str] = []
        self.closed = False
        self._error, self._after = error, after

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self._after):
            yield Frame(picture(SIZE, number), number * STEP, STEP)
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Do nothing: frames come at once."""

    def close(self) -> None:
        self.closed = True


class FailingBackend(FakeBackend):
    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        if len(self.batches) == 8:
            raise ModelError("the network broke", "a network", "another one")
        return super().infer(batch)


def no_space(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def require_nothing_left(folder: Path, *kept: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)
    assert not [thread for thread in threading.enumerate() if "alignseg" in thread.name]


def test_what_was_encoded_before_a_source_died_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(VideoError("the disk was pulled out", "a disk", "put it back"), after=9)
    with pytest.raises(VideoError, match="pulled out"):
        segment_source(Predictor(FakeBackend()), source, tmp_path / "out.mp4")
    require_nothing_left(tmp_path, "out.partial.mp4")
    after = probe(tmp_path / "out.partial.mp4")
    assert 5 <= len(after.times) <= 9  # frames still in the threads may be lost
    assert after.times == [number * STEP for number in range(len(after.times))]
    assert "out.partial.mp4" in caplog.text
    assert source.closed


@pytest.mark.parametrize("stage", ["infer", "render", "encode", "progress"])
def test_each_stage_may_fail(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_eighth(work: object, count: list[int]) -> object:
        def failing(self: object, *arguments: object) -> object:
            count.append(1)
            if len(count) > 8:
                raise ModelError(f"{stage} broke", "none", "none")
            return work(self, *arguments)  # type: ignore[operator]

        return failing

    if stage == "render":
        monkeypatch.setattr(Renderer, "draw", fail_at_eighth(Renderer.draw, []))
    if stage == "encode":
        monkeypatch.setattr(VideoWriter, "write", fail_at_eighth(VideoWriter.write, []))
    backend = FailingBackend() if stage == "infer" else FakeBackend()

    def progress(done: int, total: int | None) -> None:
        if stage == "progress" and done == 8:
            raise ModelError("progress broke", "none", "none")

    with pytest.raises(ModelError, match="broke"):
        segment_source(Predictor(backend), Source(), tmp_path / "out.mp4", progress=progress)
    require_nothing_left(tmp_path, "out.partial.mp4")
    assert 4 <= len(probe(tmp_path / "out.partial.mp4").times) <= 20


def test_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoWriter, "_mux", no_space)
    with pytest.raises(OutputError, match="No space left"):
        segment_source(Predictor(FakeBackend()), Source(), tmp_path / "out.mp4")
    require_nothing_left(tmp_path)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the operating system refuse to write more, inside FFmpeg, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".m4v", ".mkv"])
@pytest.mark.parametrize("share", [0.5, 0.99])  # the second one ends while the file is finished
def test_what_fits_on_a_full_disk_can_be_played(
    share: float, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", Clip(frames=90, rate=Fraction(25), audio="aac"))
    segment_source(Predictor(FakeBackend()), open_source(clip), tmp_path / f"out{ending}")
    size = (tmp_path / f"out{ending}").stat().st_size
    partial = tmp_path / f"full.partial{ending}"
    with largest_file(int(share * size)), pytest.raises(OutputError, match="File too large"):
        segment_source(Predictor(FakeBackend()), open_source(clip), tmp_path / f"full{ending}")
    require_nothing_left(tmp_path, "clip.mp4", f"out{ending}", partial.name)
    source = open_source(partial)
    times = [frame.time for frame in source]
    assert times == [number * STEP for number in range(len(times))]
    assert f"{len(times)}" in caplog.text
    assert f"frames encoded so far are kept in {partial}" in caplog.text
    assert len(times) >= (25 if share == 0.5 else 75)
    source.close()


def test_fragments_are_the_result_if_a_plain_copy_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0, *np.cumsum([(17, 50, 400)[number % 3] for number in range(49)]).tolist()]
    clip = write_clip(tmp_path / "clip.mkv", Clip(frames=50, times=times, audio="aac"))
    copy = output_file._copy_packets
    plain = segment_source(Predictor(FakeBackend()), open_source(clip), tmp_path / "out.mp4")

    def copy_some(path: Path, target: Path, options: dict[str, str]) -> None:
        copy(path, target, options)
        no_space()

    monkeypatch.setattr(output_file, "_copy_packets", copy_some)
    whole = segment_source(Predictor(FakeBackend()), open_source(clip), tmp_path / "whole.mp4")
    require_nothing_left(tmp_path, "clip.mkv", "out.mp4", "whole.mp4")
    assert plain.notes == ()
    assert "no room for a plain copy (No space left on device)" in whole.notes[0]
    assert b"moof" in (tmp_path / "whole.mp4").read_bytes()
    assert b"moof" not in (tmp_path / "out.mp4").read_bytes()
    expected, found = probe(tmp_path / "out.mp4"), probe(tmp_path / "whole.mp4")
    assert found.times == expected.times == [Fraction(time, 1000) for time in times]
    assert found.audio == expected.audio
    assert found.duration == expected.duration
    assert packets_of(tmp_path / "whole.mp4", "audio") == packets_of(tmp_path / "out.mp4", "audio")


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_ctrl_c_while_the_file_is_finished_keeps_it(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    name = "_copy_packets" if ending == ".mp4" else "require_playable"
    monkeypatch.setattr(output_file, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment_source(Predictor(FakeBackend()), Source(), tmp_path / f"out{ending}")
    require_nothing_left(tmp_path, f"out.partial{ending}")
    assert len(probe(tmp_path / f"out.partial{ending}").times) == 20
    assert "the 20 frames encoded so far are kept" in caplog.text


def test_partial_file_stays_until_the_video_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the last check, before the file is renamed."""
    run = process._Work.run

    def interrupted(self: process._Work, *arguments: object) -> None:
        run(self, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(process._Work, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment_source(Predictor(FakeBackend()), Source(), tmp_path / "out.mp4")
    require_nothing_left(tmp_path, "out.partial.mp4")
    assert len(probe(tmp_path / "out.partial.mp4").times) == 20


def test_partial_files_of_earlier_runs_stay(tmp_path: Path) -> None:
    for _ in range(3):
        source = Source(VideoError("the disk was pulled out", "a disk", "put it back"))
        with pytest.raises(VideoError, match="pulled out"):
            segment_source(Predictor(FakeBackend()), source, tmp_path / "out.mp4")
    names = ["out.partial.mp4", "out.partial2.mp4", "out.partial3.mp4"]
    require_nothing_left(tmp_path, *names)
    assert all(len(probe(tmp_path / name).times) > 5 for name in names)


@pytest.mark.parametrize("stem", ["a" * 251, "\N{SNOWMAN}" * 80])
def test_partial_file_of_a_long_name_has_a_name_that_fits(stem: str, tmp_path: Path) -> None:
    summary = segment_source(Predictor(FakeBackend()), Source(), tmp_path / f"{stem}.mp4")
    require_nothing_left(tmp_path, f"{stem}.mp4")
    assert summary.frames == 20


def test_frames_do_not_wait_in_memory_for_late_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fragments begin when each track has a packet, so late audio makes a file without them."""
    monkeypatch.setattr("alignseg_infer.video.audio.LATEST_BEGIN", 1)
    writers: list[VideoWriter] = []
    for first in (0, 50):
        clip = Clip(frames=75, rate=Fraction(25), audio="aac", first_sample=first * 48000 // 25)
        source = FileSource(write_clip(tmp_path / f"{first}.mp4", clip))
        writers.append(VideoWriter(tmp_path / "out.mp4", source.facts, crf=20, audio_from=source))
        for frame in source:
            writers[-1].write(frame.image, frame.time, None)
        source.close()
        assert (b"moof" in (tmp_path / "out.mp4").read_bytes()) == (not first)
        assert (tmp_path / "out.mp4").stat().st_size > 1000
        writers[-1].finish(tmp_path / "whole.mp4")
        assert probe(tmp_path / "whole.mp4").times == [number * STEP for number in range(75)]
        begin = packets_of(tmp_path / "whole.mp4", "audio")[0][0]
        assert abs(begin - first * STEP) < Fraction(1, 20)
        assert any("the audio begins late" in note for note in writers[-1].notes) == bool(first)


def test_file_that_reads_back_shorter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mux = VideoWriter._mux

    def losing(self: VideoWriter, packets: list[object]) -> None:
        mux(self, packets[1:] if len(packets) > 1 else packets)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoWriter, "_mux", losing)
    with pytest.raises(OutputError, match="holds 19 frames, but 20 were"):
        segment_source(Predictor(FakeBackend()), Source(), tmp_path / "out.mp4")
    require_nothing_left(tmp_path, "out.partial.mp4")


def test_source_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="gave no frames"):
        segment_source(Predictor(FakeBackend()), Source(after=0), tmp_path / "out.mp4")
    require_nothing_left(tmp_path)


def test_a_disk_that_is_full_at_the_last_byte_is_an_error(tmp_path: Path) -> None:
    def write() -> VideoWriter:
        writer = VideoWriter(tmp_path / "a.mp4", Source().facts, crf=20)
        for number in range(20):
            writer.write(picture(SIZE, number), number * STEP, STEP)
        return writer

    assert write().rescue() == 20
    size = (tmp_path / "a.mp4").stat().st_size
    with largest_file(size - 1), pytest.raises(OSError, match="File too large"):
        write().finish(tmp_path / "out.mp4")


CHILD = """
import signal, sys, time
from alignseg_infer.cli import main
from alignseg_infer.video.render import Renderer
from alignseg_infer.video.sources import open_source
from alignseg_infer.video import process
draw = Renderer.draw
count = 0
def slowly(self, result):
    global count
    count += 1
    if count == 60:
        print("well under way", flush=True)
    if count >= 60:  # so that the signal finds it at work, however late it comes
        time.sleep(0.5)
    return draw(self, result)
Renderer.draw = slowly
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as do children of nohup
sys.exit(main(["video", "demo", "clip.mp4", "-o", sys.argv[1], "--size", "64"]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interruption_keeps_a_valid_part(number: int, code: int, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", Clip(frames=400, rate=Fraction(25), audio="aac"))
    command = [sys.executable, "-c", CHILD, "out.mp4"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "well under way\n", child.communicate()
        child.send_signal(number)
        if number == signal.SIGHUP:  # a terminal may send it twice when it is closed
            time.sleep(0.02)
            child.send_signal(number)
        try:
            _, errors = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()
    assert child.returncode == code, errors
    assert "out.partial.mp4" in errors
    assert "Traceback" not in errors
    require_nothing_left(tmp_path, "clip.mp4", "out.partial.mp4")
    after = probe(tmp_path / "out.partial.mp4")
    assert 0 < len(after.times) < 400
    assert after.times == [number * STEP for number in range(len(after.times))]
    assert abs(len(after.audio) * 1024 / 48000 - float(after.end)) < 0.15


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_killed_process_leaves_a_file_that_can_be_played(ending: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", Clip(frames=400, rate=Fraction(25), audio="aac"))
    command = [sys.executable, "-c", CHILD, f"out{ending}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "well under way\n", child.communicate()
        child.kill()
        assert child.wait(PATIENCE) == -signal.SIGKILL
    after = probe(tmp_path / f"out.partial{ending}")
    # Some were not drawn yet, some in the encoder, and half a second in memory.
    assert 25 <= len(after.times) <= 62
    assert after.times == [number * STEP for number in range(len(after.times))]
    assert abs(len(after.audio) * 1024 / 48000 - float(after.end)) < 0.15


def test_memory_does_not_grow_with_frames_that_wait(tmp_path: Path) -> None:
    """The source is read ahead of a slow network only as far as the queues hold."""
    read = 0

    class Counted(Source):
        def __iter__(self) -> Iterator[Frame]:
            nonlocal read
            for frame in super().__iter__():
                read += 1
                yield frame

    most = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal most
        most = max(most, read - done)
        time.sleep(0.01)

    output = tmp_path / "out.mp4"
    segment_source(Predictor(FakeBackend()), Counted(after=120), output, progress=progress)
    assert most < 30


def test_a_source_may_use_one_buffer(tmp_path: Path) -> None:
    """The view of each frame gets that frame, though the source fills the same array again."""

    class OneBuffer(Source):
        def __iter__(self) -> Iterator[Frame]:
            buffer = np.zeros((*SIZE, 3), np.uint8)
            for number in range(20):
                buffer[:] = number
                yield Frame(buffer, number * STEP, STEP)
            buffer[:] = 99

    seen: list[set[int]] = []

    def view(image: Image) -> Image:
        seen.append(set(image.ravel().tolist()))
        return image

    predictor = Predictor(FakeBackend())
    segment_source(predictor, OneBuffer(), tmp_path / "out.mp4", VideoOptions(), view=view)
    assert seen == [{number} for number in range(20)]
