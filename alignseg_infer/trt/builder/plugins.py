"""The plugins of an engine to build: checks of the options, and loading of the library."""

from dataclasses import replace

from alignseg_infer.errors import BuildError, OptionError
from alignseg_infer.spec.model import Sampler
from alignseg_infer.spec.onnx_facts import OnnxFacts
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.flavours import TensorRT
from alignseg_infer.trt.plugin_library import (
    find_plugin_library,
    provide_plugins,
    require_plugins_of,
)

_MODEL = "a model with sampler='plugin'"


def require_plugin_options(sampler: Sampler, options: BuildOptions) -> None:
    """Check early that the plugins for `sampler` exist, or that no options for plugins are given.

    Raises:
        BuildError: This flavour of TensorRT has no plugins, or their library does not exist.
        OptionError: Options for plugins were given for a model without plugins.
    """
    if sampler is Sampler.PLUGIN:
        require_plugins_of(options.flavour, _MODEL, BuildError)
        find_plugin_library(options.plugin, _MODEL, BuildError)
        return
    given = {"plugin": options.plugin is not None, "embed_plugin": options.embed_plugin}
    for option in filter(given.__getitem__, given):
        raise OptionError(
            f"{option}= for a model whose sampler is {sampler}",
            _MODEL,
            f"leave {option}= out, or export the checkpoint again with sampler='plugin'",
        )


def load_plugins(tensorrt: TensorRT, facts: OnnxFacts, options: BuildOptions) -> BuildOptions:
    """Load the plugins that a graph needs into TensorRT.

    Returns:
        The options, with the path of the library in them if the graph needs it.

    Raises:
        BuildError: The library does not exist, cannot be loaded, or lacks a plugin.
    """
    if not facts.plugins:
        return options
    library = find_plugin_library(options.plugin, _MODEL, BuildError)
    provide_plugins(tensorrt, set(facts.plugins), library, BuildError)
    return replace(options, plugin=library)
