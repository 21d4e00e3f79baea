"""Runs ``.onnx`` files on the CPU in OpenVINO. The figures here are from OpenVINO 2026.4.1."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backend import is_about_memory, parse_device, run_error, too_large
from alignseg_infer.backends.onnx_backend import OnnxBackend, not_loaded, require_runnable
from alignseg_infer.backends.onnx_domains import read_opsets
from alignseg_infer.backends.telemetry import without_openvino_telemetry
from alignseg_infer.errors import (
    INSTALL_OPENVINO,
    DeviceError,
    MissingDependencyError,
    ModelFileError,
)
from alignseg_infer.spec.graph_contract import GraphTensor
from alignseg_infer.spec.model import INPUT_NAME, OPSETS, ModelSpec, Precision

try:
    with without_openvino_telemetry():
        import openvino
except ImportError as error:
    raise MissingDependencyError(
        "runtime='openvino' was asked for, but OpenVINO is not installed",
        "the package openvino",
        f"{INSTALL_OPENVINO}, or leave runtime= out",
    ) from error

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

    Args:
        path: A file that this package exported.
        device: ``cpu`` or ``auto``; nothing else has been tried.
        threads: CPU threads for one call; None for one per core, which is also the maximum.

    Raises:
        ModelFileError: The file is damaged, not from this package, or needs TensorRT plugins.
        DeviceError: Another device was asked for.
    """

    name = f"openvino ({_CPU})"

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        _require_cpu(device)
        require_runnable(path, RUNTIME)
        _require_known_opset(path)
        self._core, self._threads = _core_of(os.getpid()), threads
        with _translate_errors(path):
            model = self._core.read_model(path)
        inputs = [_graph_tensor(value) for value in model.inputs]
        outputs = [_graph_tensor(value) for value in model.outputs]
        super().__init__(path, _read_metadata(model), inputs, outputs)
        self._lock = threading.Lock()
        self._model: Any = self._compile(model)
        self._require_fixed_shape_runs()

    def _compile(self, model: Any) -> Any:
        settings = _choose_settings(self.spec, self._threads)
        with _translate_errors(self._path):
            return self._core.compile_model(model, _CPU, settings)

    def _compiled(self) -> Any:
        """Return the compiled model; compile it again if the last one broke."""
        with self._lock:
            if self._model is None:
                with _translate_errors(self._path):
                    model = self._core.read_model(self._path)
                self._model = self._compile(model)
            return self._model

    def _run(self, names: Sequence[str], batch: NDArray[np.floating]) -> list[NDArray[Any]]:
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


def _choose_settings(spec: ModelSpec, threads: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",  # all threads for one image
        # By default, OpenVINO computes FP32 models in bfloat16 if the processor supports it.
        "INFERENCE_PRECISION_HINT": "f32",
        # OpenVINO keeps the kernels that it prepares for each image size, 5000 of them by default:
        # 2 GB after 200 sizes with the demo model. With 256 it stays at 430 MB, and two sizes in
        # turns run as fast as before.
        "CPU_RUNTIME_CACHE_CAPACITY": 256,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    export = spec.export
    signed = export and export.precision is Precision.INT8 and not export.has_cpu_integers
    if signed and not cv2.checkHardwareSupport(_AVX512_VNNI):
        # Without VNNI, OpenVINO's INT8 kernels saturate in 16 bits: the demo's labels agree with
        # ONNX Runtime's in 98.77 % of the pixels. This setting computes Q/DQ in FP32 instead, and
        # 99.70 % agree. (With weights of 7 bits, which cannot saturate and which INT8 for CPUs has,
        # 99.84 % agree both ways.) It takes 0.90 of the time of FP32 (quartiles 0.87-0.99) instead
        # of 0.72 (0.70-0.76).
        settings["LP_TRANSFORMS_MODE"] = "NO"
    return settings


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
