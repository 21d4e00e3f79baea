"""Runs an ``.onnx`` file in an engine of TensorRT, which is built at first use and then kept."""

import logging
from pathlib import Path

from alignseg_infer.backends.engine_order import EngineOrder, engine_builder
from alignseg_infer.cuda.base import Gpu
from alignseg_infer.cuda.opening import open_cuda
from alignseg_infer.errors import (
    INSTALL_ONNX,
    DeviceError,
    EngineError,
    OptionError,
)
from alignseg_infer.packages import require_packages
from alignseg_infer.spec.model import Precision
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.builder.plugins import require_plugin_options
from alignseg_infer.trt.cache.needs import needs_of
from alignseg_infer.trt.cache.store import find_or_build
from alignseg_infer.trt.engine_file import read_facts
from alignseg_infer.trt.flavours import (
    RTX_DEFAULT,
    Flavour,
    TensorRT,
    compute_capability,
    load_tensorrt,
)
from alignseg_infer.trt.runtime.backend import TensorRTBackend, parse_gpu

logger = logging.getLogger(__name__)


def open_cached_engine(
    model: Path, flavour: Flavour, order: EngineOrder, device: str
) -> TensorRTBackend:
    """Open the engine of an ``.onnx`` file. Build and verify it first if the cache has none.

    Args:
        model: An ``.onnx`` file of this package.
        flavour: Which TensorRT.
        order: Which engine.
        device: As `TensorRTBackend` takes it.

    Raises:
        DeviceError: There is no GPU that can run it.
        MissingDependencyError: A package is not installed.
        OptionError: The order does not fit the file.
        BuildError: TensorRT cannot build it.
        VerificationError: It does not label images like the file. It is not kept then.
        OutputError: It cannot be kept in the cache.
        EngineError: It cannot be opened.
    """
    gpu = _gpu_of(device)
    plan = engine_of(model, flavour, order, gpu)
    try:
        return TensorRTBackend(plan, device=device, is_cached=True)
    except (EngineError, FileNotFoundError) as error:  # FileNotFoundError: just cleared
        problem = getattr(error, "problem", error)
        raise EngineError(
            f"the engine of {model} cannot be opened: {problem}",
            "an engine that runs on this GPU, and enough free memory on it",
            "alignseg cache clear, and try again: the engine is then built again",
        ) from error


def engine_of(model: Path, flavour: Flavour, order: EngineOrder, gpu: Gpu | None) -> Path:
    """Return the engine of an ``.onnx`` file. Build and verify it first if the cache has none.

    Args:
        model: An ``.onnx`` file of this package.
        flavour: Which TensorRT.
        order: Which engine.
        gpu: The GPU that should run it; None to build for GPUs in general, without verification,
            which only TensorRT for RTX can.

    Returns:
        The plan file.
    """
    require_packages(("onnx",), INSTALL_ONNX)
    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    tensorrt, facts = load_tensorrt(flavour), read_onnx_facts(model)
    order.check(facts.spec)
    precision = _conversion(model, facts.export.precision, order.precision)
    options = BuildOptions(
        flavour=flavour,
        profile=order.profile_for(facts.export),
        compute_capabilities=_capabilities(tensorrt, gpu),
    )
    require_plugin_options(facts.export.sampler, options)
    needs = needs_of(
        *(model, facts, precision or facts.export.precision, options), tensorrt=tensorrt, gpu=gpu
    )

    def build(destination: Path) -> None:
        logger.info(
            "building an engine of %s for %s, in %s, for inputs of %s to %s; this takes minutes, "
            "and later uses find it in %s",
            *(model, gpu.name if gpu else "any GPU", needs.precision, needs.profile.minimum),
            *(needs.profile.maximum, destination.parent.parent),
        )
        engine_builder()(model, precision, options, destination)

    plan, is_new = find_or_build(needs, model.name, build)
    logger.info("%s runs in %s", model, plan)
    if not is_new and read_facts(plan).verification is None:  # the build has said it already
        logger.warning(
            "this engine was built, not verified: alignseg verify %s --against FLOAT32.onnx", plan
        )
    return plan


def _gpu_of(device: str) -> Gpu:
    """Return the GPU that a device names.

    Raises:
        OptionError: It is no GPU, or another one than the first, on which TensorRT builds.
        DeviceError: There is no such GPU.
    """
    found = []
    for index in dict.fromkeys((parse_gpu(device), 0)):
        cuda = open_cuda(index)
        found.append(cuda.gpu)
        cuda.close()
    if found[0] != found[-1]:
        raise OptionError(
            f"device={device!r} is {found[0].name}, but engines are built on the first GPU, "
            f"{found[-1].name}",
            "the first GPU, or one like it",
            f"device='cuda', with CUDA_VISIBLE_DEVICES={parse_gpu(device)} in the environment",
        )
    return found[0]


def _capabilities(tensorrt: TensorRT, gpu: Gpu | None) -> tuple[str, ...]:
    """Return the compute capabilities to build for; none for those of TensorRT for RTX in general.

    Raises:
        DeviceError: TensorRT for RTX does not run on this GPU.
    """
    if tensorrt.flavour is Flavour.TENSORRT or gpu is None:
        return ()
    try:
        compute_capability(tensorrt, gpu.compute_capability)
    except OptionError as error:
        if float(gpu.compute_capability) > float(RTX_DEFAULT[-1]):
            return ()  # its default includes later GPUs
        raise DeviceError(
            f"this GPU, {gpu.name}, has compute capability {gpu.compute_capability}",
            error.expected,
            "runtime='tensorrt'",
        ) from error
    return (gpu.compute_capability,)


def _conversion(model: Path, seen: Precision, asked: Precision | None) -> Precision | None:
    """Return the precision to convert a file to; None if it is built as it is.

    Raises:
        OptionError: It cannot be converted.
    """
    if asked in (None, seen):
        return None
    if seen is not Precision.FP32:
        raise OptionError(
            f"precision={asked.value!r} was given with {model}, which is {seen}",
            f"a float32 file, or precision={seen.value!r}",
            "leave precision= out",
        )
    if asked is Precision.INT8:
        raise OptionError(
            f"precision='int8' was given with {model}, which is float32",
            "a file that was calibrated with your images; it is built as it is",
            f"alignseg export-onnx {model} -o {model.stem}_int8.onnx --precision int8 "
            "--calibration FOLDER; and open that file",
        )
    return asked
