"""Opens the models that verification compares."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Size
from alignseg_infer.backend import Backend
from alignseg_infer.backends import ENGINE_RUNNERS, OnnxRunner, open_backend
from alignseg_infer.backends.engine_order import EngineOrder
from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.files.writing import temporary_folder
from alignseg_infer.spec.model import Precision


class Running(NamedTuple):
    """How the model that is compared runs, as `Predictor` takes it."""

    device: str | None = None
    runtime: str | None = None
    precision: RunPrecision | None = None


def open_exact(path: Path, device: str | None = None) -> Backend:
    """Load a model; expand its plugin nodes, which ONNX Runtime does not have."""
    if path.suffix.lower() != ".onnx" or not needs_plugins(path):
        return open_backend(path, device=device)
    from alignseg_infer.export.graph.plugin_nodes import runnable_onnx

    with runnable_onnx(path) as file:
        backend = open_backend(file, device=device)
    backend.name += ", plugin nodes expanded"
    return backend


def open_as(path: Path, how: Running) -> Backend:
    """Load the model that is compared, in the runtime and precision that are asked for."""
    if how.runtime is None and how.precision is None:
        return open_for_verification(path, how.device)
    engine = None
    if how.runtime in ENGINE_RUNNERS:
        engine = EngineOrder(precision=how.precision)  # type: ignore[arg-type]  # takes strings
    return open_backend(path, engine=engine, **how._asdict())


def open_for_verification(path: Path, device: str | None = None) -> Backend:
    """Load a model for verification: on the CPU, float16 rounds as on a GPU.

    What was made for CPUs has no float16, and runs as it will run for its user.
    """
    backend = open_exact(path, device)
    on_cpu = "CPU" in backend.name
    if not on_cpu or path.suffix.lower() != ".onnx" or precision_of(backend) is Precision.FP32:
        return backend
    if backend.spec.export and backend.spec.export.has_cpu_integers:
        return backend
    # These need the extra `export`, which is not required to verify engines.
    from alignseg_infer.export.graph.onnx_file import load_graph, save_onnx
    from alignseg_infer.export.graph.plugin_nodes import expand_plugin_nodes
    from alignseg_infer.export.half_precision import require_exact_coordinates
    from alignseg_infer.export.verification.half_rounding import round_like_hardware

    graph = load_graph(path)
    require_exact_coordinates(graph)
    graph = expand_plugin_nodes(graph)
    round_like_hardware(graph)
    with temporary_folder() as folder:
        rounding = folder / path.name
        save_onnx(graph, rounding)
        rounded = open_backend(rounding)
    rounded.name = f"{backend.name}, rounding to float16"
    return rounded


class _AtSizes:
    """A model that was opened for any size, and is opened once more for each of some sizes.

    Args:
        of_any: For any size and batch.
        sizes: Sizes at which one image, or a fixed batch, runs in a model that is opened for it.
        open_at: Opens the model for a size. Only the last one stays open.
    """

    def __init__(
        self, of_any: Backend, sizes: Collection[Size], open_at: Callable[[Size], Backend]
    ) -> None:
        self.spec = of_any.spec
        self.name = f"{of_any.name}, compiled for one size for single images"
        self._of_any, self._sizes, self._open_at = of_any, sizes, open_at
        self._batch = (of_any.spec.export and of_any.spec.export.batch) or 1
        self._opened: tuple[Size, Backend] | None = None

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """See `backend.Backend.infer`."""
        count, _, height, width = batch.shape
        size = height, width
        if count != self._batch or size not in self._sizes:
            return self._of_any.infer(batch)
        if self._opened is None or self._opened[0] != size:
            self._opened = None  # before the next takes memory
            self._opened = size, self._open_at(size)
        return self._opened[1].infer(batch)


def open_at_sizes(path: Path, how: Running, of_any: Backend, sizes: Sequence[Size]) -> Backend:
    """Return the model `of_any`, which runs each of `sizes` as a predictor of that size does.

    For one image of one size, OpenVINO compiles another graph of a file that takes any, but not in
    bfloat16. This graph is compared instead of the one for any size.
    """
    fixed = of_any.spec.export and of_any.spec.export.size
    if not sizes or fixed or how.runtime != OnnxRunner.OPENVINO:
        return of_any
    if how.precision is RunPrecision.BF16:
        return of_any
    return _AtSizes(of_any, sizes, lambda size: open_backend(path, size=size, **how._asdict()))


def precision_of(backend: Backend) -> Precision:
    """Return the precision that the model computes in."""
    return backend.spec.export.precision if backend.spec.export else Precision.FP32
