"""Runs an ``.onnx`` file in an engine of TensorRT, which is built at first use and then kept."""

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from alignseg_infer.backends.engine_order import EngineOrder, engine_builder
from alignseg_infer.cuda.base import Gpu
from alignseg_infer.cuda.opening import open_cuda
from alignseg_infer.errors import (
    INSTALL_ONNX,
    DeviceError,
    EngineError,
    ModelFileError,
    OptionError,
    VerificationError,
)
from alignseg_infer.packages import require_packages
from alignseg_infer.spec.model import Precision
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.builder.plugins import require_plugin_options
from alignseg_infer.trt.cache.needs import Needs, needs_of
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

if TYPE_CHECKING:  # loads onnx
    from alignseg_infer.spec.onnx_facts import OnnxFacts

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
    _read_order(model, order)  # before the GPU, whose lack would hide a mistake
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
    facts, precision = _read_order(model, order)

    tensorrt = load_tensorrt(flavour)
    options = BuildOptions(
        flavour=flavour,
        profile=order.profile_for(facts.export),
        compute_capabilities=_capabilities(tensorrt, gpu),
    )
    require_plugin_options(facts.export.sampler, options)
    wanted = precision or facts.export.precision

    def needs_now() -> Needs:
        now, _ = _read_order(model, order)
        return needs_of(*(now, wanted, options), tensorrt=tensorrt, gpu=gpu)

    needs = needs_now()

    def build(destination: Path) -> None:
        logger.info(
            "building an engine of %s for %s, in %s, for inputs of %s to %s; this takes minutes, "
            "and later uses find it in %s",
            *(model, gpu.name if gpu else "any GPU", needs.precision, needs.profile.minimum),
            *(needs.profile.maximum, destination.parent.parent),
        )
        try:
            engine_builder()(model, precision, options, destination)
        except VerificationError as error:
            raise _not_like(model, precision, error) from error
        if needs_now() != needs:
            raise ModelFileError(
                f"{model} changed while its engine was built",
                "a file that stays as it is",
                "try again",
            )

    plan, is_new = find_or_build(needs, model.name, build)
    logger.info("%s runs in %s", model, plan)
    found = read_facts(plan).verification
    if not is_new and found is None:  # the build has said it already
        logger.warning(
            "this engine was built, not verified: alignseg verify %s --against FLOAT32.onnx", plan
        )
    elif found is not None and not found.vouches_for(needs.precision):
        logger.warning(
            "this engine was verified with a gate of %s only: at least so many of the pixels have "
            "the same label as in %s",
            *(f"{found.required_agreement:.1%}", found.reference),
        )
    return plan


def _read_order(model: Path, order: EngineOrder) -> "tuple[OnnxFacts, Precision | None]":
    """Return the facts of a file, and the precision to convert it to.

    Raises:
        ModelFileError: The file cannot be read.
        OptionError: The order does not fit it.
    """
    require_packages(("onnx",), INSTALL_ONNX)
    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    facts = read_onnx_facts(model)
    order.check(facts.spec)
    order.profile_for(facts.export)
    return facts, _conversion(model, facts.export.precision, order.precision)


def _not_like(
    model: Path, precision: Precision | None, error: VerificationError
) -> VerificationError:
    """Return the error for an engine that does not label images like its file, with other advice.

    A `Predictor` has none of the options that the error of an export advises.
    """
    fix = "runtime='onnxruntime', or another version of TensorRT"
    if precision is not None:
        name = shlex.quote(f"{model.stem}_{precision}.onnx")
        fix = (
            f"leave precision= out; or see how it differs: alignseg export-onnx "
            f"{shlex.quote(str(model))} -o {name} --precision {precision} --verification FOLDER"
        )
    return VerificationError(error.problem, error.expected, fix)


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
