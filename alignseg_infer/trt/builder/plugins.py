"""Plugins of an engine that is to be built: whether the options fit, and the library."""

from dataclasses import replace

from alignseg_infer.errors import BuildError, OptionError
from alignseg_infer.spec.model import Sampler
from alignseg_infer.spec.onnx_facts import OnnxFacts
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.flavours import TensorRT
from alignseg_infer.trt.plugin_library import plugin_library, provide_plugins, require_plugins_of

_MODEL = "a model with sampler='plugin'"


def require_plugin_options(sampler: Sampler, options: BuildOptions) -> None:
    """Checks, before anything takes long, that what `sampler` needs is there, and nothing more.

    Raises:
        BuildError: This flavour of TensorRT has no plugins, or their library is not there.
        OptionError: Options for plugins were given, and there will be none.
    """
    if sampler is Sampler.PLUGIN:
        require_plugins_of(options.flavour, _MODEL, BuildError)
        plugin_library(options.plugin, _MODEL, BuildError)
        return
    given = {"plugin": options.plugin is not None, "embed_plugin": options.embed_plugin}
    for option in filter(given.__getitem__, given):
        raise OptionError(
            f"{option}= for a model whose sampler is {sampler}",
            _MODEL,
            f"leave {option}= out, or export the checkpoint again with sampler='plugin'",
        )


def with_plugins(tensorrt: TensorRT, facts: OnnxFacts, options: BuildOptions) -> BuildOptions:
    """Makes the plugins of a graph known to TensorRT.

    Returns:
        The options, with the path of the library in them if the graph needs it.

    Raises:
        BuildError: The library is not there, cannot be loaded, or lacks a plugin.
    """
    if not facts.plugins:
        return options
    library = plugin_library(options.plugin, _MODEL, BuildError)
    provide_plugins(tensorrt, set(facts.plugins), library, BuildError)
    return replace(options, plugin=library)
