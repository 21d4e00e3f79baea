"""TensorRT's objects for a build, configured as asked."""

from dataclasses import dataclass
from typing import Any, Self

from alignseg_infer.errors import BuildError, OptionError
from alignseg_infer.trt.builder.options import (
    MEBIBYTE,
    BuildOptions,
    HardwareCompatibility,
    shape_tuple,
)
from alignseg_infer.trt.builder.progress import Messages, logger_into
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import (
    TensorRT,
    compute_capability,
    typed_network,
)


@dataclass(frozen=True)
class Session:
    """TensorRT's objects for one build; they must live as long as it lasts.

    Attributes:
        tensorrt: The flavour.
        messages: What it logs.
        builder: Its ``Builder``.
        network: An ``INetworkDefinition``, which the parser fills.
    """

    tensorrt: TensorRT
    messages: Messages
    builder: Any
    network: Any

    @classmethod
    def of(cls, tensorrt: TensorRT) -> Self:
        """A builder and an empty network."""
        messages = Messages()
        builder = tensorrt.module.Builder(logger_into(tensorrt.module, messages))
        return cls(tensorrt, messages, builder, typed_network(tensorrt, builder))


def configuration(session: Session, profile: Profile, options: BuildOptions) -> Any:
    """TensorRT's ``IBuilderConfig`` for `options`, without a timing cache.

    A plugin to embed has the path that `engine_plugins.with_plugins` found.

    Raises:
        OptionError: This version of TensorRT does not have what was asked for.
        BuildError: TensorRT does not take the profile.
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
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.embed_plugin:
        config.plugins_to_serialize = [str(options.plugin)]
    _set_targets(session.tensorrt, config, options)
    _add_profile(session, config, profile)
    return config


def _set_targets(tensorrt: TensorRT, config: Any, options: BuildOptions) -> None:
    if options.hardware_compatibility is not HardwareCompatibility.NONE:
        name = options.hardware_compatibility.upper().replace("-", "_")
        levels = tensorrt.module.HardwareCompatibilityLevel.__members__
        if name not in levels:
            raise OptionError(
                f"hardware_compatibility={options.hardware_compatibility.value!r}",
                f"what TensorRT {tensorrt.version_text} knows: {', '.join(levels)}",
                "a newer TensorRT, or leave hardware_compatibility= out",
            )
        config.hardware_compatibility_level = levels[name]
    targets = [compute_capability(tensorrt, text) for text in options.compute_capabilities]
    if targets:
        config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(target, index)


def _add_profile(session: Session, config: Any, profile: Profile) -> None:
    shapes = [shape_tuple(s) for s in (profile.minimum, profile.optimum, profile.maximum)]
    described = session.builder.create_optimization_profile()
    described.set_shape(session.network.get_input(0).name, *shapes)
    if config.add_optimization_profile(described) < 0:
        raise BuildError(
            f"TensorRT does not take the input shapes {shapes}: "
            + "; ".join(session.messages.errors),
            "shapes that the graph takes",
            "another min_shape=, opt_shape= or max_shape=",
        )
