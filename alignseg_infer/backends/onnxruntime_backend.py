"""ONNX Runtime, the default backend."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from alignseg_infer.backends import parse_device
from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.errors import DeviceError, ModelFileError
from alignseg_infer.files import require_file
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.spec import INPUT_NAME, SPEC_KEY, ModelSpec, OutputKind

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
_ERRORS_ONLY = 3  # ONNX Runtime's severity levels: 0 verbose, 1 info, 2 warning, 3 error

_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    UnicodeDecodeError,  # damaged strings in the file
)


class OnnxRuntimeBackend:
    """An exported ``.onnx`` file in ONNX Runtime. `metadata` is what the file says of itself.

    Args:
        path: A file written by this package's export.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.
        threads: CPU threads for one call; None for one per core.

    Raises:
        ModelFileError: The file is damaged, not one of ours, or needs TensorRT plugins.
        DeviceError: CUDA was asked for and is not there.
    """

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        require_file(path, "an ONNX model", ModelFileError)
        _require_no_plugins(path)
        self._path = path
        try:
            self._session = onnxruntime.InferenceSession(
                path, session_options(threads), providers=_providers(device)
            )
            self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except _LOAD_ERRORS as error:
            raise ModelFileError(
                f"{path} cannot be loaded: {str(error).strip()}",
                "an ONNX model that ONNX Runtime reads, with its .data file beside it if any",
                "copy it again, or export it again: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
            ) from error
        provider = self._session.get_providers()[0]
        _require_provider(provider, device)
        self.name = f"onnxruntime ({provider})"
        self._outputs = [node.name for node in self._session.get_outputs()]
        self.spec = self._read_spec(path)

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """See `backends.Backend.infer`."""
        # By name: offsets, where the graph returns them too, are not copied out.
        output: NDArray[np.generic] = self._session.run(self._outputs[:1], {INPUT_NAME: batch})[0]
        return output

    @property
    def has_offsets(self) -> bool:
        """Whether the file was exported with its offset fields."""
        return len(self._outputs) > 1

    def offsets(self, batch: NDArray[np.float32]) -> dict[OffsetField, NDArray[np.float32]]:
        """See `backends.OffsetBackend.offsets`."""
        if not self.has_offsets:
            raise ModelFileError(
                f"{self._path} was exported without its offset fields",
                "a model that returns them",
                "alignseg export-onnx CHECKPOINT -o MODEL.onnx --with-offsets",
            )
        outputs = self._session.run(self._outputs[1:], {INPUT_NAME: batch})
        return dict(zip(OffsetField, outputs, strict=True))

    def _read_spec(self, path: Path) -> ModelSpec:
        names = [node.name for node in self._session.get_inputs()]
        if SPEC_KEY not in self.metadata or names != [INPUT_NAME]:
            raise ModelFileError(
                f"{path} is an ONNX model without the metadata {SPEC_KEY!r}; "
                f"its inputs are {', '.join(names)}",
                "a model exported by this package, which records how images are to be prepared",
                "alignseg export-onnx CHECKPOINT -o MODEL.onnx",
            )
        spec = ModelSpec.from_json(self.metadata[SPEC_KEY])
        first, *others = self._outputs
        fields = [field.output_name for field in OffsetField]
        fits = spec.export is not None and first == spec.export.output
        if not fits or others not in ([], fields):
            raise ModelFileError(
                f"the spec of {path} does not fit its outputs, {', '.join(self._outputs)}",
                f"{' or '.join(OutputKind)}, as the spec's export says; then all offsets or none",
                "alignseg export-onnx CHECKPOINT -o MODEL.onnx",
            )
        return spec


def _require_no_plugins(path: Path) -> None:
    if needs_plugins(path):
        raise ModelFileError(
            f"{path} was exported with --sampler plugin, and ONNX Runtime has no such plugins",
            "a model of ONNX's own operators; one with plugins is for building a TensorRT engine",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx --sampler native, or for this file: "
            "alignseg export-trt MODEL.onnx -o MODEL.engine",
        )


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """How every session of this package is opened.

    INT8 kernels on x86-64 processors without VNNI saturate in 16 bits unless told not to (a
    quantised demo model was off by 0.57 instead of 0.058). Graphs in FP32 have no such kernel: the
    demo gives the same bits in the same time with and without (median of 12 runs 268 and 260 ms).

    Args:
        threads: CPU threads for one call; None for one per core.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """What to ask ONNX Runtime for; CUDA is refused here if this build does not have it."""
    kind, index = parse_device(device)
    cuda_built_in = CUDA_PROVIDER in onnxruntime.get_available_providers()
    if kind == "cuda" and not cuda_built_in:
        raise DeviceError(
            f"device={device!r}, but this ONNX Runtime has only "
            f"{', '.join(onnxruntime.get_available_providers())}",
            f"a build with {CUDA_PROVIDER}",
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu (never both), "
            "or device='cpu'",
        )
    if kind == "cpu" or not cuda_built_in:
        return [CPU_PROVIDER]
    return [(CUDA_PROVIDER, {"device_id": str(index)}), CPU_PROVIDER]


def _require_provider(provider: str, device: str) -> None:
    """ONNX Runtime falls back to the CPU without an error when CUDA cannot be initialised."""
    if parse_device(device)[0] == "cuda" and provider != CUDA_PROVIDER:
        raise DeviceError(
            f"device={device!r} was asked for, but ONNX Runtime fell back to {provider}",
            "a working CUDA driver, CUDA and cuDNN of the versions this build wants",
            "nvidia-smi; then the CUDA table of the ONNX Runtime documentation; or device='cpu'",
        )
