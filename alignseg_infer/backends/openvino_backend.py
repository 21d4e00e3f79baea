"""OpenVINO, which runs ``.onnx`` files on the CPU. Figures here are those of OpenVINO 2026.4.1."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backends import parse_device
from alignseg_infer.backends.onnx_backend import OnnxBackend, not_loaded, require_runnable
from alignseg_infer.backends.onnx_domains import declared_operators
from alignseg_infer.errors import DeviceError, MissingDependencyError, ModelFileError
from alignseg_infer.spec.model import INPUT_NAME, OPSETS, ModelSpec, Precision

try:
    import openvino
except ImportError as error:
    raise MissingDependencyError(
        "runtime='openvino' was asked for, and OpenVINO is not installed",
        "the package openvino",
        "pip install 'alignseg-infer[openvino]', or leave runtime= out",
    ) from error

RUNTIME = "OpenVINO"
_CPU = "CPU"
_METADATA = "framework"  # where OpenVINO keeps the metadata of an ONNX file
_AVX512_VNNI = 23  # OpenCV's number for these instructions, which its Python module does not name
# How the lines of an OpenVINO error begin that say where in its source it arose.
_NO_REASON = ("Exception from ", "Check '", "FrontEnd API failed")
_REASON_LINES = 3


class OpenVinoBackend(OnnxBackend):
    """An exported ``.onnx`` file in OpenVINO. `metadata` is what the file says of itself.

    Args:
        path: A file written by this package's export.
        device: ``cpu`` or ``auto``; nothing else has been tried.
        threads: CPU threads for one call; None for one per core, which is also the most.

    Raises:
        ModelFileError: The file is damaged, not one of ours, or needs TensorRT plugins.
        DeviceError: Another device was asked for.
    """

    name = f"openvino ({_CPU})"

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        _require_cpu(device)
        require_runnable(path, RUNTIME)
        _require_known_opset(path)
        core = openvino.Core()
        with _load_errors(path):
            model = core.read_model(path)
        inputs = [value.get_any_name() for value in model.inputs]
        outputs = [value.get_any_name() for value in model.outputs]
        super().__init__(path, _metadata_of(model), inputs, outputs)
        with _load_errors(path):
            self._model = core.compile_model(model, _CPU, _settings(self.spec, threads))

    def _run(self, names: Sequence[str], batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        # A request has one caller at a time; one of its own for each call takes 0.08 ms to make.
        request = self._model.create_infer_request()
        request.infer({INPUT_NAME: batch}, share_inputs=True)
        return [request.get_tensor(name).data.copy() for name in names]


def _settings(spec: ModelSpec, threads: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",  # all threads for one image
        # Unless told so, OpenVINO computes FP32 models in bfloat16 where the processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
        # What is prepared for one size of images is kept: 5000 kernels unless told so, 2 GB after
        # 200 sizes of the demo model. With 256 it stays at 430 MB, and two sizes in turns run as
        # fast as before.
        "CPU_RUNTIME_CACHE_CAPACITY": 256,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    precision = spec.export.precision if spec.export else Precision.FP32
    if precision is Precision.INT8 and not cv2.checkHardwareSupport(_AVX512_VNNI):
        # Without VNNI, OpenVINO's INT8 kernels saturate in 16 bits: the demo's labels agree with
        # ONNX Runtime's in 98.77 % of the pixels, and with Q/DQ computed in FP32, as this says, in
        # 99.70 % (with weights of 7 bits, which cannot saturate, both ways agree in 99.84 %). It
        # takes 0.90 of the time of FP32 (quartiles 0.87-0.99) instead of 0.72 (0.70-0.76).
        settings["LP_TRANSFORMS_MODE"] = "NO"
    return settings


def _metadata_of(model: Any) -> dict[str, str]:
    if not model.has_rt_info(_METADATA):
        return {}
    entries = model.get_rt_info(_METADATA).astype(dict)
    return {key: str(model.get_rt_info([_METADATA, key]).value) for key in entries}


@contextlib.contextmanager
def _load_errors(path: Path) -> Iterator[None]:
    """OpenVINO raises RuntimeError for everything, and says in several lines where and what."""
    try:
        yield
    except (RuntimeError, UnicodeDecodeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reasons = [line for line in lines if not line.startswith(_NO_REASON)] or lines
        raise not_loaded(path, RUNTIME, "; ".join(reasons[:_REASON_LINES])) from error


def _require_known_opset(path: Path) -> None:
    """OpenVINO up to 2026.2 cannot read GridSample of opset 20 (openvino#33531); 2026.3 can.

    We export up to 19, and have compared no other.

    Raises:
        ModelFileError: The file's operators are later ones, or it declares none, as do files that
            are no ONNX; OpenVINO would try those in each format it knows.
    """
    opset = declared_operators(path).get("")
    if opset is None:
        raise not_loaded(path, RUNTIME, "it declares no ONNX operators")
    if opset > max(OPSETS):
        raise ModelFileError(
            f"{path} has ONNX opset {opset}, whose GridSample not every OpenVINO reads",
            f"opset {min(OPSETS)} to {max(OPSETS)}, as this package exports",
            f"alignseg export-onnx CHECKPOINT -o MODEL.onnx --opset {max(OPSETS)}, or "
            "runtime='onnxruntime'",
        )


def _require_cpu(device: str) -> None:
    if str(device).lower().startswith("gpu"):
        raise DeviceError(
            f"device={device!r}, but OpenVINO on Intel GPUs has not been tried with this package",
            "cpu or auto with OpenVINO",
            "device='cpu'",
        )
    if parse_device(device)[0] == "cuda":
        raise DeviceError(
            f"device={device!r}, but OpenVINO does not run on CUDA",
            "cpu or auto with OpenVINO; CUDA with ONNX Runtime, PyTorch or TensorRT",
            "device='cpu', or runtime='onnxruntime'",
        )
