"""The two flavours of TensorRT, which have nearly the same Python API, and their differences.

``tensorrt`` builds on the GPU that will run the engine. ``tensorrt_rtx`` (TensorRT for RTX) is for
consumer GPUs; it builds engines without any GPU, and has no plugins.

The sources are pages of NVIDIA's documentation: "Migrating from TensorRT 10.x to 11.x" (networks
are strongly typed in 11; 10 needs a flag for it, which 11 ignores, so the flag is always set),
"Engine Compatibility" (version and hardware compatibility), and for TensorRT for RTX "Timing Cache
Migration" and "CPU-Only AOT and TensorRT-RTX Engines".
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from alignseg_infer.backports import StrEnum
from alignseg_infer.errors import MissingDependencyError, OptionError
from alignseg_infer.text import version_numbers
from alignseg_infer.trt import bindings as api


class Flavour(StrEnum):
    """Which TensorRT."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


_INSTALL = {
    Flavour.TENSORRT: "pip install tensorrt, on a machine with an NVIDIA GPU (tensorrt-cu12 for "
    "CUDA 12); or flavour='tensorrt-rtx', which builds without one: pip install tensorrt-rtx-cu13",
    Flavour.TENSORRT_RTX: "pip install tensorrt-rtx-cu13 (tensorrt-rtx-cu12 for CUDA 12); builds "
    "without a GPU",
}
_OLDEST = {Flavour.TENSORRT: (10, 0), Flavour.TENSORRT_RTX: (1, 0)}


class Module(Protocol):
    """The names in ``tensorrt`` that this package uses."""

    @property
    def __version__(self) -> str: ...
    @property
    def Builder(self) -> Callable[[api.ILogger], api.Builder]: ...
    @property
    def OnnxParser(self) -> Callable[[api.INetworkDefinition, api.ILogger], api.OnnxParser]: ...
    @property
    def Runtime(self) -> Callable[[api.ILogger], api.Runtime]: ...
    @property
    def ILogger(self) -> type[api.ILogger]: ...
    @property
    def IProgressMonitor(self) -> type[api.IProgressMonitor]: ...
    @property
    def IUnaryLayer(self) -> type[api.IUnaryLayer]: ...
    @property
    def IGridSampleLayer(self) -> type[api.IGridSampleLayer]: ...
    @property
    def IResizeLayer(self) -> type[api.IResizeLayer]: ...
    @property
    def IPluginV3Layer(self) -> type[api.IPluginV3Layer]: ...
    @property
    def BuilderFlag(self) -> api.BuilderFlag: ...
    @property
    def HardwareCompatibilityLevel(self) -> api.HardwareCompatibilityLevel: ...
    @property
    def LayerInformationFormat(self) -> api.LayerInformationFormat: ...
    @property
    def MemoryPoolType(self) -> api.MemoryPoolType: ...
    @property
    def NetworkDefinitionCreationFlag(self) -> api.NetworkDefinitionCreationFlag: ...
    @property
    def PluginCapabilityType(self) -> api.PluginCapabilityType: ...
    @property
    def ProfilingVerbosity(self) -> api.ProfilingVerbosity: ...
    def get_plugin_registry(self) -> api.IPluginRegistry: ...


class RtxModule(Module, Protocol):
    """The names in ``tensorrt_rtx`` that this package uses."""

    @property
    def ComputeCapability(self) -> api.RtxComputeCapability: ...
    @property
    def CudaGraphStrategy(self) -> api.RtxCudaGraphStrategy: ...


class TensorRT(NamedTuple):
    """An imported TensorRT.

    Attributes:
        flavour: Which.
        module: ``tensorrt`` or ``tensorrt_rtx``.
        version: As numbers, e.g. (11, 4, 0, 106).
    """

    flavour: Flavour
    module: Module
    version: tuple[int, ...]

    @property
    def version_text(self) -> str:
        """The version as text, e.g. ``11.4.0.106``."""
        return ".".join(map(str, self.version))


def load_tensorrt(flavour: Flavour) -> TensorRT:
    """Import TensorRT.

    Raises:
        MissingDependencyError: TensorRT is not installed, or is too old.
    """
    name = flavour.value.replace("-", "_")
    try:
        module = cast("Module", importlib.import_module(name))
    except ImportError as error:
        raise MissingDependencyError(
            f"the Python package {name} cannot be imported: {error}",
            f"{flavour} {'.'.join(map(str, _OLDEST[flavour]))} or newer",
            _INSTALL[flavour],
        ) from error
    version = version_numbers(module.__version__)
    if version < _OLDEST[flavour]:
        raise MissingDependencyError(
            f"{flavour} {module.__version__} is installed",
            f"{'.'.join(map(str, _OLDEST[flavour]))} or newer",
            _INSTALL[flavour],
        )
    return TensorRT(flavour, module, version)


def captures_graphs_itself(tensorrt: TensorRT) -> bool:
    """Whether contexts from `new_context` already run as CUDA graphs.

    TensorRT-RTX does so since 1.2. After the first call with a shape, it replaces kernels in the
    background, so a graph captured around it would keep the slow ones ("Working with RTX CUDA
    Graphs").
    """
    return hasattr(tensorrt.module, "CudaGraphStrategy")


def new_runtime_cache(tensorrt: TensorRT, engine: api.ICudaEngine) -> api.RtxIRuntimeCache | None:
    """Return an empty cache for kernels that TensorRT-RTX compiles at run time, or None."""
    if tensorrt.flavour is not Flavour.TENSORRT_RTX:
        return None
    return cast("api.RtxICudaEngine", engine).create_runtime_config().create_runtime_cache()


def new_context(
    tensorrt: TensorRT, engine: api.ICudaEngine, cache: api.RtxIRuntimeCache | None
) -> api.IExecutionContext | None:
    """Create an execution context with its memory; None on failure, with a message in the log.

    Args:
        tensorrt: The TensorRT that `engine` belongs to.
        engine: The engine.
        cache: From `new_runtime_cache`; it must outlive the context.
    """
    if tensorrt.flavour is not Flavour.TENSORRT_RTX:
        return engine.create_execution_context()
    engine = cast("api.RtxICudaEngine", engine)
    config = engine.create_runtime_config()
    if cache is not None:
        config.set_runtime_cache(cache)
    if captures_graphs_itself(tensorrt):
        strategy = cast("RtxModule", tensorrt.module).CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)


def context_memory(tensorrt: TensorRT, engine: api.ICudaEngine) -> int:
    """Return the bytes of GPU memory that one execution context needs for activations."""
    if tensorrt.flavour is Flavour.TENSORRT and tensorrt.version < (10, 1):
        return engine.device_memory_size
    return engine.device_memory_size_v2


class _Only(NamedTuple):
    """The flavour that takes a build option, and why the other one does not."""

    flavour: Flavour
    reason: str


_ONLY = {
    "timing_cache": _Only(
        Flavour.TENSORRT,
        "TensorRT for RTX times nothing when it builds, and would only ask for a GPU",
    ),
    "version_compatible": _Only(
        Flavour.TENSORRT, "packages of TensorRT for RTX lack the library it needs (nvinfer_lean)"
    ),
    "hardware_compatibility": _Only(
        Flavour.TENSORRT,
        "engines of TensorRT for RTX run on several GPUs anyway; compute_capabilities= names them",
    ),
    "plugin": _Only(Flavour.TENSORRT, "TensorRT for RTX has no plugins"),
    "embed_plugin": _Only(Flavour.TENSORRT, "TensorRT for RTX has no plugins"),
    "compute_capabilities": _Only(
        Flavour.TENSORRT_RTX,
        "TensorRT builds for its own GPU; hardware_compatibility= adds others",
    ),
}


def require_option_of(flavour: Flavour, option: str) -> None:
    """Check that a flavour takes a build option, given by the name of its parameter.

    Raises:
        OptionError: This flavour would ignore the option, or fail.
    """
    only = _ONLY.get(option)
    if only is not None and only.flavour is not flavour:
        raise OptionError(
            f"{option}= with flavour={flavour.value!r}",
            f"flavour={only.flavour.value!r}: {only.reason}",
            f"leave {option}= out",
        )


def typed_network(tensorrt: TensorRT, builder: api.Builder) -> api.INetworkDefinition:
    """Create an empty network whose tensors keep the types that the graph gives them."""
    flag = tensorrt.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    return builder.create_network(1 << int(flag))


# The compute capabilities of the GPUs that run an engine of TensorRT for RTX if it was built for
# none in particular ("CPU-Only AOT and TensorRT-RTX Engines"); not Orin (8.7) and Hopper (9.0).
RTX_DEFAULT = ("8.0", "8.6", "8.9", "12.0")
RTX_DEFAULT_TEXT = "8.0, 8.6, 8.9, 12.0 and later"


def compute_capability(tensorrt: TensorRT, text: str) -> api.Enumerator:
    """Turn ``8.9`` into ``ComputeCapability.SM89`` of TensorRT for RTX.

    Raises:
        OptionError: TensorRT for RTX cannot build for this compute capability.
    """
    members = cast("RtxModule", tensorrt.module).ComputeCapability.__members__
    numbers = {name[2:-1] + "." + name[-1]: name for name in members if name.startswith("SM")}
    if text not in numbers:
        raise OptionError(
            f"compute_capabilities={[text]}",
            f"one that {tensorrt.flavour} {tensorrt.version_text} supports: {', '.join(numbers)}",
            f"compute_capabilities={list(RTX_DEFAULT)}; or flavour='tensorrt', on the GPU itself",
        )
    return members[numbers[text]]
