"""What can run a model: one module for each, imported only when a model needs it."""

from pathlib import Path

from alignseg_infer.arrays import Size, plain_value
from alignseg_infer.backend import Backend
from alignseg_infer.backends.engine_order import EngineOrder
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.backends.processor import MAX_THREADS
from alignseg_infer.backends.tuned import TUNED, choice_of
from alignseg_infer.backports import StrEnum
from alignseg_infer.demo import model_path
from alignseg_infer.errors import ModelFileError, OptionError
from alignseg_infer.files.reading import require_path
from alignseg_infer.models.identify import (
    CHECKPOINT_KINDS,
    advice_for,
    identify_readable,
    require_named_as_it_is,
)
from alignseg_infer.packages import OPENCV, warn_of_several
from alignseg_infer.text import near_words
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
ONNX_SUFFIX = ".onnx"


class OnnxRunner(StrEnum):
    """What can run an ``.onnx`` file. Both kinds of TensorRT build an engine at first use."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


ENGINE_RUNNERS = (OnnxRunner.TENSORRT, OnnxRunner.TENSORRT_RTX)
RUNTIME_CHOICES = (*(runner.value for runner in OnnxRunner), TUNED)  # what users may ask for


def open_backend(
    model: str | Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    size: Size | None = None,
    engine: EngineOrder | None = None,
) -> Backend:
    """Load a model into the runtime that its file ending calls for.

    Args:
        model: ``.onnx`` (ONNX Runtime, or as `runtime` says), a checkpoint ``.pth``, ``.pt``,
            ``.safetensors`` or of an unknown ending (PyTorch), or an engine ``.engine``, ``.plan``,
            ``.trt`` (TensorRT); ``demo`` for the model that comes with the package.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for CUDA where it works. None for what
            the file or `runtime` implies: ``cuda`` for an engine, ``cpu`` for all others.
        threads: CPU threads for one call; None for the runtime's choice.
        runtime: What is to run an ``.onnx``: a value of `OnnxRunner`, or ``tuned`` for what
            ``alignseg tune`` chose; None for ONNX Runtime.
        precision: What OpenVINO computes a float32 ``.onnx`` in: ``fp32`` or ``bf16``; None for the
            precision of the file. That of an engine to build is in `engine`.
        size: The (height, width) of all inputs; None for any. OpenVINO then compiles an ``.onnx``
            of any size for it, one input at a time, and the backend's facts say so. Other runtimes
            and bfloat16 ignore it.
        engine: Which engine to build where `runtime` is a TensorRT; None for images of any size.

    Raises:
        ModelError: The file cannot be used.
        DeviceError: The device does not exist.
        MissingDependencyError: The runtime is not installed.
        TuningError: Nothing was chosen for this model on this machine.
        OptionError: `device`, `threads` or `runtime` makes no sense, or does not fit this file.
        ExportError: TensorRT cannot build the engine, or it does not label images like the file.
        OutputError: The engine cannot be kept in the cache.
    """
    warn_of_several(OPENCV)
    path, threads = model_path(model), plain_value(threads)
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise OptionError(f"threads={threads!r}", f"1 to {MAX_THREADS}, or None", "threads=2")
    suffix = path.suffix.lower()
    if runtime == TUNED:
        return _open_tuned(model, device, threads)
    if runtime is not None:
        _require_runner(runtime, path)
    if suffix in (ONNX_SUFFIX, *ENGINE_SUFFIXES):
        require_named_as_it_is(path)
    if precision is not None:
        require_precision(runtime, precision)
    if runtime in ENGINE_RUNNERS:
        return _open_cached_engine(path, OnnxRunner(runtime), engine, device, threads)
    if device is None:
        device = "cuda" if suffix in ENGINE_SUFFIXES else "cpu"
    if runtime == OnnxRunner.OPENVINO:
        return _open_in_openvino(path, device, threads, precision, size)
    if suffix == ONNX_SUFFIX:
        return _open_in_onnxruntime(path, device, threads)
    if suffix in CHECKPOINT_SUFFIXES or _is_checkpoint(path, suffix):
        from alignseg_infer.backends.torch_backend import TorchBackend

        return TorchBackend(path, device=device, threads=threads)
    if suffix in ENGINE_SUFFIXES:
        return _open_engine(path, device, threads)
    raise _unknown_ending(path, suffix)


def _is_checkpoint(path: Path, suffix: str) -> bool:
    """Whether a file with an ending that says nothing, such as .ckpt or .bin, is a checkpoint."""
    if suffix in ENGINE_SUFFIXES:
        return False
    expected = "a model file, or demo for the model that comes with the package"
    require_path(path, expected, ModelFileError)
    found = identify_readable(path)
    return found is not None and found.kind in CHECKPOINT_KINDS


def _unknown_ending(path: Path, suffix: str) -> ModelFileError:
    seen, fix = "", "export it first: alignseg export-onnx CHECKPOINT -o MODEL.onnx"
    if found := identify_readable(path):
        seen, fix = f"; it looks like {found.what}", advice_for(found, path)
    return ModelFileError(
        f"{path} has the ending {suffix!r}, which no backend reads{seen}",
        f".onnx, an engine ({', '.join(ENGINE_SUFFIXES)}), or a checkpoint: "
        f"{', '.join(CHECKPOINT_SUFFIXES)}",
        fix,
    )


def _require_runner(runtime: str, path: Path) -> None:
    if runtime not in list(OnnxRunner):
        nearest = (near_words(str(runtime), RUNTIME_CHOICES) or RUNTIME_CHOICES)[0]
        raise OptionError(
            f"runtime={runtime!r}", " or ".join(RUNTIME_CHOICES), f"runtime={nearest!r}"
        )
    if path.suffix.lower() != ONNX_SUFFIX:
        raise OptionError(
            f"runtime={str(runtime)!r} was given with {path}, whose ending says what runs it",
            "a choice of runtime with an .onnx file only",
            "leave runtime= out; or export it: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )


def _open_tuned(model: str | Path, device: str | None, threads: int | None) -> Backend:
    """Open what was chosen for a model on this machine."""
    if device not in (None, "cpu") or threads is not None:
        raise OptionError(
            f"device={device!r} and threads={threads} were given with runtime={TUNED!r}",
            "what was chosen for the CPU, with the threads that were chosen",
            "leave device= and threads= out",
        )
    obeyed = choice_of(model)
    choice = obeyed.choice
    return open_backend(
        obeyed.model,
        threads=choice.threads,
        runtime=choice.runtime,
        precision=choice.precision,
    )


def require_precision(runtime: str | None, precision: str) -> None:
    """Check that `runtime` can be asked for `precision`.

    Raises:
        OptionError: It cannot, or there is no such precision.
    """
    if runtime in ENGINE_RUNNERS and precision != RunPrecision.BF16:
        return  # an engine's is checked with its file
    if runtime == OnnxRunner.OPENVINO and precision in (RunPrecision.FP32, RunPrecision.BF16):
        return
    seen = "without a runtime" if runtime is None else f"with runtime={str(runtime)!r}"
    example, openvino = "leave precision= out", f"runtime={OnnxRunner.OPENVINO.value!r}"
    if precision == RunPrecision.BF16:
        example = f"{openvino}, precision={RunPrecision.BF16.value!r}"
    elif precision == RunPrecision.FP16:
        example = f"runtime={OnnxRunner.TENSORRT.value!r}, or {example}"
    raise OptionError(
        f"precision={str(precision)!r} was given {seen}",
        f"fp32 or bf16 with {openvino}, fp32 or fp16 with runtime= {' or '.join(ENGINE_RUNNERS)}",
        example,
    )


def _open_in_openvino(
    path: Path, device: str, threads: int | None, precision: str | None, size: Size | None
) -> Backend:
    from alignseg_infer.backends.openvino_backend import OpenVinoBackend

    wanted = None if precision is None else RunPrecision(precision)
    return OpenVinoBackend(path, device=device, threads=threads, precision=wanted, size=size)


def _open_in_onnxruntime(path: Path, device: str, threads: int | None) -> Backend:
    from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, device=device, threads=threads)


def _open_cached_engine(
    path: Path,
    runtime: OnnxRunner,
    engine: EngineOrder | None,
    device: str | None,
    threads: int | None,
) -> Backend:
    from alignseg_infer.backends.cached_engine import open_cached_engine
    from alignseg_infer.trt.flavours import Flavour

    _require_no_threads(path, threads)
    return open_cached_engine(path, Flavour(runtime), engine or EngineOrder(), device or "cuda")


def _open_engine(path: Path, device: str, threads: int | None) -> Backend:
    from alignseg_infer.trt.runtime.backend import TensorRTBackend

    _require_no_threads(path, threads)
    return TensorRTBackend(path, device=device)


def _require_no_threads(path: Path, threads: int | None) -> None:
    if threads is not None:
        raise OptionError(
            f"threads={threads} was given with {path}, which runs on the GPU",
            "CPU threads for a model that runs on the CPU only",
            "leave threads= out",
        )
