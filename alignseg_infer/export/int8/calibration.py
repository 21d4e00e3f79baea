"""Calibration: measures on images the ranges of the tensors that become integers."""

import contextlib
import hashlib
import json
import logging
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backends.onnxruntime_backend import open_session, run_session
from alignseg_infer.backends.onnxruntime_package import onnxruntime
from alignseg_infer.datasets.image_sets import CalibrationImages
from alignseg_infer.errors import OptionError, OutputError
from alignseg_infer.export.graph.onnx_file import load_graph, save_onnx
from alignseg_infer.export.graph.plugin_nodes import expand_plugin_nodes
from alignseg_infer.export.int8.for_cpus import find_readers
from alignseg_infer.export.int8.histograms import BINS, Histogram, Ranges
from alignseg_infer.export.int8.options import CalibrationOptions
from alignseg_infer.files.caches import CALIBRATIONS, kept_path
from alignseg_infer.files.writing import temporary_folder, write_atomically
from alignseg_infer.pixels.preprocess import preprocess, size_policy
from alignseg_infer.progress import Progress
from alignseg_infer.spec.model import INPUT_NAME, ModelSpec, Target
from alignseg_infer.spec.onnx_facts import OnnxFacts, read_onnx_facts
from alignseg_infer.version import __version__

CACHE_VERSION = 3
# What reading another file, or a damaged one, raises; RuntimeError: an encrypted archive.
_NO_CACHE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, MemoryError),
    *(ArithmeticError, RuntimeError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error),
)

Tensors: TypeAlias = list[NDArray[np.float32]]

logger = logging.getLogger(__name__)


@dataclass
class _Seen:
    """The values seen so far.

    Attributes:
        key: Identifies model, images and size.
        images: How many images have been counted.
        histograms: The histogram of each tensor, by name.
    """

    key: str
    images: int = 0
    histograms: dict[str, Histogram] = field(default_factory=dict)


def calibrate_ranges(
    model: Path,
    images: CalibrationImages,
    options: CalibrationOptions | None = None,
    progress: Progress | None = None,
    facts: OnnxFacts | None = None,
    *,
    target: Target = Target.TENSORRT,
) -> Ranges:
    """Measure the ranges of all tensors that become integers: for TensorRT, what convolutions read.

    Only one image is in memory at a time, or one batch if the model has a fixed batch. A cache
    keeps what was measured: an interrupted run continues where it stopped, with the same result,
    and a finished run is not repeated. It holds histograms, so another method needs no new run
    either. It is a file that the options name, or else one in the folder of `cache_folder`, which
    a run does without if the folder cannot be written to.

    Args:
        model: An exported FP32 ``.onnx``.
        images: From `choose_images`.
        options: How to calibrate.
        progress: Called after each image with the number of images counted and their total.
        facts: Facts of `model`, if they were read already.
        target: Which hardware the ranges are for.

    Raises:
        ModelError: The model cannot be used, or computes values that are not finite.
        OptionError, SizeError: The size does not fit the model, or the cache belongs to another
            run or is some other file.
        OutputError: The cache cannot be written.
    """
    options = options or CalibrationOptions()
    facts = facts or read_onnx_facts(model)
    total = len(images.digests)
    key = _make_key(facts, images, options.size, target)
    named, kept = options.cache, kept_path(CALIBRATIONS, key)
    seen = _find_kept(kept, key) if named is None else _load_cache(named, key)
    cache = _Cache(kept, must=False) if named is None else _Cache(named, must=True)
    if seen.images < total:
        _count_images(
            *(model, facts.spec, images, options, seen),
            target=target,
            cache=cache,
            progress=progress,
        )
    limits = {name: histo.limit(options.method) for name, histo in seen.histograms.items()}
    bounds = {name: histo.bounds(options.method) for name, histo in seen.histograms.items()}
    return Ranges(options.method, total, limits, bounds)


def _make_key(model: OnnxFacts, images: CalibrationImages, size: object, target: Target) -> str:
    """Return what identifies a run: a digest of all that affects its histograms."""
    facts = [CACHE_VERSION, __version__, model.sha256, list(images.digests), size, target]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _count_images(
    model: Path,
    spec: ModelSpec,
    images: CalibrationImages,
    options: CalibrationOptions,
    seen: _Seen,
    *,
    target: Target,
    cache: "_Cache",
    progress: Progress | None,
) -> None:
    """Count the images that `seen` lacks."""
    session, names = _open_observed(model, options.threads, target)
    # A tool may have given a float32 network a float16 input.
    kind = "float16" if session.get_inputs()[0].type == "tensor(float16)" else "float32"
    logger.info("calibrating with %s", images.name)
    for tensors in _make_batches(images.read(seen.images), spec, options.size):
        batch = _fill_batch(tensors, spec)
        given = batch.astype(kind, copy=False)
        outputs = run_session(session, names, given) if names else []
        for name, values in [(INPUT_NAME, batch), *zip(names, outputs, strict=True)]:
            one = Histogram.of(values[: len(tensors)])
            known = seen.histograms.get(name)
            seen.histograms[name] = one if known is None else known + one
        seen.images += len(tensors)
        cache.write(seen)
        if progress:
            progress(seen.images, len(images.digests))


def _open_observed(
    model: Path, threads: int | None, target: Target
) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """Open the model with all that becomes integers, but the input, as outputs; name them."""
    observing = expand_plugin_nodes(load_graph(model))
    graph = observing.graph
    convs = [node for node in graph if node.op_type == "Conv"]
    measured = dict.fromkeys(node.inputs[0] for node in convs)
    if target is Target.CPU:
        measured |= dict.fromkeys(find_readers(graph, convs))
    observed = [value for value in measured if value is not None and value.producer() is not None]
    graph.outputs.extend(value for value in observed if value not in graph.outputs)
    with temporary_folder() as folder:  # from memory, it loads no weights above 2 GiB
        path = folder / model.name
        save_onnx(observing, path)
        session = open_session(path, threads)
    return session, [str(value.name) for value in observed]


def _make_batches(
    images: Iterable[Image], spec: ModelSpec, size: str | int | Size | None
) -> Iterator[Tensors]:
    """Yield lists of network inputs, each (1, 3, H, W): up to the model's fixed batch, else one."""
    policy = size_policy(size, spec.export, "calibration_size")
    most = (spec.export and spec.export.batch) or 1
    waiting: Tensors = []
    for image in images:
        input_size = policy.input_size((image.shape[0], image.shape[1]))
        tensor = preprocess(image, input_size, spec.input)
        if waiting and (len(waiting) == most or waiting[0].shape != tensor.shape):
            yield waiting
            waiting = []
        waiting.append(tensor)
    if waiting:
        yield waiting


def _fill_batch(tensors: Tensors, spec: ModelSpec) -> NDArray[np.float32]:
    """Return one batch (N, 3, H, W), filled up with copies that are not counted."""
    missing = ((spec.export and spec.export.batch) or 1) - len(tensors)
    return np.concatenate(tensors + tensors[-1:] * missing)


def _find_kept(cache: Path, key: str) -> _Seen:
    """Return what a file in the cache folder holds; nothing seen if it is missing or damaged."""
    try:
        seen = _read_cache(cache)
    except _NO_CACHE:
        return _Seen(key)
    if seen.key != key:
        return _Seen(key)
    with contextlib.suppress(OSError):  # it may belong to somebody else
        os.utime(cache)
    logger.info("%d images were calibrated before", seen.images)
    return seen


def _load_cache(cache: Path, key: str) -> _Seen:
    """Return what a file that the user named holds for `key`; nothing seen if there is none yet.

    Raises:
        OptionError: The file is not a cache, or belongs to another run; it is not overwritten.
    """
    try:
        if not cache.exists():
            return _Seen(key)
        seen = _read_cache(cache)
    except _NO_CACHE as error:
        raise OptionError(
            f"{cache} is not a calibration cache: {error!r}",
            "a file that a calibration wrote, or one that does not exist yet",
            f"calibration_cache={cache.with_suffix('.calibration')}, or remove that file",
        ) from error
    if seen.key != key:
        raise OptionError(
            f"{cache} holds {seen.images} images calibrated with another model, images, size "
            "or target",
            "the cache of this model, images, size and target; this file is not overwritten",
            f"calibration_cache={cache.with_name('another-' + cache.name)}, or remove that file",
        )
    logger.info("%s holds %d calibrated images", cache, seen.images)
    return seen


def _read_cache(cache: Path) -> _Seen:
    if cache.is_fifo():  # which nobody may ever write to
        raise ValueError("it is a pipe")
    with np.load(cache, allow_pickle=False) as stored:
        names, counts, powers, lowest, highest = (
            stored[part] for part in ("names", "counts", "powers", "lowest", "highest")
        )
        key, images = str(stored["key"]), int(stored["images"])
    if counts.shape != (len(names), BINS) or counts.dtype != np.int64 or images < 0:
        raise ValueError(f"{images} images, counts of shape {counts.shape} and type {counts.dtype}")
    histograms = {
        str(name): Histogram(count, int(power), float(least), float(most))
        for name, count, power, least, most in zip(
            *(names, counts, powers, lowest, highest), strict=True
        )
    }
    return _Seen(key, images, histograms)


class _Cache:
    """Where a run is kept.

    Args:
        path: The file.
        must: Whether it is an error if the file cannot be written.
    """

    def __init__(self, path: Path, *, must: bool) -> None:
        self._path: Path | None = path
        self._must = must

    def write(self, seen: _Seen) -> None:
        """Write what was seen so far.

        Raises:
            OutputError: The file must be written, but cannot be.
        """
        if self._path is None:
            return
        try:
            _write_cache(self._path, seen)
        except OutputError as error:
            if self._must:
                raise
            logger.warning("this calibration is not kept for later runs: %s", error.problem)
            self._path = None


def _write_cache(cache: Path, seen: _Seen) -> None:
    histograms = list(seen.histograms.values())
    with write_atomically(cache) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            key=np.array(seen.key),
            images=np.array(seen.images),
            names=np.array(list(seen.histograms)),
            counts=np.stack([histogram.counts for histogram in histograms]),
            powers=np.array([histogram.power for histogram in histograms]),
            lowest=np.array([histogram.lowest for histogram in histograms]),
            highest=np.array([histogram.highest for histogram in histograms]),
        )
