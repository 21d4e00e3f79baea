"""Turns the bytes of a plan file into an engine."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from alignseg_infer.errors import EngineError
from alignseg_infer.trt.bindings import ICudaEngine, Runtime
from alignseg_infer.trt.flavours import TensorRT
from alignseg_infer.trt.log import ErrorLog, new_log
from alignseg_infer.trt.plugin_library import provide_plugins
from alignseg_infer.trt.runtime.checks import REBUILD
from alignseg_infer.trt.starting import start


class Deserialized(NamedTuple):
    """An engine, and what must outlive it. Let go of them in reverse order."""

    log: ErrorLog
    runtime: Runtime
    engine: ICudaEngine


def deserialize(
    path: Path,
    plan: bytes,
    tensorrt: TensorRT,
    *,
    has_code: bool,
    plugins: Collection[str],
    library: Path | None,
) -> Deserialized:
    """Return the engine in a plan. The CUDA context must be current.

    Args:
        path: The plan file, for messages.
        plan: Its content.
        tensorrt: What reads it.
        has_code: Whether the plan may contain code, as version-compatible ones do; it is run.
        plugins: Plugins that the engine needs and does not contain, as ``name/version``.
        library: Library of these plugins, as `plugin_library.find_plugin_library` takes it.

    Raises:
        DeviceError: TensorRT does not start.
        EngineError: TensorRT does not read the plan, or the plugins are missing.
    """
    log = new_log(tensorrt)
    runtime = start(tensorrt, lambda: tensorrt.module.Runtime(log), log.take_errors)
    if has_code:
        runtime.engine_host_code_allowed = True
    if plugins:
        try:
            provide_plugins(tensorrt, plugins, library, EngineError)
        except EngineError:
            del runtime  # the traceback would keep it alive longer than the CUDA context
            raise
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        del runtime  # as above
        raise EngineError(
            f"{path} cannot be loaded: {log.take_errors()}",
            f"an engine that {tensorrt.flavour} {tensorrt.version_text} reads on this GPU",
            REBUILD,
        )
    return Deserialized(log, runtime, engine)
