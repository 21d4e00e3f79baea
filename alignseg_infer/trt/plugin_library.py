"""The library of TensorRT plugins: where it is, and how TensorRT gets to know it.

Calls follow TensorRT's Python API reference, IPluginRegistry. With the bindings of 11.4 they load
the library and create its plugins (tests/trt/test_engine_classic_api.py); no engine was run so yet.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from alignseg_infer.errors import AlignSegError
from alignseg_infer.spec.plugin_contract import NAMESPACE
from alignseg_infer.trt.flavours import Flavour, TensorRT

LIBRARY_VARIABLE = "ALIGNSEG_PLUGIN"
BUILT_LIBRARY = Path(__file__).parents[2] / "plugins" / "build" / "libalignseg_plugin.so"
BUILD_IT = (
    "in a checkout: cmake -S plugins -B plugins/build && cmake --build plugins/build; then "
    f"export {LIBRARY_VARIABLE}=$PWD/plugins/build/libalignseg_plugin.so"
)
WITHOUT_PLUGINS = (
    "sampler='gather' or sampler='native' when the checkpoint is exported, or flavour='tensorrt'"
)


def plugin_library(asked: Path | None, what: str, error: type[AlignSegError]) -> Path:
    """The library file: what was asked for, else ``$ALIGNSEG_PLUGIN``, else that of a checkout.

    Args:
        asked: What was asked for, if anything.
        what: What needs it, for the message.
        error: Class of what is raised.

    Raises:
        AlignSegError: There is no such file; of the class `error`.
    """
    said = os.environ.get(LIBRARY_VARIABLE)
    chosen = asked or (Path(said) if said else BUILT_LIBRARY)
    if not chosen.is_file():
        source = "plugin=" if asked else (f"${LIBRARY_VARIABLE}" if said else "the default place")
        raise error(
            f"{what} needs the library of TensorRT plugins, which is not at {chosen} ({source})",
            "the library built from plugins/, for this TensorRT",
            BUILD_IT,
        )
    return chosen.resolve()


def require_plugins_of(flavour: Flavour, what: str, error: type[AlignSegError]) -> None:
    """Checks that `flavour` has plugins at all.

    Args:
        flavour: Which TensorRT.
        what: What needs them, for the message.
        error: Class of what is raised.

    Raises:
        AlignSegError: It has none; of the class `error`.
    """
    if flavour is Flavour.TENSORRT_RTX:
        raise error(
            f"{what} needs TensorRT plugins, and TensorRT for RTX has none",
            "a model without plugins, or classic TensorRT",
            WITHOUT_PLUGINS,
        )


def provide_plugins(
    tensorrt: TensorRT, needed: Collection[str], library: Path | None, error: type[AlignSegError]
) -> None:
    """Loads the library into TensorRT's registry, unless what is needed is there already.

    Args:
        tensorrt: Where to.
        needed: Plugins as ``name/version``.
        library: As `plugin_library` takes it.
        error: Class of what is raised.

    Raises:
        AlignSegError: The library is not there, cannot be loaded, or lacks a plugin; of the class
            `error`.
    """
    wanted = ", ".join(sorted(needed))
    what = f"a network with the plugins {wanted}"
    require_plugins_of(tensorrt.flavour, what, error)
    registry = tensorrt.module.get_plugin_registry()
    if not _missing(registry, needed):
        return
    path = plugin_library(library, what, error)
    if registry.load_library(str(path)) is None:
        raise error(
            f"{tensorrt.flavour} {tensorrt.version_text} cannot load the plugins of {path}, of "
            f"which {wanted} are needed",
            "the library built for this TensorRT, whose plugins no other library has registered",
            BUILD_IT,
        )
    if missing := _missing(registry, needed):
        raise error(
            f"{path} does not provide the TensorRT plugins {', '.join(missing)}",
            f"a library with {wanted}, of the namespace {NAMESPACE!r}",
            BUILD_IT,
        )


def _missing(registry: Any, needed: Collection[str]) -> list[str]:
    """Which of `needed` the registry does not have; asking it for one would log an error."""
    present = {
        f"{creator.name}/{creator.plugin_version}"
        for creator in registry.all_creators
        if creator.plugin_namespace == NAMESPACE
    }
    return sorted(set(needed) - present)
