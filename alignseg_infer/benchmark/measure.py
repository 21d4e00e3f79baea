"""The measuring: models in turns, warm-up, rest between calls."""

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from alignseg_infer.benchmark.machine import MachineWatch
from alignseg_infer.benchmark.report import BenchmarkReport, Floats64, Measured, WarmUp
from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.images import ImageSource
from alignseg_infer.pixels.preprocess import Size
from alignseg_infer.predictor import Predictor

T = TypeVar("T")
Progress: TypeAlias = Callable[[int, int], None]

DEFAULT_ROUNDS = 100  # the fewest that have a 99th percentile
DEFAULT_WARM_UP = 10
LEAST_ROUNDS = 5  # whatever the time limit
WARM_UP_SHARE = 1 / 3  # of the time limit, which warm-up may take beside it; two rounds in any case
SETTLED = 1.1  # times the fastest call of a model: what its last two calls may take
# ONNX Runtime's threads spin for some 30 ms of processor time after a call, PyTorch's and
# OpenVINO's for longer. Alternating two sessions of the demo model at 128x256 without a pause, on
# two cores, made both 1.35 times as slow (median of 40 rounds) as each is alone.
REST_SLICE = 0.02  # s
REST_SHARE = 0.05  # of a slice: below, the threads sleep
REST_LIMIT = 0.5  # s


class Variant(NamedTuple):
    """What is measured: a model, called with as many images as its batch.

    Attributes:
        name: The model; the same for its variants of other batches.
        predictor: Runs it.
    """

    name: str
    predictor: Predictor


def benchmark(
    variants: Sequence[Variant],
    images: Sequence[ImageSource],
    *,
    rounds: int = DEFAULT_ROUNDS,
    seconds: float | None = None,
    warm_up: int = DEFAULT_WARM_UP,
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Times all variants, each once per round, in an order drawn anew for each round.

    Rounds before the times settle are not counted. Before each call the threads of the call before
    come to rest. Python's garbage collector runs between rounds only. An interrupt (Ctrl-C) ends
    it early: whole rounds until then are returned, marked as partial.

    Args:
        variants: The first one is what the others are set against.
        images: Paths, to have decoding in it; or arrays. Call k takes those from number k on, as
            many as the variant's batch, from the start again after the last.
        rounds: How many to count.
        seconds: Ends after the round in which so much time is over, but not before the fifth.
            Warm-up, which is not in it, ends after a third of that.
        warm_up: Rounds that are not counted, at most.
        seed: Of the orders.
        settings: Anything to keep with the result; values go into JSON.
        progress: Called with the number of rounds counted and their expected total after each.

    Raises:
        OptionError: There are no variants or images, or two variants of one name and batch; or a
            number makes no sense.
        AlignSegError: A predictor fails.
        KeyboardInterrupt: Before the end of the first round that counts.
    """
    _require_usable(variants, images, rounds, seconds, warm_up)
    calls = [_TimedCall(variant.predictor, images) for variant in variants]
    turns = interleaved(calls, seed)
    counted: list[list[Floats64]] = []
    interrupted = False
    with _collection_between_rounds():
        try:
            warmed_up = _warmed_up(turns, warm_up, seconds)
            watch = MachineWatch()
            for row in _limited(turns, rounds, seconds, progress):
                counted.append(row)
        except KeyboardInterrupt:
            if not counted:
                raise
            interrupted = True
    machine = watch.facts()
    return BenchmarkReport(
        measured=tuple(
            Measured(
                name=variant.name,
                batch=variant.predictor.batch,
                backend=variant.predictor.backend,
                input_size=call.input_size,
                calls=np.array([row[index] for row in counted]),
            )
            for index, (variant, call) in enumerate(zip(variants, calls, strict=True))
        ),
        machine=machine,
        images=len(images),
        warm_up=warmed_up,
        partial=interrupted,
        settings=settings or {},
    )


def interleaved(calls: Sequence[Callable[[], T]], seed: int = 0) -> Iterator[list[T]]:
    """Calls all of `calls` once per round, each round in an order of its own, without an end.

    So what slows the machine for a while hits all of them alike, and none always follows the same.

    Args:
        calls: Called without arguments.
        seed: Of the orders.

    Yields:
        For each round what the calls returned, in the order of `calls`.
    """
    for number in itertools.count():
        order = np.random.default_rng([seed, number]).permutation(len(calls))
        found = {index: calls[index]() for index in order.tolist()}
        yield [found[index] for index in range(len(calls))]


def come_to_rest() -> None:
    """Waits until this process has stopped working, for half a second at most."""
    for _ in range(round(REST_LIMIT / REST_SLICE)):
        spent = time.process_time()
        time.sleep(REST_SLICE)
        if time.process_time() - spent < REST_SHARE * REST_SLICE:
            return


class _TimedCall:
    """Calls a predictor with the next images; gives ms per image in the order of `Stage`."""

    input_size: Size = (0, 0)  # until the first call

    def __init__(self, predictor: Predictor, images: Sequence[ImageSource]) -> None:
        self._predictor = predictor
        endless = (images[number % len(images)] for number in itertools.count())
        self._window = [next(endless) for _ in range(predictor.batch)]
        self._next = endless

    def __call__(self) -> Floats64:
        come_to_rest()
        start = time.perf_counter()
        results = self._predictor(self._window)
        milliseconds = 1e3 * (time.perf_counter() - start)
        self.input_size = results[0].input_size
        self._window = [*self._window[1:], next(self._next)]
        stages = np.mean([astuple(result.times) for result in results], axis=0)
        return np.append(stages, milliseconds / len(results))


@contextlib.contextmanager
def _collection_between_rounds() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _warmed_up(turns: Iterator[list[Floats64]], most: int, seconds: float | None) -> WarmUp:
    """Takes rounds until the last two of every variant are close to its fastest."""
    ends: list[list[float]] = []
    start = time.perf_counter()
    for row in itertools.islice(turns, most):
        ends.append([float(stages[-1]) for stages in row])
        times = np.array(ends)
        if len(ends) > 2 and (times[-2:] <= SETTLED * times.min(axis=0)).all():
            return WarmUp(len(ends), settled=True)
        spent = time.perf_counter() - start
        if seconds is not None and len(ends) > 1 and spent > WARM_UP_SHARE * seconds:
            break
    return WarmUp(len(ends), settled=False)


def _limited(
    turns: Iterator[list[Floats64]], rounds: int, seconds: float | None, progress: Progress | None
) -> Iterator[list[Floats64]]:
    """The rounds that count."""
    start = time.perf_counter()
    for done, row in enumerate(itertools.islice(turns, rounds), 1):
        yield row
        gc.collect()
        total, spent = rounds, time.perf_counter() - start
        if seconds is not None and spent > 0:
            total = min(rounds, max(done, LEAST_ROUNDS, math.ceil(done * seconds / spent)))
        if progress:
            progress(done, total)
        if seconds is not None and spent >= seconds and done >= LEAST_ROUNDS:
            return


def _require_usable(
    variants: Sequence[Variant],
    images: Sequence[ImageSource],
    rounds: int,
    seconds: float | None,
    warm_up: int,
) -> None:
    if rounds < 1 or warm_up < 0 or not (seconds is None or 0 < seconds < math.inf):
        raise OptionError(
            f"{rounds} rounds, {warm_up} before them, {seconds} seconds",
            "1 round or more, 0 or more before them, and more than 0 seconds, or no limit",
            f"rounds={DEFAULT_ROUNDS} seconds=120",
        )
    names = [(variant.name, variant.predictor.batch) for variant in variants]
    if not names or not images or len(set(names)) < len(names):
        listed = ", ".join(f"{name} (batch {batch})" for name, batch in names)
        raise OptionError(
            f"variants {listed or 'none'}; {len(images)} images",
            "one variant or more, each with a name or batch of its own, and one image or more",
            "benchmark([Variant('mine', Predictor('alignseg.onnx'))], ['street.jpg'])",
        )
