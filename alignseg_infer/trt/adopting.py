"""Gives facts to an engine that another tool built, such as trtexec, so that it can be loaded."""

import hashlib
from pathlib import Path

from alignseg_infer.cuda.base import Gpu
from alignseg_infer.cuda.opening import open_cuda
from alignseg_infer.errors import EngineError
from alignseg_infer.files.reading import require_file
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.spec.onnx_facts import OnnxFacts, read_onnx_facts
from alignseg_infer.trt.builder.engine import require_engine_name
from alignseg_infer.trt.engine_file import EngineFacts, Profile, read_facts, sidecar_path
from alignseg_infer.trt.flavours import Flavour, TensorRT, load_tensorrt
from alignseg_infer.trt.runtime.backend import parse_gpu
from alignseg_infer.trt.runtime.deserializing import deserialize
from alignseg_infer.trt.runtime.tensors import check_tensors, list_tensors, read_profile
from alignseg_infer.version import __version__

BUILD_IT = "build it from this model: trtexec --onnx=MODEL.onnx --saveEngine=ENGINE --stronglyTyped"


def adopt_engine(
    engine: Path,
    model: Path,
    *,
    flavour: Flavour,
    device: str,
    version_compatible: bool,
    plugin: Path | None,
) -> EngineFacts:
    """Write the facts of an engine beside it, after comparing its tensors with the model's.

    Args:
        engine: The plan file.
        model: The ``.onnx`` of this package that it was built from.
        flavour: Which TensorRT built it.
        device: ``cuda`` or ``cuda:N``: the GPU that built it.
        version_compatible: Whether it was built to run in newer versions too. Its plan contains
            code then, which is run.
        plugin: Library of TensorRT plugins, as `TensorRTBackend` takes it.

    Raises:
        EngineError: The engine cannot be loaded, does not fit the model, or has its facts already.
        ModelFileError: `model` cannot be read.
        DeviceError: There is no driver or no such GPU.
        MissingDependencyError: TensorRT or a package to call CUDA through is not installed.
        OutputError: The facts cannot be written.
    """
    require_engine_name(engine, "engine")
    require_file(engine, "a TensorRT engine", EngineError)
    source = read_onnx_facts(model)
    plan = engine.read_bytes()
    _require_no_facts(engine, hashlib.sha256(plan).hexdigest())
    tensorrt = load_tensorrt(flavour)
    cuda = open_cuda(parse_gpu(device), "auto")
    try:
        with cuda.current():
            facts = _facts_from(
                *(engine, plan, source, tensorrt, cuda.gpu),
                version_compatible=version_compatible,
                library=plugin,
            )
    finally:
        cuda.close()
    with write_atomically(sidecar_path(engine)) as temporary:
        temporary.write_text(facts.to_json(), encoding="utf-8")
    return facts


def _require_no_facts(engine: Path, sha256: str) -> None:
    try:
        known = read_facts(engine)
    except EngineError:
        return
    if known.sha256 == sha256:
        path = sidecar_path(engine)
        raise EngineError(
            f"{engine} already has its facts, in {path.name}, built by {known.builder}",
            "an engine without facts, or one that was built since",
            f"use it as it is, or rm {path}",
        )


def _facts_from(
    path: Path,
    plan: bytes,
    source: OnnxFacts,
    tensorrt: TensorRT,
    gpu: Gpu,
    *,
    version_compatible: bool,
    library: Path | None,
) -> EngineFacts:
    needed = sorted(set(source.plugins))
    log, runtime, engine = deserialize(
        *(path, plan, tensorrt), has_code=version_compatible, plugins=needed, library=library
    )
    try:
        check_tensors(path, source.spec, list_tensors(engine), BUILD_IT)
        profile = read_profile(engine, source.spec)
        is_classic = tensorrt.flavour is Flavour.TENSORRT
        level = engine.hardware_compatibility_level.name
        facts = EngineFacts(
            spec=source.spec,
            sha256=hashlib.sha256(plan).hexdigest(),
            flavour=tensorrt.flavour,
            tensorrt_version=tensorrt.version_text,
            version_compatible=version_compatible,
            hardware_compatibility=level.lower().replace("_", "-"),
            # Nothing tells for which others TensorRT for RTX built it.
            compute_capabilities=() if is_classic else (gpu.compute_capability,),
            gpu=gpu if is_classic else None,
            profile=profile,
            plugins=tuple(needed),
            layers=(),
            source_sha256=source.sha256,
            verification=None,
            builder=f"another tool, adopted by alignseg-infer {__version__}",
            tf32=True,  # the default of trtexec; the plan does not tell
        )
        _require_profile(path, source, profile)
    finally:
        del engine, runtime, log  # a traceback would keep them alive longer than the CUDA context
    return facts


def _require_profile(path: Path, source: OnnxFacts, profile: Profile) -> None:
    """Check that the engine takes inputs of the model's fixed size and batch.

    Raises:
        EngineError: It takes others.
    """
    export = source.export
    low, high = profile.minimum, profile.maximum
    fits = all(
        export.size in (None, (shape.height, shape.width)) and export.batch in (None, shape.batch)
        for shape in (low, high)
    )
    if not fits:
        size = "any size" if export.size is None else "size {}x{}".format(*export.size)
        raise EngineError(
            f"{path} does not fit the model: it takes {low} to {high} (batch x height x width)",
            f"{size}, batch {export.batch or 'of any size'}",
            BUILD_IT,
        )
