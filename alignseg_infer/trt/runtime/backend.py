"""Runs the engines that export/to_trt.py builds, in TensorRT or TensorRT-RTX.

Calls follow TensorRT's Python API reference (Runtime, ICudaEngine, IExecutionContext; 10.0 to 11.4)
and the bindings of TensorRT-RTX 1.7.
"""

import contextlib
import hashlib
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, InputShape, Size
from alignseg_infer.backend import LabelledBatch, OwnProcess, keep_in_forks, parse_device
from alignseg_infer.backports import Self
from alignseg_infer.cuda.base import Cuda, CudaPackage
from alignseg_infer.cuda.device_images import require_right_results
from alignseg_infer.cuda.kernels import IMAGE_KERNELS, Kernels
from alignseg_infer.cuda.opening import open_cuda
from alignseg_infer.errors import EngineError, ImageError, OptionError, SizeError
from alignseg_infer.spec.forms import has_plain_form
from alignseg_infer.spec.graph_contract import CHANNELS
from alignseg_infer.trt.engine_file import EngineFacts, LayerCount, Profile, read_facts
from alignseg_infer.trt.flavours import TensorRT, load_tensorrt, new_runtime_cache
from alignseg_infer.trt.runtime.checks import (
    require_gpu,
    require_unchanged_plan,
    require_version,
)
from alignseg_infer.trt.runtime.deserializing import deserialize
from alignseg_infer.trt.runtime.inspector import layers_from_json
from alignseg_infer.trt.runtime.runner import EngineRunner, LoadedEngine
from alignseg_infer.trt.runtime.runner_pool import RunnerPool
from alignseg_infer.trt.runtime.runtime_cache import cache_path, read_cache, write_cache
from alignseg_infer.trt.runtime.tensors import (
    check_tensors,
    list_tensors,
    read_profile,
    require_profile,
)

DEFAULT_CONTEXTS = 4


class TensorRTBackend:
    """An engine in TensorRT. Close it, or use it in a ``with`` block, to free the GPU's memory.

    Args:
        path: A plan file with its facts, ``<path>.json``, beside it.
        device: ``cuda``, ``cuda:N``, or ``auto``, which means ``cuda`` too.
        cuda: Python package to call CUDA through: ``auto``, ``cuda-python`` or ``pycuda``.
        contexts: The most calls that run at the same time; further threads wait. Each call has its
            own activations and buffers, which are allocated when they are first needed.
        plugin: Library of TensorRT plugins, for an engine that needs plugins and does not contain
            them; None for ``$ALIGNSEG_PLUGIN``, or else the library built in a checkout.
        trust_changed_plan: Whether to load a plan file that changed since its facts were written.
            A plan can contain code that runs on this machine.
        is_cached: Whether it is an engine of the cache, which was built for a predictor, so that
            errors say what to change in the predictor.

    Attributes:
        spec: The model's facts. Its export gives the size and batch if the engine takes only one.
        name: E.g. ``tensorrt 11.4.0.106 (NVIDIA L4)``.
        facts: The facts in the engine's JSON file.
        batch_limits: Smallest and largest batch that the engine takes.

    Raises:
        EngineError: The engine cannot be used here.
        DeviceError: There is no driver, or no GPU with this number.
        MissingDependencyError: TensorRT or a CUDA package is not installed.
        OptionError: An argument makes no sense.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cuda",
        cuda: str = CudaPackage.AUTO,
        contexts: int = DEFAULT_CONTEXTS,
        plugin: Path | None = None,
        trust_changed_plan: bool = False,
        is_cached: bool = False,
    ) -> None:
        index = parse_gpu(device)
        if type(contexts) is not int or contexts < 1:
            raise OptionError(f"contexts={contexts!r}", "1 or more", f"contexts={DEFAULT_CONTEXTS}")
        self.facts, self._is_cached = read_facts(path), is_cached
        plan = path.read_bytes()  # read once, so that the checked bytes are the loaded ones
        if not trust_changed_plan:
            require_unchanged_plan(path, self.facts, hashlib.sha256(plan).hexdigest())
        tensorrt = load_tensorrt(self.facts.flavour)
        require_version(path, self.facts, tensorrt)
        with contextlib.ExitStack() as stack:
            gpu = open_cuda(index, cuda)
            stack.callback(gpu.close)
            require_gpu(path, self.facts, gpu.gpu)
            with gpu.current():
                loaded = _load(path, plan, self.facts, tensorrt, gpu, plugin=plugin)
            del plan
            self._gpu, self._kernels = gpu, Kernels(gpu)
            self._kernels_lock, self._kernels_are_right = threading.Lock(), False
            stack.callback(self._kernels.close)
            self._pool = RunnerPool(lambda: EngineRunner(loaded), contexts)
            stack.callback(_close, self._pool, loaded, path)
            with self._pool.borrow(()):
                pass  # make the first one now, so that too little memory shows before any call
            # Without close(), this runs when the backend is garbage collected or Python ends.
            self._finalizer = weakref.finalize(self, _close_in, OwnProcess(), stack.pop_all())
        keep_in_forks(self)
        self.spec = self.facts.fixed_spec
        self.name = f"{tensorrt.flavour} {tensorrt.version_text} ({gpu.gpu.name})"
        self.batch_limits = (self.facts.profile.minimum.batch, self.facts.profile.maximum.batch)

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """See `backend.Backend.infer`.

        Raises:
            SizeError: The engine was not built for this shape.
            CudaError: The GPU fails, or does not have enough memory left.
            EngineError: TensorRT fails, or the backend was closed.
        """
        require_in_profile(batch.shape, self.facts.profile, is_cached=self._is_cached)
        with self._pool.borrow(batch.shape) as runner:
            return runner.infer(batch)

    def load_kernels(self) -> None:
        """See `backend.ImageBackend.load_kernels`."""
        if not has_plain_form(self.spec):
            raise OptionError(
                "the engine returns or takes something else than logits and float32 images",
                "an engine that returns logits, which the GPU can turn into labels of any size",
                "leave on_device out",
            )
        with self._kernels_lock:
            if not self._kernels_are_right:
                self._kernels.load(*IMAGE_KERNELS)
                require_right_results(self._gpu, self._kernels, self.spec)
                self._kernels_are_right = True

    def segment(
        self, images: Sequence[Image], input_size: Size, *, confidence: bool
    ) -> LabelledBatch:
        """See `backend.ImageBackend.segment`.

        Raises:
            EngineError: TensorRT fails, or the backend was closed.
        """
        shape = (max(len(images), self.batch_limits[0]), CHANNELS, *input_size)
        require_in_profile(shape, self.facts.profile, is_cached=self._is_cached)
        with self._pool.borrow(shape) as runner:
            return runner.segment(self._kernels, images, shape, confidence)

    def layers(self) -> tuple[LayerCount, ...]:
        """Return the layers of the built engine, counted by kind and type.

        Raises:
            EngineError: TensorRT does not describe the layers, or the backend was closed.
        """
        with self._pool.borrow(()) as runner:
            return layers_from_json(runner.inspect())

    def close(self) -> None:
        """Wait for running calls to end, and free everything. A second call does nothing.

        Raises:
            CudaError: The GPU failed in the meantime.
        """
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _load(
    path: Path,
    plan: bytes,
    facts: EngineFacts,
    tensorrt: TensorRT,
    cuda: Cuda,
    *,
    plugin: Path | None,
) -> LoadedEngine:
    """Deserialise the engine, and compare it with its facts."""
    has_code = facts.version_compatible or facts.plugins_embedded
    needed = () if facts.plugins_embedded else facts.plugins
    log, runtime, engine = deserialize(
        path, plan, tensorrt, has_code=has_code, plugins=needed, library=plugin
    )
    try:
        tensors = check_tensors(path, facts.spec, list_tensors(engine))
        require_profile(path, facts.profile, read_profile(engine, facts.spec))
    except EngineError:
        del engine, runtime  # the traceback would keep them alive longer than the CUDA context
        raise
    cache = new_runtime_cache(tensorrt, engine)
    if cache is not None:
        read_cache(cache_path(path), cache)
    largest = facts.profile.maximum
    return LoadedEngine(cuda, tensorrt, log, runtime, engine, cache, tensors, largest, facts.spec)


def _close_in(process: OwnProcess, stack: contextlib.ExitStack) -> None:
    """Close `stack`, unless this process was forked: the GPU's memory belongs to its parent."""
    if process.is_this():
        stack.close()


def _close(pool: RunnerPool, loaded: LoadedEngine, path: Path) -> None:
    """Free the execution contexts, then the engine. The caller releases the CUDA context later."""
    # The stack runs in reverse order. A step that fails does not keep the others from running.
    with contextlib.ExitStack() as stack:
        stack.enter_context(loaded.cuda.current())
        stack.callback(loaded.release)
        if loaded.cache is not None:
            stack.callback(write_cache, cache_path(path), loaded.cache)
        stack.callback(pool.close)


def parse_gpu(device: str) -> int:
    """Return the number of the GPU; raise OptionError for the CPU."""
    kind, index = parse_device(device)
    if kind == "cpu":
        raise OptionError(
            f"device={device!r} was asked for, but TensorRT engines run on a GPU only",
            'device="cuda" or "cuda:N"; an engine without a device runs on cuda',
            "run the .onnx model on the CPU, or leave device= out",
        )
    return index


def require_in_profile(
    shape: tuple[int, ...], profile: Profile, *, is_cached: bool = False
) -> None:
    """Raise SizeError unless the engine was built for inputs of `shape`, (N, 3, H, W).

    Args:
        shape: The shape.
        profile: What the engine was built for.
        is_cached: Whether a predictor had it built, so that the error says how it gets another.

    Raises:
        ImageError: The shape is not (N, 3, H, W).
        SizeError: A dimension is below the profile's minimum or above its maximum.
    """
    if len(shape) != 4 or shape[1] != CHANNELS:
        raise ImageError(f"a batch of shape {shape}", "(N, 3, H, W) float32", "see Backend.infer")
    seen = InputShape(shape[0], *shape[2:])
    if seen in profile:
        return
    low, high = profile.minimum, profile.maximum
    size = f"size=({high.height}, {high.width})"
    raise SizeError(
        f"the engine's input would be {seen} (batch x height x width)",
        f"{low} to {high}, the range that it was built for",
        f"{size} and batch={high.batch} or less, or {_advise_more(profile, seen, is_cached)}",
    )


def _advise_more(profile: Profile, seen: InputShape, is_cached: bool) -> str:
    """Return how to get an engine that also takes inputs of the shape `seen`."""
    least, most = _least(profile.minimum, seen), _most(profile.maximum, seen)
    if is_cached:
        shapes = {"opt": profile.optimum, "min": least, "max": most}
        asked = " ".join(f"{name}_shape={_numbers(shape)}" for name, shape in shapes.items())
        return f"ask for an engine that takes more: {asked}"
    return (
        f"build it for more: alignseg export-trt MODEL -o ENGINE --opt-shape {profile.optimum} "
        f"--min-shape {least} --max-shape {most}"
    )


def _least(one: InputShape, other: InputShape) -> InputShape:
    return InputShape(*map(min, _numbers(one), _numbers(other)))


def _most(one: InputShape, other: InputShape) -> InputShape:
    return InputShape(*map(max, _numbers(one), _numbers(other)))


def _numbers(shape: InputShape) -> tuple[int, int, int]:
    return shape.batch, shape.height, shape.width
