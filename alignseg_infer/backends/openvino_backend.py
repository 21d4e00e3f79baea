"""Runs ``.onnx`` files on the CPU in OpenVINO. The figures here are from OpenVINO 2026.4.1."""

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Size
from alignseg_infer.backend import is_about_memory, parse_device, run_error, too_large
from alignseg_infer.backends.bfloat16 import keep_check, require_agreement, was_checked
from alignseg_infer.backends.onnx_backend import OnnxBackend, not_loaded, require_runnable
from alignseg_infer.backends.onnx_domains import read_opsets
from alignseg_infer.backends.openvino_cache import (
    CompiledFile,
    Graph,
    find_compiled,
    keep_compiled,
    key_of,
    machine_facts,
)
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.backends.telemetry import without_openvino_telemetry
from alignseg_infer.errors import (
    INSTALL_OPENVINO,
    DeviceError,
    MissingDependencyError,
    ModelFileError,
    OptionError,
)
from alignseg_infer.spec.forms import graph_input_shape, image_shape, usual_axes
from alignseg_infer.spec.graph_contract import CHANNELS, GraphTensor
from alignseg_infer.spec.model import (
    INPUT_NAME,
    OPSETS,
    ExportSpec,
    ModelSpec,
    Precision,
    Sampler,
    Upsampling,
)

try:
    with without_openvino_telemetry():
        import openvino

    from alignseg_infer.backends.openvino_sampling import sample_whole_pixels
except ImportError as error:
    raise MissingDependencyError(
        "runtime='openvino' was asked for, but OpenVINO is not installed",
        "the package openvino",
        f"{INSTALL_OPENVINO}, or leave runtime= out",
    ) from error

logger = logging.getLogger(__name__)

RUNTIME = "OpenVINO"
_CPU = "CPU"
_METADATA = "framework"  # where OpenVINO keeps the metadata of an ONNX file
_TYPES = {  # NumPy's names of OpenVINO's
    **{"f16": "float16", "f32": "float32", "f64": "float64", "u8": "uint8", "u16": "uint16"},
    **{"i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64"},
}
_AVX512_VNNI = 23  # OpenCV's number for these instructions, which its Python module does not name
# Beginnings of the lines in an OpenVINO error that only name a place in OpenVINO's source.
_NO_REASON = ("Exception from ", "Check '", "FrontEnd API failed")
_REASON_LINES = 3


@functools.cache
def _core_of(process: int) -> openvino.Core:
    """Return the one core of a process, which it keeps. A forked child needs another one.

    OpenVINO 2026.4.1 gives the thread a stack for signal handlers when it loads its CPU plugin, and
    gives the one from before back when it unloads it. After two cores, that one has been freed:
    Ctrl-C then ended the process with a segmentation fault.
    """
    return openvino.Core()


class OpenVinoBackend(OnnxBackend):
    """An exported ``.onnx`` file in OpenVINO. `metadata` is the metadata in the file.

    What OpenVINO compiles is kept in the cache folder, so that the file opens quickly next time.

    Args:
        path: A file that this package exported.
        device: ``cpu`` or ``auto``; nothing else has been tried.
        threads: CPU threads for one call; None for one per core, which is also the maximum.
        precision: What a float32 file is computed in: ``fp32``, or ``bf16`` where the CPU has
            instructions for it. None computes any file as it is written.
        size: The (height, width) of all inputs, one at a time, for a file that takes any. The
            facts in `spec` then say so, and what is compiled is faster. bfloat16 ignores it.

    Raises:
        ModelFileError: The file is damaged, not from this package, or needs TensorRT plugins.
        DeviceError: Another device was asked for, or bfloat16 on a CPU without it.
        OptionError: The precision does not fit the file.
    """

    name = f"openvino ({_CPU})"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: RunPrecision | None = None,
        size: Size | None = None,
    ) -> None:
        _require_cpu(device)
        require_runnable(path, RUNTIME)
        _require_known_opset(path)
        self._core, self._threads = _core_of(os.getpid()), threads
        self._precision = precision or RunPrecision.FP32
        if self._precision is RunPrecision.BF16:
            _require_bfloat16(self._core)
            self.name = f"openvino ({_CPU}, {self._precision})"
        self._facts = machine_facts(path, self._core)
        told_size = {} if size is None else {"size": "x".join(map(str, size))}
        self._key = key_of(self._facts, precision=self._precision, **told_size)
        kept = find_compiled(self._key)
        model = None if kept else self._read(path)
        graph = kept.graph if kept else _graph_of(model)
        super().__init__(path, graph.metadata, graph.inputs, graph.outputs)
        if precision is not None:
            _require_fitting(path, precision, self.spec)
        self._only_size = self._fix_size(size)
        self._lock, self._check_lock = threading.Lock(), threading.Lock()
        self._checked: set[tuple[int, ...]] = set()  # shapes at which bfloat16 agrees
        self._exact: OpenVinoBackend | None = None  # while shapes are checked
        self._model: Any = self._import(kept) if kept else None
        if self._model is None:
            self._model = self._compile(self._read(path) if model is None else model, graph)
        self._require_fixed_shape_runs()

    def _read(self, path: Path) -> Any:
        with _translate_errors(path):
            return self._core.read_model(path)

    def _import(self, kept: CompiledFile) -> Any:
        """Return a compiled model that was kept; None if OpenVINO does not take it."""
        settings = _choose_settings(self.spec, None, self._precision)
        if kept.settings != settings:
            return None
        self._content = kept.content  # OpenVINO reads weights from it
        tensor = openvino.Tensor(kept.content, shared_memory=True)
        try:
            settings = _choose_settings(self.spec, self._threads, self._precision)
            return self._core.import_model(tensor, _CPU, settings)
        except (RuntimeError, MemoryError) as error:
            if is_about_memory(error):
                raise too_large(self._path, RUNTIME, error) from error
            logger.warning("%s is compiled again: %s", self._path, " ".join(str(error).split()))
            return None

    def _compile(self, model: Any, graph: Graph) -> Any:
        """Return the compiled model, and keep it in the cache folder."""
        settings = _choose_settings(self.spec, self._threads, self._precision)
        with _translate_errors(self._path):
            self._prepare(model)
            compiled = self._core.compile_model(model, _CPU, settings)
        if machine_facts(self._path, self._core) == self._facts:  # the file has not changed since
            kept = _choose_settings(self.spec, None, self._precision)
            exported = compiled.export_model()
            content = exported if isinstance(exported, bytes) else exported.getvalue()
            keep_compiled(self._key, graph, kept, content)
        return compiled

    def _fix_size(self, size: Size | None) -> Size | None:
        """Return the only size of inputs, and let the facts say so; None if there may be others."""
        export = self.spec.export
        if export is None or export.size is not None or self._precision is RunPrecision.BF16:
            return None
        if size is not None:
            export = replace(export, size=size, batch=export.batch or 1)
            self.spec = replace(self.spec, export=export)
        return size

    def _prepare(self, model: Any) -> None:
        """Change a model that was read, so that it runs faster, and as exactly as it should."""
        if self._precision is RunPrecision.BF16:
            _keep_positions_exact(model)
            return
        export = self.spec.export
        assert export is not None  # as in every exported file
        if self._only_size is not None:
            shape = (export.batch, CHANNELS, *self._only_size)
            model.reshape({INPUT_NAME: list(graph_input_shape(self.spec, shape))})
        if _has_channels_together(export) and not model.is_dynamic():
            sample_whole_pixels(model)

    def _compiled(self) -> Any:
        """Return the compiled model; compile it again if the last one broke."""
        with self._lock:
            if self._model is None:
                model = self._read(self._path)
                self._model = self._compile(model, _graph_of(model))
            return self._model

    def _run(self, names: Sequence[str], batch: NDArray[np.floating]) -> list[NDArray[Any]]:
        if self._precision is RunPrecision.BF16:
            self._require_agreement(image_shape(self.spec, batch.shape))
        return self._run_unchecked(names, batch)

    def _require_agreement(self, shape: tuple[int, ...]) -> None:
        """Check, once for each input shape on this machine, that bfloat16 agrees with float32.

        The float32 model stays open while shapes come that were not checked yet.
        """
        if shape in self._checked:
            self._exact = None
            return
        key = key_of(self._facts, shape="x".join(map(str, shape)))
        with self._check_lock:
            if shape not in self._checked and not was_checked(key):
                exact = self._exact = self._exact or OpenVinoBackend(
                    self._path, threads=self._threads, precision=RunPrecision.FP32
                )
                found = require_agreement(self._infer_unchecked, exact.infer, self.spec, shape)
                keep_check(key, {**self._facts, "shape": shape, "difference": found})
            self._checked.add(shape)

    def _infer_unchecked(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        [output] = self._run_unchecked([self._output.value], self._graph_input(batch))
        return usual_axes(self.spec, output)

    def _run_unchecked(
        self, names: Sequence[str], batch: NDArray[np.floating]
    ) -> list[NDArray[Any]]:
        while True:
            model = self._compiled()
            outputs = self._run_once(model, names, batch)
            if self._model is model:  # else another call broke it, perhaps before this one ran
                return outputs

    def _run_once(
        self, model: Any, names: Sequence[str], batch: NDArray[np.floating]
    ) -> list[NDArray[Any]]:
        """Run the model, and drop it if that fails.

        If memory runs out, OpenVINO 2026.4 raises an error or, with one thread, returns empty
        tensors. Either way, later calls return empty tensors or wrong labels.
        """
        try:
            # A request serves one caller at a time. Creating one for each call takes 0.08 ms.
            request = model.create_infer_request()
            request.infer({INPUT_NAME: batch}, share_inputs=True)
            return [_copy_output(request, name) for name in names]
        except (RuntimeError, MemoryError) as error:
            with self._lock:
                self._model = None if self._model is model else self._model
            raise run_error(RUNTIME, batch.shape, error) from error


def _has_channels_together(export: ExportSpec) -> bool:
    """Return whether most features that are sampled have the channels of a pixel together.

    After matrix products in float32, the channels of a pixel lie apart. Gathering pixels then gains
    little with AVX2 (ResNet-101 at 512x1024: 0.96 of the time), and may lose where GridSample is
    faster.
    """
    return export.upsampling is Upsampling.RESIZE or export.has_cpu_integers


def _graph_of(model: Any) -> Graph:
    """Return what a model that was read says of itself."""
    inputs = [_graph_tensor(value) for value in model.inputs]
    return Graph(_read_metadata(model), inputs, [_graph_tensor(value) for value in model.outputs])


def _graph_tensor(value: Any) -> GraphTensor:
    """Return what OpenVINO says of an input or output."""
    said, dimensions = value.get_element_type().get_type_name(), value.get_partial_shape()
    shape = None
    if not dimensions.rank.is_dynamic:
        shape = tuple(None if side.is_dynamic else side.get_length() for side in dimensions)
    return GraphTensor(value.get_any_name(), _TYPES.get(said, said), shape)


def _copy_output(request: Any, name: str) -> NDArray[Any]:
    output: NDArray[Any] = request.get_tensor(name).data.copy()
    if not output.size and _lacks_its_shape(request, name, output.shape):
        raise MemoryError("OpenVINO returned an empty tensor")
    return output


def _lacks_its_shape(request: Any, name: str, seen: tuple[int, ...]) -> bool:
    """Return whether all dimensions that can change are 0, as where memory ran out.

    A graph that returns nothing by itself, such as no rows, has others.
    """
    told = request.get_compiled_model().output(name).get_partial_shape()
    free = [side for side, known in zip(seen, told, strict=True) if known.is_dynamic]
    return bool(free) and not any(free)


def _choose_settings(
    spec: ModelSpec, threads: int | None, precision: RunPrecision
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",  # all threads for one image
        # By default, OpenVINO computes FP32 models in bfloat16 if the processor supports it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision is RunPrecision.BF16 else "f32",
        # OpenVINO keeps the kernels that it prepares for each image size, 5000 of them by default:
        # 2 GB after 200 sizes with the demo model. With 256 it stays at 430 MB, and two sizes in
        # turns run as fast as before.
        "CPU_RUNTIME_CACHE_CAPACITY": 256,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    export = spec.export
    signed = export and export.precision is Precision.INT8 and not export.has_cpu_integers
    return settings | exact_integers() if signed else settings


def exact_integers() -> dict[str, Any]:
    """Return settings with which products of signed integers of 8 bits are exact on this processor.

    Without VNNI, OpenVINO's INT8 kernels saturate in 16 bits: the demo's labels agree with ONNX
    Runtime's in 98.77 % of the pixels. The setting computes Q/DQ in FP32 instead, and 99.70 %
    agree. (With weights of 7 bits, which cannot saturate and which INT8 for CPUs has, 99.84 % agree
    both ways.) It takes 0.90 of the time of FP32 (quartiles 0.87-0.99) instead of 0.72 (0.70-0.76).
    """
    if cv2.checkHardwareSupport(_AVX512_VNNI):
        return {}
    return {"LP_TRANSFORMS_MODE": "NO"}


def _keep_positions_exact(model: Any) -> None:
    """Keep sampling positions, and matrices that follow from shapes, in float32 under bfloat16.

    bfloat16 has 8 bits: the position 257 becomes 256 or 258, and the demo model labelled only
    93.8 % of the pixels of a street of 512x1024 as in float32 (99.8 % this way; of 1024x2048 91.5 %
    and 99.5 %). OpenVINO computes what lies between the last convolution or matrix product and an
    output in float32, so these become outputs too. It makes the network no slower.
    """
    exact, depends_on_image = [], set()
    for operator in model.get_ordered_ops():
        kind, sources = (
            operator.get_type_name(),
            [value.get_source_output() for value in operator.inputs()],
        )
        from_image = [
            source.get_node().get_friendly_name() in depends_on_image for source in sources
        ]
        if kind == "Parameter" or (kind != "ShapeOf" and any(from_image)):
            depends_on_image.add(operator.get_friendly_name())
        if kind == "GridSample":
            exact.append(sources[1])
        if kind == "MatMul":
            exact += [
                source for source, known in zip(sources, from_image, strict=True) if not known
            ]
    chosen = [value for value in exact if value.get_node().get_type_name() != "Constant"]
    model.add_outputs(list(dict.fromkeys(chosen)))


def _read_metadata(model: Any) -> dict[str, str]:
    if not model.has_rt_info(_METADATA):
        return {}
    entries = model.get_rt_info(_METADATA).astype(dict)
    return {key: str(model.get_rt_info([_METADATA, key]).value) for key in entries}


@contextlib.contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn OpenVINO's RuntimeErrors, which have several lines, into our error with the reason."""
    try:
        yield
    except (RuntimeError, MemoryError, UnicodeDecodeError) as error:
        if is_about_memory(error):
            raise too_large(path, RUNTIME, error) from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reasons = [line for line in lines if not line.startswith(_NO_REASON)] or lines
        raise not_loaded(path, RUNTIME, "; ".join(reasons[:_REASON_LINES])) from error


def _require_known_opset(path: Path) -> None:
    """Check that the file has an opset that this package exports.

    OpenVINO up to 2026.2 cannot read GridSample of opset 20 (openvino#33531); 2026.3 can. This
    package exports up to 19, and only these were compared.

    Raises:
        ModelFileError: The file's opset is newer, or the file declares none because it is not ONNX.
            OpenVINO would try to read such a file in every format that it knows.
    """
    opset = read_opsets(path).get("")
    if opset is None:
        raise not_loaded(path, RUNTIME, "it declares no ONNX operators")
    if opset > max(OPSETS):
        raise ModelFileError(
            f"{path} has ONNX opset {opset}, whose GridSample some OpenVINO versions cannot read",
            f"opset {min(OPSETS)} to {max(OPSETS)}, as this package exports",
            f"alignseg export-onnx CHECKPOINT -o MODEL.onnx --opset {max(OPSETS)}, or "
            "runtime='onnxruntime'",
        )


def _require_bfloat16(core: Any) -> None:
    """Raise DeviceError if the CPU cannot compute in bfloat16. OpenVINO would use float32."""
    if "BF16" in core.get_property(_CPU, "OPTIMIZATION_CAPABILITIES"):
        return
    raise DeviceError(
        "precision='bf16' was asked for, but this CPU "
        f"({core.get_property(_CPU, 'FULL_DEVICE_NAME')}) has no instructions for bfloat16",
        "a CPU with AVX512-BF16 or AMX",
        "precision='fp32', or leave precision= out",
    )


def _require_fitting(path: Path, precision: RunPrecision, spec: ModelSpec) -> None:
    """Raise OptionError if a file cannot be computed in the precision that was asked for."""
    if spec.export is None:
        return
    if spec.export.precision is not Precision.FP32:
        raise OptionError(
            f"precision={precision.value!r} was given with {path}, which is "
            f"{spec.export.precision}",
            "a float32 file, which OpenVINO computes in fp32 or bf16",
            "leave precision= out",
        )
    if precision is RunPrecision.BF16 and spec.export.sampler is not Sampler.NATIVE:
        raise OptionError(
            f"precision='bf16' was given with {path}, whose sampler is {spec.export.sampler}",
            "the sampler native, whose positions stay in float32",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx --sampler native; or precision='fp32'",
        )


def _require_cpu(device: str) -> None:
    if str(device).lower().startswith("gpu"):
        raise DeviceError(
            f"device={device!r} was asked for, but this package has not been tried on Intel GPUs",
            "cpu or auto with OpenVINO",
            "device='cpu'",
        )
    if parse_device(device)[0] == "cuda":
        raise DeviceError(
            f"device={device!r} was asked for, but OpenVINO does not run on CUDA",
            "cpu or auto with OpenVINO; CUDA with ONNX Runtime, PyTorch or TensorRT",
            "device='cpu', or runtime='onnxruntime'",
        )
