"""Threads with bounded queues between them: order, back-pressure, failures, and no hanging."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from alignseg_infer.errors import OptionError, ProcessError
from alignseg_infer.inference import pipeline as pipeline_module
from alignseg_infer.inference.pipeline import Pipeline, PipelineStopped
from tests.support.processes import exit_code_of_fork, needs_fork
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert eventually(lambda: not (set(threading.enumerate()) - before))


def failing_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise OSError("the source died")


def test_order_is_kept_through_stages() -> None:
    with Pipeline() as pipeline:
        squares = pipeline.thread(n * n for n in pipeline.thread(range(200), depth=3))
        assert list(squares) == [n * n for n in range(200)]


def test_stages_overlap() -> None:
    """The first stage makes an item while the second works on the one before."""
    barrier = threading.Barrier(2, timeout=PATIENCE)

    def first() -> Iterator[int]:
        for item in range(5):
            if item > 0:
                barrier.wait()
            yield item

    def second(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            if item < 4:
                barrier.wait()
            yield item

    with Pipeline() as pipeline:
        assert list(pipeline.thread(second(pipeline.thread(first())))) == [0, 1, 2, 3, 4]


def test_a_stage_that_is_ahead_waits() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with Pipeline() as pipeline:
        numbers = pipeline.thread(source(), depth=3)
        assert eventually(lambda: len(made) == 4)  # three wait, and one is in work
        time.sleep(0.05)
        assert len(made) == 4
        assert next(numbers) == 0
        assert eventually(lambda: len(made) == 5)


def test_old_items_are_dropped_and_counted() -> None:
    done = threading.Event()

    def camera() -> Iterator[int]:
        yield from range(10)
        done.set()

    with Pipeline() as pipeline:
        frames = pipeline.thread(camera(), depth=1, drop_old=True)
        assert done.wait(PATIENCE)
        assert list(frames) == [9]
        assert pipeline.dropped == 9


def test_failure_arrives_after_the_items_before_it() -> None:
    with Pipeline() as pipeline:
        items = pipeline.thread(map(str, pipeline.thread(failing_after(3))))
        assert [next(items) for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(OSError, match="the source died"):
            next(items)


def test_leaving_early_ends_every_stage_and_closes_its_source() -> None:
    closed: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.append(threading.current_thread().name)

    with Pipeline() as pipeline:
        items = pipeline.thread(map(abs, pipeline.thread(source())))
        assert next(items) == 0
    assert len(closed) == 1
    assert closed != [threading.current_thread().name]
    with pytest.raises(PipelineStopped):
        next(items)


def test_stopping_wakes_a_stage_that_waits_for_items() -> None:
    release = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        release.wait(PATIENCE)

    with Pipeline() as pipeline:
        items = pipeline.thread(map(abs, pipeline.thread(source())))
        assert next(items) == 0
        threading.Timer(0.1, release.set).start()
    assert release.is_set()  # stop waited for the first stage; the second did not wait for items


def test_a_failing_close_is_reported() -> None:
    def source() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise OSError("cannot close")

    with Pipeline() as pipeline:
        items = pipeline.thread(source())
        assert next(items) == 1
        with pytest.raises(OSError, match="cannot close"):
            next(items)


def test_a_stage_that_hangs_is_left_alone_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline_module, "LONGEST_END", 0.1)
    release = threading.Event()

    def camera() -> Iterator[int]:
        yield 0
        release.wait(PATIENCE)

    with Pipeline() as pipeline:
        next(pipeline.thread(camera()))
    assert "a stage did not end within 0.1 s: alignseg test_a_stage" in caplog.text
    assert "camera" in caplog.text
    release.set()


@pytest.mark.parametrize("depth", [0, -1, 1.5, True])
def test_bad_depth(depth: int) -> None:
    with Pipeline() as pipeline, pytest.raises(OptionError, match="1 item or more"):
        pipeline.thread([], depth=depth)


@needs_fork
def test_a_forked_process_leaves_the_pipeline_alone() -> None:
    """It may have a copy of the lock that a stage held at that moment."""
    with Pipeline() as pipeline:
        items = pipeline.thread(range(10))
        assert next(items) == 0

        def use() -> None:
            pipeline.stop()
            with pytest.raises(ProcessError, match="forked"):
                next(items)

        with ThreadPoolExecutor(1) as other:
            other.submit(pipeline._changed.acquire).result()
            try:
                assert exit_code_of_fork(use) == 0
            finally:
                other.submit(pipeline._changed.release).result()
        assert next(items) == 1
