"""TensorRT's objects for a build, and their configuration."""

from dataclasses import dataclass
from typing import cast

from alignseg_infer.backports import Self
from alignseg_infer.errors import BuildError, OptionError
from alignseg_infer.trt import bindings as api
from alignseg_infer.trt.builder.options import (
    MEBIBYTE,
    BuildOptions,
    HardwareCompatibility,
    shape_tuple,
)
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import (
    TensorRT,
    compute_capability,
    load_tensorrt,
    typed_network,
)
from alignseg_infer.trt.lean_runtime import load_lean_runtime
from alignseg_infer.trt.log import Messages, new_logger
from alignseg_infer.trt.starting import start


@dataclass(frozen=True)
class Session:
    """TensorRT's objects for one build. Keep them until the build has ended.

    Attributes:
        tensorrt: The TensorRT that builds.
        messages: The messages that it logs.
        builder: Its ``Builder``.
        network: An ``INetworkDefinition``, which the parser fills.
    """

    tensorrt: TensorRT
    messages: Messages
    builder: api.Builder
    network: api.INetworkDefinition

    @classmethod
    def of(cls, tensorrt: TensorRT) -> Self:
        """Create a builder and an empty network.

        Raises:
            DeviceError: TensorRT does not start.
        """
        messages = Messages()
        logger = new_logger(tensorrt.module, messages)
        builder = start(tensorrt, lambda: tensorrt.module.Builder(logger), messages.list_errors)
        return cls(tensorrt, messages, builder, typed_network(tensorrt, builder))


def require_builder(options: BuildOptions) -> None:
    """Check that this TensorRT can build here, and for the GPUs in `options`.

    Raises:
        MissingDependencyError: It is not installed, or is too old.
        DeviceError: It does not start.
        OptionError: It cannot build for one of these GPUs.
        BuildError: It lacks the library that a version-compatible engine contains.
    """
    tensorrt = load_tensorrt(options.flavour)
    for text in options.compute_capabilities:
        compute_capability(tensorrt, text)
    Session.of(tensorrt)
    if options.version_compatible:
        load_lean_runtime(tensorrt)


def new_config(session: Session, profile: Profile, options: BuildOptions) -> api.IBuilderConfig:
    """Create TensorRT's ``IBuilderConfig`` for `options`, without a timing cache.

    If a plugin is to be embedded, `options` come from `plugins.load_plugins`, which finds its path.

    Raises:
        OptionError: This version of TensorRT does not support an option.
        BuildError: TensorRT rejects the profile, or lacks the library that a version-compatible
            engine contains.
    """
    module, config = session.tensorrt.module, session.builder.create_builder_config()
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.workspace is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace * MEBIBYTE)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if not options.tf32:
        config.clear_flag(module.BuilderFlag.TF32)
    if options.version_compatible:
        load_lean_runtime(session.tensorrt)
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.embed_plugin:
        config.plugins_to_serialize = [str(options.plugin)]
    _set_targets(session.tensorrt, config, options)
    _add_profile(session, config, profile)
    return config


def _set_targets(tensorrt: TensorRT, config: api.IBuilderConfig, options: BuildOptions) -> None:
    if options.hardware_compatibility is not HardwareCompatibility.NONE:
        name = options.hardware_compatibility.upper().replace("-", "_")
        levels = tensorrt.module.HardwareCompatibilityLevel.__members__
        if name not in levels:
            raise OptionError(
                f"hardware_compatibility={options.hardware_compatibility.value!r}",
                f"a level that TensorRT {tensorrt.version_text} supports: {', '.join(levels)}",
                "install a newer TensorRT, or leave hardware_compatibility= out",
            )
        config.hardware_compatibility_level = levels[name]
    targets = [compute_capability(tensorrt, text) for text in options.compute_capabilities]
    if targets:
        rtx = cast("api.RtxIBuilderConfig", config)
        rtx.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            rtx.set_compute_capability(target, index)


def _add_profile(session: Session, config: api.IBuilderConfig, profile: Profile) -> None:
    image = session.network.get_input(0)
    shapes = [shape_tuple(s) for s in (profile.minimum, profile.optimum, profile.maximum)]
    if image.dtype.name == "UINT8":  # (N, H, W, 3), while floats are (N, 3, H, W)
        shapes = [(batch, height, width, channels) for batch, channels, height, width in shapes]
    described = session.builder.create_optimization_profile()
    described.set_shape(image.name, *shapes)
    if config.add_optimization_profile(described) < 0:
        raise BuildError(
            f"TensorRT rejects the input shapes {shapes}: " + "; ".join(session.messages.errors),
            "shapes that the graph takes",
            "another min_shape=, opt_shape= or max_shape=",
        )
