"""Sources, stages and disks that fail midway, and Ctrl-C: no hang, no broken file."""

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
from alignseg_infer.video.frames import Frame, StreamFacts
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.process import segment_source
from alignseg_infer.video.render import Renderer
from alignseg_infer.video.writer import VideoWriter
from tests.support.models import FakeBackend
from tests.support.video_clips import Clip, picture, probe, write_clip
from tests.support.waiting import PATIENCE

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


def test_file_that_may_not_grow_leaves_no_file(tmp_path: Path) -> None:
    """The operating system refuses the write inside FFmpeg."""
    noise = np.random.default_rng(0)

    class Noise(Source):
        def __iter__(self) -> Iterator[Frame]:
            for number in range(60):
                image: Image = noise.integers(0, 256, (*SIZE, 3), np.uint8)
                yield Frame(image, number * STEP, STEP)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            segment_source(
                Predictor(FakeBackend()), Noise(), tmp_path / "out.mp4", VideoOptions(crf=1)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    require_nothing_left(tmp_path)


def test_file_that_reads_back_shorter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mux = VideoWriter._mux

    def losing(self: VideoWriter, packets: list[object]) -> None:
        mux(self, packets[1:] if len(packets) > 1 else packets)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoWriter, "_mux", losing)
    with pytest.raises(OutputError, match="holds 19 frames, but 20 were"):
        segment_source(Predictor(FakeBackend()), Source(), tmp_path / "out.mp4")
    require_nothing_left(tmp_path)


def test_source_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="gave no frames"):
        segment_source(Predictor(FakeBackend()), Source(after=0), tmp_path / "out.mp4")
    require_nothing_left(tmp_path)


CHILD = """
import signal, sys, time
from alignseg_infer.cli import main
from alignseg_infer.video.render import Renderer
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
sys.exit(main(["video", "demo", "clip.mp4", "-o", "out.mp4", "--size", "64"]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interruption_keeps_a_valid_part(number: int, code: int, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", Clip(frames=400, rate=Fraction(25), audio="aac"))
    command = [sys.executable, "-c", CHILD]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)  # type: ignore[call-overload]
    assert child.stdout.readline() == "well under way\n", child.communicate()
    child.send_signal(number)
    if number == signal.SIGHUP:  # a terminal may send it twice when it is closed
        time.sleep(0.02)
        child.send_signal(number)
    _, errors = child.communicate(timeout=PATIENCE)
    assert child.returncode == code, errors
    assert "out.partial.mp4" in errors
    assert "Traceback" not in errors
    require_nothing_left(tmp_path, "clip.mp4", "out.partial.mp4")
    after = probe(tmp_path / "out.partial.mp4")
    assert 0 < len(after.times) < 400
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
