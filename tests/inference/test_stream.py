"""Predictor.stream gives the same results as single calls, in order, and passes failures on."""

import gc
import itertools
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backend import LabelledBatch
from alignseg_infer.errors import ImageError, ModelError, OptionError, SizeError
from alignseg_infer.pixels.postprocess import Scores
from alignseg_infer.predictor import Predictor
from alignseg_infer.results.failure import Failure
from alignseg_infer.spec.model import OutputKind
from tests.support.models import FakeBackend, FakeLabelBackend
from tests.support.waiting import PATIENCE, eventually
from tests.test_predictor import LABELS, LARGE, LOGITS, SMALL, backend_with, solid

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert eventually(lambda: not (set(threading.enumerate()) - before))


def labels_of(results: Any) -> list[int]:
    return [int(result.labels[0, 0]) for result in results]


@pytest.mark.parametrize("depth", [0, 1, 2, 7])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 4}, {"flip": True}, {"mode": "slide", "tile": 32}, {"scales": (1.0, 0.8)}],
    ids=str,
)
def test_same_as_single_calls(options: dict[str, Any], depth: int) -> None:
    predictor = Predictor(FakeBackend(), **options)
    random = np.random.default_rng(0)
    images = [random.integers(0, 19, (*size, 3), np.uint8) for size in (SMALL, LARGE, SMALL) * 3]
    results = list(predictor.stream(images, depth=depth, confidence=True))
    assert len(results) == len(images)
    for image, result in zip(images, results, strict=True):
        expected = predictor(image, confidence=True)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.confidence, expected.confidence)
        np.testing.assert_array_equal(result.image, image)
        assert result.input_size == expected.input_size


def one_buffer(numbers: Iterable[int], wrap: Callable[[Image], Any]) -> Iterator[Any]:
    """Images that all lie in the same memory, as cameras and shared memory give them."""
    buffer = solid(0)
    for number in numbers:
        buffer[:] = number
        yield wrap(buffer)
    buffer[:] = 99


def pil_view(image: Image) -> Any:
    """A PIL image that shares the memory of `image`."""
    pil = pytest.importorskip("PIL.Image")
    height, width = image.shape[:2]
    return pil.frombuffer("RGB", (width, height), image, "raw", "RGB", 0, 1)


@pytest.mark.parametrize("depth", [0, 1, 2, 7])
@pytest.mark.parametrize("wrap", [lambda image: image, lambda image: image[:, ::-1], pil_view])
def test_a_source_may_use_one_buffer(depth: int, wrap: Callable[[Image], Any]) -> None:
    results = list(Predictor(FakeBackend()).stream(one_buffer(range(12), wrap), depth=depth))
    assert labels_of(results) == list(range(12))
    assert [set(result.image.ravel()) for result in results] == [{n} for n in range(12)]


def test_a_live_source_may_use_one_buffer() -> None:
    """A result shows the picture that it labels, whichever were dropped."""
    results = list(Predictor(FakeBackend()).stream(one_buffer(range(19), np.asarray), live=True))
    assert labels_of(results) == [int(result.image[0, 0, 0]) for result in results]
    assert labels_of(results)[-1] == 18


@pytest.mark.parametrize("several", [False, True])
def test_results_share_no_memory_with_arrays(several: bool) -> None:
    images = [solid(3), solid(4)]
    predictor = Predictor(FakeBackend())
    results = predictor(images) if several else [predictor(image) for image in images]
    for image in images:
        image[:] = 9
    assert [int(result.image[0, 0, 0]) for result in results] == [3, 4]
    results[0].image[:] = 7  # and the other way round
    assert images[0].max() == 9


def test_batches_of_equal_size() -> None:
    backend = FakeBackend()
    images = [solid(n) for n in range(5)] + [solid(n, LARGE) for n in range(2)] + [solid(7)]
    results = list(Predictor(backend, batch=2).stream(images))
    assert labels_of(results) == [0, 1, 2, 3, 4, 0, 1, 7]
    assert [shape[0] for shape in backend.batches] == [2, 2, 1, 2, 1]


def test_a_full_batch_does_not_wait_for_the_next_image() -> None:
    """A camera may pause; the images so far are segmented without waiting for it."""
    more = threading.Event()

    def images() -> Iterator[Image]:
        yield from (solid(1), solid(2))
        assert more.wait(PATIENCE)
        yield solid(3)

    with Predictor(FakeBackend(), batch=2).stream(images()) as results:
        assert labels_of([next(results), next(results)]) == [1, 2]
        more.set()
        assert labels_of(results) == [3]


class StuckBackend(FakeBackend):
    """A network that computes only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Semaphore(0)
        self.seen: list[int] = []

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        self.seen.append(int(batch[0, 0, 0, 0]))
        assert self.go.acquire(timeout=PATIENCE)
        return super().infer(batch)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_back_pressure(depth: int) -> None:
    """A slow network limits how many images are read ahead."""
    backend, read = StuckBackend(), 0

    def images() -> Iterator[Image]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield solid(1)

    # In the network; then per thread in front of it `depth` waiting and one in hand.
    bound = 1 + 2 * (depth + 1) * (depth > 0)
    with Predictor(backend).stream(images(), depth=depth):
        assert eventually(lambda: read >= bound)
        time.sleep(0.1)  # no more is read, however long one waits
        assert read == bound
        backend.go.release(1000)


def test_live_takes_the_newest_and_counts_the_rest() -> None:
    backend, sent = StuckBackend(), threading.Event()
    started = threading.Event()

    def camera() -> Iterator[Image]:
        yield solid(0)
        assert started.wait(PATIENCE)
        yield from (solid(n) for n in range(1, 11))
        sent.set()

    with Predictor(backend).stream(camera(), live=True) as results:
        assert eventually(lambda: bool(backend.seen))
        started.set()
        assert sent.wait(PATIENCE)
        backend.go.release(1000)
        assert labels_of(results) == [0, 10]
        assert results.dropped == 9


class Broken(Exception):
    pass


class BrokenBackend(FakeBackend):
    """A backend whose network fails at blue 3."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        if (batch[:, 0, 0, 0] == 3).any():
            raise Broken("the network")
        return super().infer(batch)


class NotFinite(FakeBackend):
    """A backend whose logits are NaN at blue 3."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        logits = super().infer(batch)
        logits[batch[:, 0, 0, 0] == 3] = np.nan
        return logits


class OnDevice(BrokenBackend):
    """A backend that prepares images and labels pixels itself, and fails with blue 3."""

    def load_kernels(self) -> None:
        """Nothing to load."""

    def segment(
        self, images: Sequence[Image], input_size: Size, *, confidence: bool
    ) -> LabelledBatch:
        assert {image.shape[:2] for image in images} == {input_size}
        logits = self.infer(np.stack([image.transpose(2, 0, 1) for image in images]))
        labels = [np.asarray(one.argmax(0), np.uint8) for one in logits]
        return LabelledBatch([Scores(one, None, None) for one in labels], 1.0, 1.0, 1.0)


def broken_source() -> Iterator[Image]:
    yield from (solid(0), solid(1), solid(2))
    raise Broken("the source")


def images_with(third: object) -> Iterator[Any]:
    return iter([solid(0), solid(1), solid(2), third, solid(4)])


@pytest.mark.parametrize(
    ("backend", "images", "error", "message"),
    [
        (FakeBackend, broken_source, Broken, "the source"),
        (FakeBackend, lambda: images_with("missing.jpg"), ImageError, "missing.jpg"),
        (FakeBackend, lambda: images_with(np.zeros((2, 2), np.float32)), ImageError, "float32"),
        (BrokenBackend, lambda: images_with(solid(3)), Broken, "the network"),
        (NotFinite, lambda: images_with(solid(3)), ModelError, "NaN"),
    ],
    ids=["source", "decode", "preprocess", "network", "postprocess"],
)
def test_each_stage_may_fail(
    backend: type[FakeBackend], images: Any, error: type[Exception], message: str
) -> None:
    results = Predictor(backend()).stream(images())
    assert labels_of([next(results) for _ in range(3)]) == [0, 1, 2]
    with pytest.raises(error, match=message):
        next(results)
    assert list(results) == []  # it has ended


KINDS = [
    (FakeBackend, "missing.jpg", ImageError, "missing.jpg"),
    (FakeBackend, solid(3, (4, 4)), SizeError, None),
    (FakeBackend, np.zeros((2, 2), np.float32), ImageError, None),
    (BrokenBackend, solid(3), Broken, None),
    (NotFinite, solid(3), ModelError, None),
    (OnDevice, solid(3), Broken, None),
    (OnDevice, "missing.jpg", ImageError, "missing.jpg"),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch": 4},
    {"flip": True, "scales": (1.0, 1.5)},
    {"mode": "slide", "tile": 32},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("backend", "bad", "error", "source"), KINDS, ids=lambda kind: str(kind)[:9]
)
def test_failures_take_the_place_of_results(
    backend: type[FakeBackend],
    bad: Any,
    error: type[Exception],
    source: str | None,
    options: dict[str, Any],
) -> None:
    if backend is OnDevice and options.keys() - {"batch"}:
        options = {}
    predictor = Predictor(backend(), **options)
    images = [solid(0), solid(1), bad, solid(4), solid(5), bad, bad, solid(6)]
    found = predictor(images, errors="return")
    for results in (found, list(predictor.stream(images, errors="return"))):
        assert [bool(result) for result in results] == [image is not bad for image in images]
        failures = [result for result in results if isinstance(result, Failure)]
        assert len(failures) == 3
        assert labels_of(filter(None, results)) == [0, 1, 4, 5, 6]
        for failure in failures:
            assert type(failure.error) is error
            assert failure.source == source
    with pytest.raises(error):
        predictor(images)


def test_a_failure_says_what_failed() -> None:
    predictor = Predictor(FakeBackend())
    missing, tiny = predictor(["no/such.jpg", solid(0, (4, 4))], errors="return")
    assert repr(missing) == "Failure(no/such.jpg, ImageError: no/such.jpg does not exist)"
    assert repr(tiny).startswith("Failure(SizeError: ")


def test_a_failure_keeps_no_image_in_memory() -> None:
    """Otherwise a long list of images, or one that does not fit, would fill the memory."""
    made: list[weakref.ref[NDArray[np.float32]]] = []

    class Holding(FakeBackend):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            copy = batch.copy()
            made.append(weakref.ref(copy))
            try:
                raise Broken("first")
            except Broken as error:
                raise ModelError("second", "", "") from error

    [failure] = Predictor(Holding())([solid(0)], errors="return")
    assert isinstance(failure, Failure)
    assert isinstance(failure.error.__cause__, Broken)
    gc.collect()
    assert [one() for one in made] == [None]


def test_smoothing_goes_on_after_a_failure() -> None:
    predictor = Predictor(FakeBackend())
    images = [solid(1), solid(3)]
    first, expected = predictor.stream(images, smoothing=0.9)
    again, failure, seen = predictor.stream(
        [images[0], "missing.jpg", images[1]], smoothing=0.9, errors="return"
    )
    assert not failure
    assert labels_of([again, seen]) == labels_of([first, expected])


def test_a_source_that_dies_ends_the_stream() -> None:
    results = Predictor(FakeBackend()).stream(broken_source(), errors="return")
    assert labels_of([next(results) for _ in range(3)]) == [0, 1, 2]
    with pytest.raises(Broken, match="the source"):
        next(results)


@pytest.mark.parametrize("errors", ["ignore", None, True])
def test_bad_choice_of_errors(errors: Any) -> None:
    predictor = Predictor(FakeBackend())
    with pytest.raises(OptionError, match="errors="):
        predictor([], errors=errors)
    with pytest.raises(OptionError, match="errors="):
        predictor.stream([], errors=errors)


def test_the_choices_of_errors_are_named() -> None:
    wrong: Any = "ignore"
    with pytest.raises(OptionError, match="raise or return"):
        Predictor(FakeBackend())([], errors=wrong)


def test_leaving_the_loop_ends_an_endless_source() -> None:
    def endless() -> Iterator[Image]:
        while True:
            yield solid(5)

    for result in Predictor(FakeBackend()).stream(endless()):
        assert result.labels[0, 0] == 5
        break


def waits_for_the_network(thread: int) -> bool:
    """Return whether `thread` waits inside of the package."""
    frame = sys._current_frames()[thread]
    names = [place.f_globals["__name__"] for place, _ in traceback.walk_stack(frame)]
    return names[0] == "threading" and any(name.startswith("alignseg_infer.") for name in names)


def test_ctrl_c_while_the_network_computes() -> None:
    backend = StuckBackend()
    results = Predictor(backend).stream([solid(1)] * 99)

    def interrupted(number: int, frame: FrameType | None) -> None:
        finish.start()
        signal.default_int_handler(number, frame)

    main = threading.get_ident()

    def interrupt() -> None:
        assert eventually(lambda: bool(backend.seen) and waits_for_the_network(main))
        os.kill(os.getpid(), signal.SIGINT)

    # The stream waits for the network to return, which it does well after the signal has come.
    finish = threading.Timer(0.2, backend.go.release, (1000,))
    before = signal.signal(signal.SIGINT, interrupted)  # background jobs ignore it
    killer = threading.Thread(target=interrupt)
    try:
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            next(results)
    finally:
        signal.signal(signal.SIGINT, before)
        killer.join()
    assert list(results) == []
    assert len(backend.seen) == 1


def test_closed_streams_are_empty() -> None:
    with Predictor(FakeBackend()).stream([solid(1)] * 9) as results:
        next(results)
    results.close()
    assert list(results) == []


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 4}, {"flip": True}, {"mode": "slide", "tile": 32}, {"scales": (1.0, 0.8)}],
    ids=str,
)
@pytest.mark.parametrize("live", [False, True])
def test_closing_closes_the_source(options: dict[str, Any], depth: int, live: bool) -> None:
    """A camera is free again as soon as the stream is closed, whatever its source is kept by."""
    closed = threading.Event()

    def camera() -> Iterator[Image]:
        try:
            while True:
                yield solid(1)
        finally:
            closed.set()

    source = camera()
    with Predictor(FakeBackend(), **options).stream(source, depth=depth, live=live) as results:
        next(results)
    assert closed.is_set()


def test_smoothing_by_hand() -> None:
    """Logits of class k are -|blue - k|. With weight 1/2: image 4, then 8, then 8 again."""
    predictor = Predictor(FakeBackend())
    images = [solid(4), solid(8), solid(8), solid(8, LARGE)]
    plain = list(predictor.stream(images))
    assert labels_of(plain) == [4, 8, 8, 8]
    smooth = list(predictor.stream(images, smoothing=0.75, confidence=True))
    # 0.75|4-k| + 0.25|8-k| is least at 4, and 0.5625|4-k| + 0.4375|8-k| as well.
    assert labels_of(smooth) == [4, 4, 4, 8]  # the last has another size
    labels = np.arange(19)
    logits = -(0.75 * abs(4 - labels) + 0.25 * abs(8 - labels))
    expected = np.exp(logits[4]) / np.exp(logits).sum()
    assert smooth[1].confidence is not None
    np.testing.assert_allclose(smooth[1].confidence, np.full(SMALL, expected), rtol=1e-5)


def test_smoothing_leaves_the_network_output_alone() -> None:
    kept: list[NDArray[np.generic]] = []

    class Keeping(FakeBackend):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            kept.append(super().infer(batch))
            return kept[-1]

    list(Predictor(Keeping()).stream([solid(4), solid(8)], smoothing=0.5))
    assert kept[0][0, 4, 0, 0] == kept[1][0, 8, 0, 0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": 1.0}, "smoothing=1.0"),
        ({"smoothing": -0.1}, "smoothing=-0.1"),
        ({"smoothing": "a"}, "smoothing='a'"),
        ({"depth": -1}, "depth=-1"),
        ({"depth": 1.0}, "depth=1.0"),
        ({"images": "street.jpg"}, "images is one str"),
        ({"images": Path("street.jpg")}, "images is one PosixPath"),
        ({"images": solid(1)}, "images is one ndarray"),
        ({"images": 7}, "images is one int"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Predictor(FakeBackend()).stream(**{"images": [], **options})


def test_several_takers() -> None:
    """Each result goes to one of them."""
    results = Predictor(FakeBackend()).stream(solid(n % 19) for n in range(60))
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: labels_of(results), range(4)))
    assert sorted(itertools.chain(*taken)) == sorted(n % 19 for n in range(60))


def test_closed_by_its_own_source() -> None:
    made = threading.Event()

    def source() -> Iterator[Image]:
        yield solid(1)
        assert made.wait(PATIENCE)
        results.close()

    results = Predictor(FakeBackend()).stream(source())
    made.set()
    assert labels_of(results) in ([], [1])


@pytest.mark.parametrize("options", [{"smoothing": 0.5}, {"confidence": True}])
def test_labels_cannot_be_smoothed(options: dict[str, Any]) -> None:
    export = replace(LOGITS, output=OutputKind.LABELS)
    with pytest.raises(OptionError, match="the model returns labels"):
        Predictor(FakeLabelBackend(export)).stream([], **options)


def test_label_models_and_fixed_batches() -> None:
    assert labels_of(Predictor(FakeLabelBackend(LABELS)).stream([solid(3), solid(4)])) == [3, 4]
    backend = backend_with(replace(LOGITS, batch=3))
    assert labels_of(Predictor(backend).stream([solid(n) for n in range(4)])) == [0, 1, 2, 3]
    assert [shape[0] for shape in backend.batches] == [3, 3]


def test_a_circle_of_causes_makes_a_failure() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert Failure.of("a.png", first).error is first
