"""Measuring models in turns, after a warm-up, with a rest before each call."""

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import NamedTuple, TypeVar

import numpy as np

from alignseg_infer.arrays import Size
from alignseg_infer.benchmark.report import BenchmarkReport, Floats64, Measured, WarmUp
from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.images import ImageSource
from alignseg_infer.predictor import Predictor
from alignseg_infer.progress import Progress

T = TypeVar("T")

DEFAULT_ROUNDS = 100  # the fewest rounds that have a 99th percentile
DEFAULT_WARM_UP = 10
LEAST_ROUNDS = 5  # no matter how short the time limit is
WARM_UP_SHARE = 1 / 3  # of the time limit, which warm-up may take on top; at least two rounds
SETTLED = 1.1  # the last two calls of a model may take this times as long as its fastest call
# ONNX Runtime's threads spin for about 30 ms of processor time after a call; those of PyTorch and
# OpenVINO spin for longer. Two sessions of the demo model at 128x256 that alternated without a
# pause, on two cores, were each 1.35 times as slow as alone (median of 40 rounds).
REST_SLICE = 0.02  # s
REST_SHARE = 0.05  # of a slice; if less processor time is used, the threads sleep
REST_LIMIT = 0.5  # s


class Variant(NamedTuple):
    """A model to measure; each call gets as many images as its batch size.

    Attributes:
        name: Name of the model. Variants with other batch sizes share it.
        predictor: The predictor that runs it.
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
    """Time all variants once per round, in a new random order for each round.

    Rounds are not counted until the times have settled. Before each call, the threads of the
    previous call come to rest. Python's garbage collector runs only between rounds. Ctrl-C ends the
    benchmark early: the complete rounds until then are returned, marked as partial.

    Args:
        variants: What to measure. The other variants are compared with the first.
        images: Paths, to include decoding in the times, or arrays. Call k takes the images from
            number k on, as many as the variant's batch size, and starts again after the last.
        rounds: How many rounds to count.
        seconds: Stop after this many seconds, but count at least five rounds. The warm-up is extra;
            it stops after a third of this time.
        warm_up: Largest number of rounds that are not counted.
        seed: Seed of the random orders.
        settings: Anything to keep with the result. Its values are written to JSON.
        progress: Called after each round with the number of rounds counted and the expected total.

    Raises:
        MissingDependencyError: A package that describes the machine is not installed.
        OptionError: There are no variants or no images, two variants have the same name and batch
            size, or a number is out of range.
        AlignSegError: A predictor fails.
        KeyboardInterrupt: Ctrl-C was pressed before the first counted round was complete.
    """
    from alignseg_infer.benchmark.watch import MachineWatch

    _require_usable(variants, images, rounds, seconds, warm_up)
    calls = [_TimedCall(variant.predictor, images) for variant in variants]
    turns = interleave(calls, seed)
    counted: list[list[Floats64]] = []
    interrupted = False
    with _pause_garbage_collection():
        try:
            warmed_up = _warm_up(turns, warm_up, seconds)
            watch = MachineWatch()
            for row in _take_counted(turns, rounds, seconds, progress):
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


def interleave(calls: Sequence[Callable[[], T]], seed: int = 0) -> Iterator[list[T]]:
    """Call all of `calls` once per round, in a new random order for each round, endlessly.

    If something slows the machine for a while, it thus affects all of them alike, and none of them
    always follows the same other one.

    Args:
        calls: Functions, called without arguments.
        seed: Seed of the random orders.

    Yields:
        For each round, what the calls returned, in the order of `calls`.
    """
    for number in itertools.count():
        order = np.random.default_rng([seed, number]).permutation(len(calls))
        found = {index: calls[index]() for index in order.tolist()}
        yield [found[index] for index in range(len(calls))]


def come_to_rest() -> None:
    """Wait until the threads of this process have stopped working, for at most half a second."""
    for _ in range(round(REST_LIMIT / REST_SLICE)):
        spent = time.process_time()
        time.sleep(REST_SLICE)
        if time.process_time() - spent < REST_SHARE * REST_SLICE:
            return


class _TimedCall:
    """Calls a predictor with the next images and returns ms per image in the order of `Stage`."""

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
        stages = np.mean([astuple(result.times) for result in results], axis=0)  # (4,)
        return np.append(stages, milliseconds / len(results))  # (5,)


@contextlib.contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _warm_up(turns: Iterator[list[Floats64]], most: int, seconds: float | None) -> WarmUp:
    """Run rounds until the last two calls of every variant are close to its fastest."""
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


def _take_counted(
    turns: Iterator[list[Floats64]], rounds: int, seconds: float | None, progress: Progress | None
) -> Iterator[list[Floats64]]:
    """Yield the rounds that count, until there are enough or the time is over."""
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
            f"rounds={rounds}, warm_up={warm_up}, seconds={seconds}",
            "at least 1 round, 0 or more rounds of warm-up, and more than 0 seconds or None",
            f"rounds={DEFAULT_ROUNDS} seconds=120",
        )
    names = [(variant.name, variant.predictor.batch) for variant in variants]
    if not names or not images or len(set(names)) < len(names):
        listed = ", ".join(f"{name} (batch {batch})" for name, batch in names)
        raise OptionError(
            f"the variants are {listed or 'none'}, with {len(images)} images",
            "at least one variant, no two with the same name and batch, and at least one image",
            "benchmark([Variant('mine', Predictor('alignseg.onnx'))], ['street.jpg'])",
        )
