"""Runs ``.onnx`` files in ONNX Runtime, the default."""

import contextlib
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backend import is_about_memory, parse_device, run_error, too_large
from alignseg_infer.backends.onnx_backend import OnnxBackend, not_loaded, require_runnable
from alignseg_infer.backends.onnxruntime_package import onnxruntime
from alignseg_infer.errors import DeviceError
from alignseg_infer.packages import INSTALL_GPU_ONNXRUNTIME, ONNXRUNTIME, warn_of_several
from alignseg_infer.spec.graph_contract import GraphTensor
from alignseg_infer.spec.model import INPUT_NAME, Target
from alignseg_infer.spec.onnx_precision import read_target

logger = logging.getLogger(__name__)

RUNTIME = "ONNX Runtime"
CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
_TYPES = {"float": "float32", "double": "float64"}  # ONNX Runtime's names that NumPy does not use
_ERRORS_ONLY = 3  # ONNX Runtime's severity levels: 0 verbose, 1 info, 2 warning, 3 error
_ERROR_TYPES = onnxruntime.capi.onnxruntime_pybind11_state


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


_ERRORS = (  # of loading and running
    *(kind for kind in vars(_ERROR_TYPES).values() if _is_error(kind)),
    MemoryError,
    RuntimeError,
    UnicodeDecodeError,  # damaged strings in the file
)


class OnnxRuntimeBackend(OnnxBackend):
    """An exported ``.onnx`` file in ONNX Runtime. `metadata` is the metadata in the file.

    Args:
        path: A file that this package exported.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.
        threads: CPU threads for one call; None for one per core.

    Raises:
        ModelFileError: The file is damaged, not from this package, or needs TensorRT plugins.
        DeviceError: CUDA was asked for but is not available.
    """

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        require_runnable(path, RUNTIME)
        warn_of_several(ONNXRUNTIME)
        providers = _choose_providers(device)
        if providers == [CPU_PROVIDER]:
            fuse = read_target(path) is Target.CPU
            self._session = open_session(path, threads, fuse=fuse)
        else:
            self._session = _open_on_cuda(path, threads, providers, device)
        metadata = _read_metadata(path, self._session)
        provider = self._session.get_providers()[0]
        self.name = f"onnxruntime ({provider})"
        inputs = [_graph_tensor(node) for node in self._session.get_inputs()]
        outputs = [_graph_tensor(node) for node in self._session.get_outputs()]
        super().__init__(path, metadata, inputs, outputs)
        self._require_fixed_shape_runs()

    def _run(self, names: Sequence[str], batch: NDArray[np.floating]) -> list[NDArray[Any]]:
        return run_session(self._session, names, batch)


def open_session(
    path: Path,
    threads: int | None = None,
    providers: Sequence[object] = (CPU_PROVIDER,),
    *,
    fuse: bool = False,
) -> onnxruntime.InferenceSession:
    """Return a session of the file `path`, with our options.

    Args:
        path: An ``.onnx`` file. ONNX Runtime looks for weights in other files in its folder.
        threads: CPU threads for one call; None for one per core.
        providers: What runs it, as ONNX Runtime takes it.
        fuse: As in `session_options`.

    Raises:
        ModelFileError: The file cannot be loaded.
        ModelError: There is too little memory.
    """
    options = session_options(threads, fuse=fuse)
    try:
        return onnxruntime.InferenceSession(path, options, providers=[*providers])
    except _ERRORS as error:
        if is_about_memory(error):
            raise too_large(path, RUNTIME, error) from error
        raise not_loaded(path, RUNTIME, str(error).strip()) from error


def run_session(
    session: onnxruntime.InferenceSession, names: Sequence[str], batch: NDArray[np.floating]
) -> list[NDArray[Any]]:
    """Return the outputs `names` of a session for `batch`.

    Raises:
        ModelError: ONNX Runtime fails, or there is too little memory.
    """
    try:
        outputs: list[NDArray[Any]] = session.run(names, {INPUT_NAME: batch})
    except _ERRORS as error:
        raise run_error(RUNTIME, batch.shape, error) from error
    return outputs


def _read_metadata(path: Path, session: onnxruntime.InferenceSession) -> dict[str, str]:
    try:
        metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    except _ERRORS as error:  # damaged strings
        raise not_loaded(path, RUNTIME, str(error).strip()) from error
    return metadata


def _graph_tensor(node: Any) -> GraphTensor:
    """Return what ONNX Runtime says of an input or output, such as ``tensor(float)``."""
    said = node.type.removeprefix("tensor(").removesuffix(")")
    # Dimensions that can change have a name or None. No dimensions are those of an unknown shape.
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return GraphTensor(node.name, _TYPES.get(said, said), shape or None)


def session_options(
    threads: int | None = None, *, fuse: bool = False
) -> onnxruntime.SessionOptions:
    """Return the options with which this package opens every session.

    Without `fuse`, the entry ``session.disable_quant_qdq`` makes ONNX Runtime compute an INT8 graph
    as it is written: values and weights are rounded to integers, and multiplied in floats. By
    default it fuses this into INT8 kernels, whose results are less exact and depend on its version,
    and which saturate on x86-64 processors without VNNI if activations are unsigned and weights
    have 8 bits (docs/precision.md). The entry ``session.x64quantprecision`` would prevent the
    saturation only, and ONNX Runtime 1.32 refuses with it files in which a tool merged equal zero
    points. It is slower, too: the demo of 128x256 takes 183 ms with it and 123 ms with ours (best
    of 5, two cores with VNNI, other work running). Graphs without INT8 stay the same.

    INT8 that was exported for CPUs is fused: its weights have 7 bits, which cannot saturate, and
    its form is the one that the kernels take (`export.int8.for_cpus`).

    The entry ``session.force_spinning_stop`` ends the busy waiting of ONNX Runtime's threads with
    each call. Without it, they hold the cores for some 30 ms after a call, while the result is
    averaged and labelled. With it, both take 0.52 of the time (demo model, 1024x2048, tile 872)
    and the whole call 0.91, by two calls each; a single call of 256x512 takes 0.98 to 1.01, a
    frame of a stream 0.97 to 1.03. Without any busy waiting, a frame takes 0.88 to 0.96, but one
    single call 1.01 to 1.05 (two cores, ONNX Runtime 1.32; ratios of minima and of medians).

    Args:
        threads: CPU threads for one call; None for one per core.
        fuse: Whether Q/DQ becomes INT8 kernels.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not fuse:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _choose_providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """Return the providers to ask ONNX Runtime for.

    Raises:
        DeviceError: CUDA was asked for, and this build does not have it.
    """
    kind, index = parse_device(device)
    cuda_built_in = CUDA_PROVIDER in onnxruntime.get_available_providers()
    if kind == "cuda" and not cuda_built_in:
        raise DeviceError(
            f"device={device!r} was asked for, but this ONNX Runtime has only "
            f"{', '.join(onnxruntime.get_available_providers())}",
            f"a build with {CUDA_PROVIDER}",
            f"{INSTALL_GPU_ONNXRUNTIME}, or device='cpu'",
        )
    if kind == "cpu" or not cuda_built_in:
        return [CPU_PROVIDER]
    # With a number, even 0, ONNX Runtime 1.26 to 1.31 warn that no plugin provides the device.
    choice = {"device_id": str(index)} if index else {}
    return [(CUDA_PROVIDER, choice), CPU_PROVIDER]


def _open_on_cuda(
    path: Path, threads: int | None, providers: Sequence[object], device: str
) -> onnxruntime.InferenceSession:
    """Return a session that does not go over to the CPU, unless `device` leaves the choice to us.

    ONNX Runtime prints why CUDA fails. That goes to the log and into the error, since standard
    output is for results.

    Raises:
        DeviceError: CUDA was asked for, but does not work.
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        # By itself, it looks for CUDA and cuDNN only where the system keeps libraries. Since 1.21
        # it can load those of NVIDIA's Python packages.
        getattr(onnxruntime, "preload_dlls", lambda: None)()
        session = open_session(path, threads, providers)
    said = printed.getvalue().strip()
    if said:
        logger.info("ONNX Runtime: %s", said)
    _require_provider(session.get_providers()[0], device, said)
    session.disable_fallback()  # a call that fails on CUDA would be repeated on the CPU
    return session


def _require_provider(provider: str, device: str, said: str) -> None:
    """Raise DeviceError if ONNX Runtime silently fell back to the CPU because CUDA failed."""
    if parse_device(device)[0] != "cuda" or provider == CUDA_PROVIDER:
        return
    reason = re.search(r"^EP Error (.+?) when using", said, re.DOTALL | re.MULTILINE)
    raise DeviceError(
        f"device={device!r} was asked for, but ONNX Runtime fell back to {provider}"
        + (f": {reason[1]}" if reason else ""),
        "this GPU, and CUDA and cuDNN in the versions that this build needs",
        "pip install 'onnxruntime-gpu[cuda,cudnn]' for CUDA and cuDNN, and run nvidia-smi to see "
        "the driver and the GPUs; or device='cpu'",
    )
