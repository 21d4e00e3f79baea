"""Builds an engine from an ONNX file of this package, in either flavour of TensorRT."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from alignseg_infer.cuda.base import Gpu
from alignseg_infer.cuda.opening import current_gpu
from alignseg_infer.errors import BuildError, OptionError
from alignseg_infer.files.writing import require_no_pipe, write_atomically
from alignseg_infer.spec.model import LabelType, OutputKind, Upsampling
from alignseg_infer.spec.onnx_facts import OnnxFacts, read_onnx_facts
from alignseg_infer.spec.onnx_weights import require_weights_beside
from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.bindings import ParserError
from alignseg_infer.trt.builder.config import Session, new_config
from alignseg_infer.trt.builder.layer_report import describe_layers
from alignseg_infer.trt.builder.layers import (
    Network,
    count_layers,
    read_network,
    require_precision,
    require_resizing,
    require_sampling,
)
from alignseg_infer.trt.builder.options import (
    MUCH_MEMORY,
    BuildOptions,
    memory_estimate,
    profile_for,
)
from alignseg_infer.trt.builder.plugins import load_plugins, require_plugin_options
from alignseg_infer.trt.builder.progress import PhaseProgress, Phases, new_monitor, run_stoppable
from alignseg_infer.trt.builder.timing_cache import save_timing_cache, use_timing_cache
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, EngineFacts, Profile, sidecar_path
from alignseg_infer.trt.flavours import Flavour, TensorRT, load_tensorrt
from alignseg_infer.version import __version__

Verify: TypeAlias = Callable[[Path], Verification | None]

logger = logging.getLogger(__name__)

MAX_LABELS = 256


@dataclass(frozen=True)
class Engine:
    """An engine in memory.

    Attributes:
        plan: The engine as TensorRT serialised it.
        facts: The facts to write beside it.
        network: The parsed network it was built from.
        seconds: Time that TensorRT took to build it.
    """

    plan: bytes
    facts: EngineFacts
    network: Network
    seconds: float


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    options: BuildOptions,
    *,
    facts: OnnxFacts | None = None,
    progress: PhaseProgress | None = None,
    verify: Verify | None = None,
) -> Engine:
    """Build an engine and write it with its facts: both files or neither.

    Args:
        onnx_path: A file that this package exported.
        engine_path: The plan file to write; its facts go to `sidecar_path` of it.
        options: How to build it.
        facts: Facts of `onnx_path`, if they were read already.
        progress: Called with each phase of TensorRT's build.
        verify: As in `save_engine`.

    Raises:
        OptionError, SizeError: `engine_path` has a wrong ending, or an option cannot be used.
        ModelFileError: This package did not export `onnx_path`.
        MissingDependencyError: TensorRT, or a package to call CUDA through, is not installed.
        BuildError: TensorRT rejects the graph or reads it differently, or its plugins are missing.
        OutputError: A file cannot be written.
        KeyboardInterrupt: The user pressed Ctrl-C; the build has stopped.
    """
    require_engine_name(engine_path)
    require_no_pipe(engine_path)
    engine = engine_from_onnx(onnx_path, options, facts=facts, progress=progress)
    return replace(engine, facts=save_engine(engine, engine_path, verify=verify))


def require_engine_name(path: Path, parameter: str = "destination") -> None:
    """Raise OptionError unless `path` ends like an engine, so that no model is overwritten."""
    if path.suffix.lower() not in ENGINE_SUFFIXES:
        raise OptionError(
            f"{path} does not end in {', '.join(ENGINE_SUFFIXES)}",
            "an ending that tells loaders that the file is an engine",
            f"{parameter}={path.stem}.engine",
        )


def engine_from_onnx(
    path: Path,
    options: BuildOptions,
    *,
    facts: OnnxFacts | None = None,
    progress: PhaseProgress | None = None,
) -> Engine:
    """Build an engine in memory. It raises the same errors as `build_engine`."""
    facts = facts or read_onnx_facts(path)
    _require_narrow_labels(facts)
    require_signed_integers(facts)
    if facts.export.upsampling is Upsampling.MATRICES:
        logger.info(
            "%s upsamples by matrices, which is best on CPUs; for a GPU, export the checkpoint "
            "with upsampling='resize'",
            path.name,
        )
    require_plugin_options(facts.export.sampler, options)
    profile = profile_for(facts.export, options.profile)
    if (needed := memory_estimate(profile.maximum)) > MUCH_MEMORY:
        logger.warning(
            "inputs of %s take about %.0f GB of GPU memory with 256 channels in float16; a smaller "
            "max_shape= takes less",
            profile.maximum,
            needed / 1e9,
        )
    session = Session.of(load_tensorrt(options.flavour))
    # TensorRT builds on this GPU, and loaders compare it with theirs. TensorRT for RTX needs none.
    gpu = current_gpu() if options.flavour is Flavour.TENSORRT else None
    options = load_plugins(session.tensorrt, facts, options)
    parse_onnx(session, path)
    network = read_network(session.tensorrt.module, session.network)
    require_sampling(network, facts)
    require_resizing(network, facts)
    require_precision(network, facts.export.precision)
    start = time.perf_counter()
    plan = _build_plan(session, profile, options, progress)
    seconds = time.perf_counter() - start
    logger.info("built in %.1f s: %.1f MB", seconds, len(plan) / 1e6)
    logger.info("%s", describe_layers(network))
    described = _facts_of(
        facts,
        plan,
        profile=profile,
        options=options,
        network=network,
        tensorrt=session.tensorrt,
        gpu=gpu,
    )
    return Engine(plan, described, network, seconds)


def save_engine(engine: Engine, path: Path, *, verify: Verify | None = None) -> EngineFacts:
    """Write plan and facts, both files or neither, and return the facts.

    Args:
        engine: The engine to write.
        path: The plan file.
        verify: Called with the path of a temporary plan file, which has its facts beside it, before
            the files get their final names. Its result goes into the facts. If it raises, nothing
            is written.

    Raises:
        OutputError: A file cannot be written.
    """
    facts = engine.facts
    with write_atomically(path) as temporary:
        temporary.write_bytes(engine.plan)
        sidecar = sidecar_path(temporary)
        sidecar.write_text(facts.to_json(), encoding="utf-8")
        if verify is not None:
            facts = replace(facts, verification=verify(temporary))
            sidecar.write_text(facts.to_json(), encoding="utf-8")
    return facts


def _require_narrow_labels(facts: OnnxFacts) -> None:
    count, chosen = facts.spec.label_count, facts.export.label_type
    is_wide = count > MAX_LABELS if chosen is None else chosen is LabelType.UINT16
    if facts.export.output is OutputKind.LABELS and is_wide:
        raise BuildError(
            f"the graph returns labels up to {count - 1} as uint16, which TensorRT does not "
            "support",
            f"logits, labels in int32, or labels up to {MAX_LABELS - 1}",
            "export the checkpoint again with "
            + ("the same remap= and " if facts.spec.remap else "")
            + "output='logits', or output='labels' and label_type='int32'",
        )


def require_signed_integers(facts: OnnxFacts) -> None:
    """Raise BuildError for int8 for CPUs, which TensorRT does not take."""
    if facts.export.has_cpu_integers:
        raise BuildError(
            "the graph is int8 for CPUs, with unsigned integers and INT32 biases, which TensorRT "
            "does not take",
            "int8 for TensorRT, or fp32",
            "export the float32 model again with target='tensorrt'",
        )


def parse_onnx(session: Session, path: Path) -> None:
    """Read an ONNX file into the network of `session`.

    Raises:
        BuildError: TensorRT cannot read the file.
        ModelFileError: It names weights that are missing or outside its folder.
    """
    require_weights_beside(path)
    parser = session.tensorrt.module.OnnxParser(session.network, session.builder.logger)
    # Parse the file, not bytes: the weights of large models are in a second file beside it.
    if parser.parse_from_file(str(path)):
        return
    errors = [_describe_error(parser.get_error(index)) for index in range(parser.num_errors)]
    reasons = errors or session.messages.errors
    raise BuildError(
        f"{session.tensorrt.flavour} {session.tensorrt.version_text} cannot read {path}:\n    "
        + "\n    ".join(reasons or ["it gives no reason"]),
        "an ONNX graph in which TensorRT knows every node",
        "export the model again, perhaps with another sampler=; if that does not help, report it",
    )


def _describe_error(error: ParserError) -> str:
    first_line = str(error.desc()).strip().partition("\n")
    more = first_line[2].strip().partition("\n")[0]
    message = f"{first_line[0]}; {more}" if more else first_line[0]
    if error.node() < 0:
        return message
    return f"node {error.node()}, {error.node_operator()} {error.node_name()!r}: {message}"


def _build_plan(
    session: Session, profile: Profile, options: BuildOptions, progress: PhaseProgress | None
) -> bytes:
    config = new_config(session, profile, options)
    if options.timing_cache is not None:
        use_timing_cache(config, options.timing_cache, session.messages)
    phases = Phases(progress)
    monitor = new_monitor(session.tensorrt.module, phases)
    config.progress_monitor = monitor
    plan = run_stoppable(
        lambda: session.builder.build_serialized_network(session.network, config), phases.stop
    )
    if phases.error is not None:
        raise phases.error
    if plan is None:
        raise BuildError(
            f"{session.tensorrt.flavour} {session.tensorrt.version_text} cannot build the engine: "
            + "\n    ".join(session.messages.errors or ["it gives no reason"]),
            "a graph and options that TensorRT can build",
            "another workspace=, compute_capabilities= or input shape, or sampler='gather'",
        )
    if options.timing_cache is not None:
        save_timing_cache(config, options.timing_cache)
    return bytes(plan)


def _facts_of(
    source: OnnxFacts,
    plan: bytes,
    *,
    profile: Profile,
    options: BuildOptions,
    network: Network,
    tensorrt: TensorRT,
    gpu: Gpu | None,
) -> EngineFacts:
    return EngineFacts(
        spec=source.spec,
        sha256=hashlib.sha256(plan).hexdigest(),
        flavour=tensorrt.flavour,
        tensorrt_version=tensorrt.version_text,
        version_compatible=options.version_compatible,
        hardware_compatibility=options.hardware_compatibility,
        compute_capabilities=options.compute_capabilities,
        gpu=gpu,
        profile=profile,
        plugins=tuple(sorted(set(source.plugins))),
        plugins_embedded=options.embed_plugin,
        layers=count_layers(network),
        source_sha256=source.sha256,
        verification=None,
        builder=f"alignseg-infer {__version__}, {tensorrt.flavour} {tensorrt.version_text}",
        tf32=options.tf32,
    )
