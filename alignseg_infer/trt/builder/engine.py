"""From an ONNX file of ours to a TensorRT engine, on either flavour of TensorRT."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from alignseg_infer import __version__
from alignseg_infer.cuda.opening import current_gpu
from alignseg_infer.errors import BuildError, OptionError
from alignseg_infer.files import written_atomically
from alignseg_infer.spec.model import OutputKind, Upsampling
from alignseg_infer.spec.onnx_facts import OnnxFacts, read_onnx_facts
from alignseg_infer.trt.builder.config import Session, configuration
from alignseg_infer.trt.builder.layer_report import describe_layers
from alignseg_infer.trt.builder.layers import (
    Network,
    count_layers,
    read_network,
    require_precision,
    require_resizing,
    require_sampling,
)
from alignseg_infer.trt.builder.options import BuildOptions, profile_for
from alignseg_infer.trt.builder.plugins import require_plugin_options, with_plugins
from alignseg_infer.trt.builder.progress import PhaseProgress, Phases, monitor_of, run_stoppable
from alignseg_infer.trt.builder.timing_cache import save_timing_cache, use_timing_cache
from alignseg_infer.trt.engine_file import (
    ENGINE_SUFFIXES,
    EngineFacts,
    Gpu,
    Profile,
    Verification,
    sidecar_path,
)
from alignseg_infer.trt.flavours import Flavour, TensorRT, load_tensorrt

Verify: TypeAlias = Callable[[Path], Verification | None]

logger = logging.getLogger(__name__)

MAX_LABELS = 256


@dataclass(frozen=True)
class Engine:
    """An engine in memory.

    Attributes:
        plan: What TensorRT serialised.
        facts: What belongs beside it.
        network: The parsed network it was built from.
        seconds: TensorRT took to build it.
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
    """Builds an engine and writes it with its facts, both or none.

    Args:
        onnx_path: A file this package exported.
        engine_path: The plan file to write; its facts go to `sidecar_path` of it.
        options: How it is built.
        facts: Those of `onnx_path`, if they were read already.
        progress: Is told of TensorRT's phases.
        verify: As in `save_engine`.

    Raises:
        OptionError, SizeError: `engine_path` has another ending, or an option cannot be used.
        ModelFileError: `onnx_path` is none of ours.
        MissingDependencyError: TensorRT is not installed; or it is, but no CUDA from Python.
        BuildError: TensorRT does not take the graph, or makes something else of it; or its
            plugins are not there.
        OutputError: A file cannot be written.
        KeyboardInterrupt: Ctrl-C; the build has stopped.
    """
    require_engine_name(engine_path)
    engine = engine_from_onnx(onnx_path, options, facts=facts, progress=progress)
    return replace(engine, facts=save_engine(engine, engine_path, verify=verify))


def require_engine_name(path: Path) -> None:
    """Raises OptionError unless `path` ends as engines do, so that no model is written over."""
    if path.suffix.lower() not in ENGINE_SUFFIXES:
        raise OptionError(
            f"{path} does not end in {', '.join(ENGINE_SUFFIXES)}",
            "an ending by which loaders know what a file is",
            f"destination={path.stem}.engine",
        )


def engine_from_onnx(
    path: Path,
    options: BuildOptions,
    *,
    facts: OnnxFacts | None = None,
    progress: PhaseProgress | None = None,
) -> Engine:
    """Builds an engine in memory; `build_engine` says what it takes and raises."""
    facts = facts or read_onnx_facts(path)
    _require_narrow_labels(facts)
    if facts.export.upsampling is Upsampling.MATRICES:
        logger.info(
            "%s upsamples by matrices, as suits CPUs; for a GPU, export the checkpoint with "
            "upsampling='resize'",
            path.name,
        )
    require_plugin_options(facts.export.sampler, options)
    profile = profile_for(facts.export, options.profile)
    session = Session.of(load_tensorrt(options.flavour))
    # TensorRT builds on it; loaders compare it with theirs. TensorRT for RTX builds anywhere.
    gpu = current_gpu() if options.flavour is Flavour.TENSORRT else None
    options = with_plugins(session.tensorrt, facts, options)
    _parse(session, path)
    network = read_network(session.tensorrt.module, session.network)
    require_sampling(network, facts)
    require_resizing(network, facts)
    require_precision(network, facts.export.precision)
    start = time.perf_counter()
    plan = _plan(session, profile, options, progress)
    seconds = time.perf_counter() - start
    logger.info("built in %.1f s: %.1f MB", seconds, len(plan) / 1e6)
    logger.info("%s", describe_layers(network))
    described = _facts(
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
    """Writes plan and facts, both or none, and returns the facts.

    Args:
        engine: What to write.
        path: The plan file.
        verify: Is called with a path where both are, in the same folder, before they get their
            names. What it returns goes into the facts; if it raises, nothing is written.

    Raises:
        OutputError: A file cannot be written.
    """
    facts = engine.facts
    with written_atomically(path) as temporary:
        temporary.write_bytes(engine.plan)
        sidecar = sidecar_path(temporary)
        sidecar.write_text(facts.to_json(), encoding="utf-8")
        if verify is not None:
            facts = replace(facts, verification=verify(temporary))
            sidecar.write_text(facts.to_json(), encoding="utf-8")
    return facts


def _require_narrow_labels(facts: OnnxFacts) -> None:
    classes = facts.spec.network.num_classes
    if facts.export.output is OutputKind.LABELS and classes > MAX_LABELS:
        raise BuildError(
            f"the graph returns labels of {classes} classes as uint16, which TensorRT "
            "does not support",
            f"logits, or labels of at most {MAX_LABELS} classes",
            "export the checkpoint again with output='logits'",
        )


def _parse(session: Session, path: Path) -> None:
    parser = session.tensorrt.module.OnnxParser(session.network, session.builder.logger)
    # From the file, not from bytes: the weights of large models are in a second file beside it.
    if parser.parse_from_file(str(path)):
        return
    errors = [_described(parser.get_error(index)) for index in range(parser.num_errors)]
    reasons = errors or session.messages.errors
    raise BuildError(
        f"{session.tensorrt.flavour} {session.tensorrt.version_text} cannot read {path}:\n    "
        + "\n    ".join(reasons or ["it gives no reason"]),
        "an ONNX graph all of whose nodes it knows",
        "another sampler=, or export the model again; report this if it is an export of ours",
    )


def _described(error: Any) -> str:
    first_line = str(error.desc()).strip().partition("\n")
    more = first_line[2].strip().partition("\n")[0]
    message = f"{first_line[0]}; {more}" if more else first_line[0]
    if error.node() < 0:
        return message
    return f"node {error.node()}, {error.node_operator()} {error.node_name()!r}: {message}"


def _plan(
    session: Session, profile: Profile, options: BuildOptions, progress: PhaseProgress | None
) -> bytes:
    config = configuration(session, profile, options)
    if options.timing_cache is not None:
        use_timing_cache(config, options.timing_cache, session.messages)
    phases = Phases(progress)
    monitor = monitor_of(session.tensorrt.module, phases)
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
            "a graph and options it can build",
            "another workspace=, compute_capabilities= or input shape, or sampler='gather'",
        )
    if options.timing_cache is not None:
        save_timing_cache(config, options.timing_cache)
    return bytes(plan)


def _facts(
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
