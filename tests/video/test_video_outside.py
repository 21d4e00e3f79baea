"""Errors outside the writer are not blamed on it: sources, views, hanging calls, signals."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from alignseg_infer import AlignSegError, OptionError, Predictor, VideoError
from alignseg_infer.arrays import Image
from alignseg_infer.video import process
from alignseg_infer.video.camera_source import CameraSource
from alignseg_infer.video.file_source import FileSource
from alignseg_infer.video.process import segment_source
from alignseg_infer.video.writer import VideoWriter
from tests.support.models import FakeBackend
from tests.support.video_clips import Clip, probe, write_clip
from tests.support.waiting import PATIENCE
from tests.video.test_video_camera import FakeCapture
from tests.video.test_video_faults import Source, require_nothing_left

RESET = ConnectionResetError(104, "Connection reset by peer")


def failing(image: Image) -> Image:
    raise FileNotFoundError(2, "No such file", "lut.png")


def growing() -> Callable[[Image], Image]:
    widths = iter(range(2, 99, 2))
    return lambda image: np.zeros((64, next(widths), 3), np.uint8)


def shaped(*shape: int, dtype: type = np.uint8) -> Callable[[Image], Image]:
    return lambda image: np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("source", "view", "error", "message"),
    [
        (Source(RESET, after=3), None, VideoError, "fake source cannot be read: Connection reset"),
        (Source(), failing, OptionError, "view of a frame failed.*lut.png"),
        (Source(), growing(), OptionError, r"shape \(64, 4, 3\)"),
        (Source(), shaped(10, 96, 3), OptionError, r"shape \(10, 96, 3\)"),
        (Source(), shaped(64, 96), OptionError, r"shape \(64, 96\)"),
        (Source(), shaped(64, 96, 3, dtype=np.float32), OptionError, "float32"),
        (Source(), lambda image: None, OptionError, "NoneType"),
    ],
)
def test_source_and_view_are_named(
    source: Source,
    view: Callable[[Image], Image] | None,
    error: type[AlignSegError],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        segment_source(Predictor(FakeBackend()), source, tmp_path / "out.mp4", view=view)
    assert not (tmp_path / "out.mp4").exists()


def test_ctrl_c_does_not_wait_for_a_write_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, hangs, goes_on = VideoWriter.write, threading.Event(), threading.Event()
    writing: list[threading.Thread] = []

    def slow(self: VideoWriter, *arguments: object) -> None:
        if self.frames == 4:
            writing.append(threading.current_thread())
            hangs.set()
            assert goes_on.wait(PATIENCE)
        write(self, *arguments)  # type: ignore[arg-type]

    def interrupted(done: int, total: int | None) -> None:
        if done == 4:
            assert hangs.wait(PATIENCE)
            raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "write", slow)
    monkeypatch.setattr(process, "LONGEST_WRITE", 0.2)
    monkeypatch.setattr("alignseg_infer.inference.pipeline.LONGEST_END", 0.2)
    with pytest.raises(KeyboardInterrupt):
        segment_source(Predictor(FakeBackend()), Source(), tmp_path / "out.mp4", None, interrupted)
    assert writing[0].is_alive()
    assert "out.partial.mp4: a frame is still being written" in caplog.text
    goes_on.set()
    writing[0].join(PATIENCE)  # before the next test


def test_file_is_left_open_while_its_decoder_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = FileSource(write_clip(tmp_path / "a.mp4", Clip()))

    def closing() -> Iterator[object]:
        source.close()  # as from another thread, while this runs
        yield None

    source._decoder = closing()  # type: ignore[assignment]
    next(source._decoder)
    assert "is left open" in caplog.text


@pytest.mark.parametrize("told", [KeyboardInterrupt(), SystemExit(143)])
def test_live_source_is_finished_when_told_to_end(told: BaseException, tmp_path: Path) -> None:
    def interrupted(done: int, total: int | None) -> None:
        if done == 5:
            raise told

    (tmp_path / "out.partial.mp4").write_text("of an earlier run")
    source = CameraSource("fake", lambda: FakeCapture(100_000))
    predictor = Predictor(FakeBackend())
    summary = segment_source(predictor, source, tmp_path / "out.mp4", progress=interrupted)
    require_nothing_left(tmp_path, "out.mp4", "out.partial.mp4")
    assert summary.frames == len(probe(tmp_path / "out.mp4").times) >= 5
    assert summary.notes == (f"{tmp_path / 'out.partial.mp4'} is still there from an earlier run",)


def test_container_is_closed_when_the_audio_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FileSource(write_clip(tmp_path / "a.mp4", Clip()))
    closed: list[bool] = []

    class Container:
        def close(self) -> None:
            closed.append(True)

    def fail(source: FileSource, output: object) -> None:
        raise VideoError("the file went away", "a file", "put it back")

    monkeypatch.setattr("alignseg_infer.video.writer.AudioCopy", fail)
    monkeypatch.setattr("alignseg_infer.video.writer.av.open", lambda *_, **__: Container())
    monkeypatch.setattr(VideoWriter, "_add_video_stream", lambda *_: None)
    with pytest.raises(VideoError, match="went away"):
        VideoWriter(tmp_path / "out.mp4", source.facts, crf=20, audio_from=source)
    source.close()
    assert closed == [True]
