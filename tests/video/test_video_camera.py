"""Cameras and streams that go away, come back, or are too fast."""

import threading
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer import Predictor, VideoError
from alignseg_infer.arrays import Image
from alignseg_infer.video.camera_source import TIME_BASE, CameraSource
from alignseg_infer.video.process import segment_source
from tests.support.models import FakeBackend
from tests.support.video_clips import picture, probe
from tests.support.waiting import PATIENCE, eventually
from tests.video.test_video_faults import SIZE, require_nothing_left


class FakeCapture:
    """A camera that gives some frames and then disappears."""

    def __init__(self, frames: int, size: tuple[int, int] = SIZE) -> None:
        self.left, self.size = frames, size
        self.released = False

    def isOpened(self) -> bool:
        return self.left > 0

    def read(self) -> tuple[bool, Image | None]:
        time.sleep(0.001)
        self.left -= 1
        return (True, picture(self.size, self.left)) if self.left >= 0 else (False, None)

    def get(self, prop: int, /) -> float:
        return 30.0

    def release(self) -> None:
        self.released = True


def test_camera_comes_back(tmp_path: Path) -> None:
    captures = [FakeCapture(5), FakeCapture(0), FakeCapture(0), FakeCapture(4, (32, 48))]
    waiting = iter(captures)
    source = CameraSource("fake", lambda: next(waiting, FakeCapture(9)), first_wait=0.01)
    frames = []
    for frame in source:
        frames.append(frame)
        if len(frames) == 9:
            source.stop()
    source.close()
    assert len(frames) == 9
    assert source.reconnects == 1
    assert {frame.image.shape[:2] for frame in frames} == {SIZE, (32, 48)}
    times = [frame.time for frame in frames]
    assert times == sorted(set(times))
    assert times[5] - times[4] >= Fraction(7, 100)  # 0.01, 0.02 and 0.04 s of waiting
    assert all(capture.released for capture in captures)


def test_camera_that_stays_away_is_an_error_after_a_while(tmp_path: Path) -> None:
    captures = iter([FakeCapture(5)])
    source = CameraSource(
        "fake", lambda: next(captures, FakeCapture(0)), first_wait=0.01, attempts=3
    )
    with pytest.raises(VideoError, match="after 3 attempts"):
        segment_source(Predictor(FakeBackend()), source, tmp_path / "out.mp4")
    require_nothing_left(tmp_path, "out.partial.mp4")


def test_camera_that_is_not_there_is_an_error() -> None:
    with pytest.raises(VideoError, match="cannot be opened"):
        CameraSource("fake", lambda: FakeCapture(0))


def test_ctrl_c_is_the_normal_end_of_a_live_source(tmp_path: Path) -> None:
    capture = FakeCapture(1_000_000)
    source, backend = CameraSource("fake", lambda: capture), SlowBackend(capture)

    def interrupted(done: int, total: int | None) -> None:
        assert total is None
        if done == 10:
            backend.hurries = True  # the camera takes no more pictures
            raise KeyboardInterrupt

    predictor = Predictor(backend)
    summary = segment_source(predictor, source, tmp_path / "out.mp4", progress=interrupted)
    require_nothing_left(tmp_path, "out.mp4")
    assert summary.frames == len(probe(tmp_path / "out.mp4").times) >= 10
    assert summary.dropped > 10


class SlowBackend(FakeBackend):
    """Computes for as long as the camera takes five pictures, until it is told to hurry."""

    def __init__(self, capture: FakeCapture) -> None:
        super().__init__()
        self.capture = capture
        self.hurries = False

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        left = self.capture.left - 5
        assert eventually(lambda: self.hurries or self.capture.left <= left)
        return super().infer(batch)


def test_ctrl_c_while_a_camera_is_away_ends_at_once(tmp_path: Path) -> None:
    capture = FakeCapture(3)
    source = CameraSource("fake", lambda: capture, first_wait=2 * PATIENCE)

    def interrupted(done: int, total: int | None) -> None:
        assert eventually(lambda: capture.left <= 0)
        time.sleep(0.1)  # it notices that, and waits
        raise KeyboardInterrupt

    begin = time.monotonic()
    segment_source(Predictor(FakeBackend()), source, tmp_path / "out.mp4", progress=interrupted)
    assert time.monotonic() - begin < PATIENCE
    require_nothing_left(tmp_path, "out.mp4")


def test_frames_that_arrive_together_get_times_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = CameraSource("fake", lambda: FakeCapture(4), first_wait=0.01)
    monkeypatch.setattr("alignseg_infer.video.camera_source.time.monotonic", lambda: 5.0)
    times = [frame.time for frame in islice(source, 3)]
    assert times == [Fraction(0), TIME_BASE, 2 * TIME_BASE]


def test_waiting_for_a_camera_can_be_interrupted(tmp_path: Path) -> None:
    capture = FakeCapture(3)
    source = CameraSource("fake", lambda: capture, first_wait=2 * PATIENCE)

    def stop() -> None:
        assert eventually(lambda: capture.left <= 0)
        time.sleep(0.1)  # it notices that, and waits
        source.stop()

    stopping = threading.Thread(target=stop)
    stopping.start()
    begin = time.monotonic()
    summary = segment_source(Predictor(FakeBackend()), source, tmp_path / "out.mp4")
    stopping.join()
    assert summary.frames >= 1
    assert time.monotonic() - begin < PATIENCE
