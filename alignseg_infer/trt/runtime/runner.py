"""One execution context, with its memory and its stream."""

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, InputShape
from alignseg_infer.backend import LabelledBatch
from alignseg_infer.cuda.base import Cuda
from alignseg_infer.cuda.device_images import DeviceImages
from alignseg_infer.cuda.kernels import Kernels
from alignseg_infer.cuda.launches import DeviceTensor
from alignseg_infer.errors import CudaError, EngineError
from alignseg_infer.pixels.network_output import (
    as_promised,
    require_output,
    require_output_shape,
)
from alignseg_infer.spec.forms import (
    graph_input_shape,
    input_axes,
    usual_axes,
    usual_shape,
)
from alignseg_infer.spec.graph_contract import CHANNELS
from alignseg_infer.spec.model import INPUT_NAME, ModelSpec
from alignseg_infer.trt.bindings import (
    ICudaEngine,
    RtxIRuntimeCache,
    Runtime,
)
from alignseg_infer.trt.flavours import (
    TensorRT,
    captures_graphs_itself,
    context_memory,
    new_context,
)
from alignseg_infer.trt.log import ErrorLog
from alignseg_infer.trt.runtime.tensors import CheckedTensors

logger = logging.getLogger(__name__)


@dataclass
class LoadedEngine:
    """Everything that the runners of one engine share.

    Attributes:
        cuda: The GPU.
        tensorrt: The TensorRT that the engine belongs to.
        log: From `log.new_log`.
        runtime: TensorRT's runtime, which must outlive the engine.
        engine: TensorRT's engine.
        cache: From `flavours.new_runtime_cache`.
        tensors: The engine's input and outputs.
        largest: Largest input that the engine takes.
        spec: The model's facts.
    """

    cuda: Cuda
    tensorrt: TensorRT
    log: ErrorLog
    runtime: Runtime
    engine: ICudaEngine
    cache: RtxIRuntimeCache | None
    tensors: CheckedTensors
    largest: InputShape
    spec: ModelSpec

    def release(self) -> None:
        """Let go of TensorRT's objects in the right order. Close all runners first."""
        del self.cache
        del self.engine
        del self.runtime


class EngineRunner:
    """Runs one engine for one caller at a time, on any thread.

    A new runner allocates all memory at once, for the largest input, so that addresses never
    change, as a CUDA graph requires. The second call in a row with one shape captures a graph:
    TensorRT needs an ordinary call after each change of shapes first ("Optimizing TensorRT
    Performance", 11.4). Another shape drops the graph, since a graph is valid only for the shapes
    that it was captured with.

    Args:
        loaded: The engine.

    Raises:
        CudaError: There is not enough memory.
        EngineError: TensorRT cannot make an execution context.
    """

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        self._cuda = loaded.cuda
        self._shape: tuple[int, ...] | None = None
        self._graph: int | None = None
        self._images: DeviceImages | None = None
        self._calls = 0  # with this shape
        self._logits_are_checked = False
        self._captures = self._cuda.can_capture and not captures_graphs_itself(loaded.tensorrt)
        with self._cuda.current(), contextlib.ExitStack() as stack:
            self._stream = self._cuda.new_stream()
            stack.callback(self._cuda.free_stream, self._stream)
            self._memory = stack.enter_context(contextlib.ExitStack())
            context = new_context(loaded.tensorrt, loaded.engine, loaded.cache)
            if context is None:
                raise self._error("make an execution context")
            self._context = context
            del context  # only the runner keeps it alive
            stack.callback(self._drop_context)  # before the memory it points to
            stack.callback(self._drop_graph)
            self._allocate()
            self._stack = stack.pop_all()

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The input shape of the last call."""
        return self._shape

    def inspect(self) -> str:
        """Return the JSON with which TensorRT's inspector describes the engine."""
        inspector = self._loaded.engine.create_engine_inspector()
        json_format = self._loaded.tensorrt.module.LayerInformationFormat.JSON
        return str(inspector.get_engine_information(json_format))

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """Run the engine.

        Args:
            batch: (N, 3, H, W), within the engine's profile, as `backend.Backend.infer` takes it.

        Returns:
            A copy of the output: (N, C, h, w) float32, or labels (N, H, W) uint8 or uint16.

        Raises:
            CudaError, EngineError: The call fails. Do not use this runner again.
        """
        with self._cuda.current():
            if batch.shape != self._shape:
                self._set_shape(batch.shape)
            given = batch.transpose(input_axes(self._loaded.spec))
            np.copyto(self._input, given, casting="same_kind")  # float16, if the engine takes it
            self._cuda.copy_to_device(self._input_address, self._input, self._stream)
            self._execute()
            self._cuda.copy_to_host(self._output, self._output_address, self._stream)
            self._cuda.synchronize(self._stream)
        spec = self._loaded.spec
        output = as_promised(spec, batch.shape, usual_axes(spec, self._output))
        return output.copy() if np.may_share_memory(output, self._output) else output

    def segment(
        self, kernels: Kernels, images: Sequence[Image], shape: tuple[int, ...], confidence: bool
    ) -> LabelledBatch:
        """Prepare images, run the engine, and label their pixels, all on the GPU.

        Args:
            kernels: The kernels on the same GPU.
            images: N or fewer, each (h, w, 3) uint8 BGR.
            shape: The input's shape, (N, 3, H, W), within the engine's profile.
            confidence: Whether to compute the probability of each label too.

        Raises:
            ModelError: The logits are not finite, or are no logits.
            CudaError, EngineError: The call fails. Do not use this runner again.
        """
        with self._cuda.current():
            if shape != self._shape:
                self._set_shape(shape)
            stages = self._ensure_images(kernels)
            sizes = [(image.shape[0], image.shape[1]) for image in images]
            stages.prepare(images, DeviceTensor(self._input_address, shape, self._input.dtype))
            self._execute()
            logits = DeviceTensor(self._output_address, self._output.shape, self._output.dtype)
            stages.label(logits, sizes, confidence)
            self._require_logits(shape)
            self._cuda.synchronize(self._stream)
            return stages.read_results()

    def close(self) -> None:
        """Free everything: graph, execution context, memory, stream. Call it only once."""
        with self._cuda.current():
            with contextlib.suppress(CudaError):  # the call that caused it already reported it
                self._cuda.synchronize(self._stream)
            self._stack.close()

    def _require_logits(self, shape: tuple[int, ...]) -> None:
        """Look at the logits of the first call, which otherwise stay on the GPU.

        Raises:
            ModelFileError: They are no logits.
        """
        if self._logits_are_checked:
            return
        self._cuda.copy_to_host(self._output, self._output_address, self._stream)
        self._cuda.synchronize(self._stream)
        require_output(self._loaded.spec, shape, self._output)
        self._logits_are_checked = True

    def _ensure_images(self, kernels: Kernels) -> DeviceImages:
        """Return the stages around the network; create them in the first call."""
        if self._images is None:
            spec = self._loaded.spec
            self._images = DeviceImages(self._cuda, kernels, spec, self._stream)
            self._memory.callback(self._images.close)
        return self._images

    def _allocate(self) -> None:
        """Allocate memory for the largest input and its outputs."""
        largest = self._loaded.largest
        shape = (largest.batch, CHANNELS, largest.height, largest.width)
        self._set_input_shape(shape)
        tensors = self._loaded.tensors
        size = math.prod(shape) * tensors.input_type.itemsize
        self._input_address, self._pinned_input = (
            self._allocate_on_device(INPUT_NAME, size),
            self._allocate_on_host(size),
        )
        for name in (tensors.output, *tensors.others):
            size = self._context.get_max_output_size(name)
            self._require(size > 0, f"tell the size of the output {name}")
            address = self._allocate_on_device(name, size)
            if name == tensors.output:
                self._output_address, self._pinned_output = address, self._allocate_on_host(size)

    def _allocate_on_device(self, name: str, size: int) -> int:
        address = self._cuda.allocate(size)
        self._memory.callback(self._cuda.free, address)
        given = self._context.set_tensor_address(name, address)
        self._require(given, f"set the address of {name}")
        return address

    def _allocate_on_host(self, size: int) -> NDArray[np.uint8]:
        memory = self._cuda.allocate_pinned(size)
        self._memory.callback(self._cuda.free_pinned, memory)
        return memory

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        self._drop_graph()
        self._set_input_shape(shape)
        tensors = self._loaded.tensors
        spec = self._loaded.spec
        given = graph_input_shape(spec, shape)
        self._input = _view(self._pinned_input, given, tensors.input_type)
        output_shape = tuple(self._context.get_tensor_shape(tensors.output))
        require_output_shape(spec, shape, usual_shape(spec, output_shape))
        self._output = _view(self._pinned_output, output_shape, tensors.output_type)
        self._shape, self._calls = shape, 0

    def _set_input_shape(self, shape: tuple[int, ...]) -> None:
        self._shape = None
        given = graph_input_shape(self._loaded.spec, shape)
        accepted = self._context.set_input_shape(INPUT_NAME, given)
        self._require(accepted, f"take the input shape {shape}")
        try:
            missing: Sequence[str] = self._context.infer_shapes()
        except RuntimeError as error:  # the bindings raise it where the C++ function returns -1
            missing = str(error)
        self._require(not missing, f"infer shapes for the input {shape}; missing: {missing}")

    def _execute(self) -> None:
        if self._captures and self._graph is None and self._calls == 1:
            self._graph = self._capture()
        if self._graph is not None:
            self._cuda.launch_graph(self._graph, self._stream)
        else:
            self._enqueue()
        self._calls += 1

    def _capture(self) -> int | None:
        """Capture a graph of one call. Return None, and never try again, if that fails."""
        self._cuda.begin_capture(self._stream)
        try:
            enqueued = self._context.execute_async_v3(self._stream)
        finally:
            try:
                graph: int | None = self._cuda.end_capture(self._stream)
            except CudaError as error:
                graph, enqueued = None, False
                logger.debug("%s", error)
        if enqueued:
            return graph
        if graph is not None:
            self._cuda.free_graph(graph)
        self._captures = False
        reason = self._loaded.log.take_errors()
        logger.warning("this engine runs without a CUDA graph, a little slower: %s", reason)
        return None

    def _enqueue(self) -> None:
        self._require(self._context.execute_async_v3(self._stream), "start the engine")

    def _drop_graph(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._cuda.free_graph(graph)

    def _drop_context(self) -> None:
        del self._context

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise self._error(what)

    def _error(self, what: str) -> EngineError:
        needed = context_memory(self._loaded.tensorrt, self._loaded.engine) / 2**20
        return EngineError(
            f"TensorRT could not {what}: {self._loaded.log.take_errors()}",
            f"an engine that runs here; {needed:.0f} MiB of GPU memory for its activations",
            "run nvidia-smi to see how much memory is free; call from fewer threads; or build "
            "the engine for smaller inputs: "
            "alignseg export-trt MODEL -o ENGINE --opt-shape NxHxW --max-shape NxHxW",
        )


def _view(
    memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> NDArray[Any]:
    """Return the start of `memory` as an array."""
    size = math.prod(shape) * dtype.itemsize
    return memory[:size].view(dtype).reshape(shape)
