"""Finds the library of TensorRT plugins and loads it.

Calls follow TensorRT's Python API reference, IPluginRegistry. With the bindings of 11.4 they load
the library and create its plugins (tests/trt/test_engine_classic_api.py). No engine has run with
them yet.
"""

import mmap
import os
import re
from collections.abc import Collection
from pathlib import Path

from alignseg_infer.errors import AlignSegError
from alignseg_infer.files.reading import user_path
from alignseg_infer.spec.plugin_contract import NAMESPACE
from alignseg_infer.trt.bindings import IPluginRegistry
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


def find_plugin_library(asked: Path | None, what: str, error: type[AlignSegError]) -> Path:
    """Return the library file: `asked`, else ``$ALIGNSEG_PLUGIN``, else the one in a checkout.

    Args:
        asked: The file that the user asked for, if any.
        what: What needs the library, for the message.
        error: Class of the error to raise.

    Raises:
        AlignSegError: The file does not exist. The error is of the class `error`.
    """
    said = os.environ.get(LIBRARY_VARIABLE)
    chosen = asked or (user_path(said) if said else BUILT_LIBRARY)
    if not os.path.isfile(chosen):
        source = "plugin=" if asked else (f"${LIBRARY_VARIABLE}" if said else "the default place")
        raise error(
            f"{what} needs the library of TensorRT plugins, which is not at {chosen} ({source})",
            "the library built from plugins/, for this TensorRT",
            BUILD_IT,
        )
    return chosen.resolve()


def require_plugins_of(flavour: Flavour, what: str, error: type[AlignSegError]) -> None:
    """Check that a flavour of TensorRT supports plugins.

    Args:
        flavour: Which TensorRT.
        what: What needs plugins, for the message.
        error: Class of the error to raise.

    Raises:
        AlignSegError: This flavour has no plugins. The error is of the class `error`.
    """
    if flavour is Flavour.TENSORRT_RTX:
        raise error(
            f"{what} needs TensorRT plugins, which TensorRT for RTX does not support",
            "a model without plugins, or classic TensorRT",
            WITHOUT_PLUGINS,
        )


def provide_plugins(
    tensorrt: TensorRT, needed: Collection[str], library: Path | None, error: type[AlignSegError]
) -> None:
    """Load the library into TensorRT's registry, unless the plugins are already registered.

    Args:
        tensorrt: The TensorRT to load it into.
        needed: Plugins as ``name/version``.
        library: As `find_plugin_library` takes it.
        error: Class of the error to raise.

    Raises:
        AlignSegError: The library does not exist, was built for another major version of TensorRT,
            cannot be loaded, or lacks a plugin. The error is of the class `error`.
    """
    wanted = ", ".join(sorted(needed))
    what = f"a network with the plugins {wanted}"
    require_plugins_of(tensorrt.flavour, what, error)
    registry = tensorrt.module.get_plugin_registry()
    if not _find_missing(registry, needed):
        return
    path = find_plugin_library(library, what, error)
    require_same_major(path, tensorrt, error)
    if registry.load_library(str(path)) is None:
        raise error(
            f"{tensorrt.flavour} {tensorrt.version_text} cannot load {path}, which should provide "
            f"the plugins {wanted}",
            "the library built for this TensorRT, with plugins that no other library registered",
            BUILD_IT,
        )
    if missing := _find_missing(registry, needed):
        raise error(
            f"{path} does not provide the TensorRT plugins {', '.join(missing)}",
            f"a library with {wanted} in the namespace {NAMESPACE!r}",
            BUILD_IT,
        )


def built_for(library: Path) -> tuple[int, int] | None:
    """Return the version of TensorRT, (major, minor), that a library of plugins was built for.

    The file is read, not loaded. None for a library that does not say it.
    """
    with (
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        found = _BUILT_FOR.search(content)
        return (int(found[1]), int(found[2])) if found else None


_BUILT_FOR = re.compile(rb"alignseg plugins for TensorRT (\d+)\.(\d+)")


def require_same_major(library: Path, tensorrt: TensorRT, error: type[AlignSegError]) -> None:
    """Check that the library was built for this major version: another one may end the process.

    Raises:
        AlignSegError: It was built for another one. The error is of the class `error`.
    """
    try:
        seen = built_for(library)
    except (OSError, ValueError):  # ValueError: the file is empty
        seen = None
    major = tensorrt.version[0]
    if seen is None or seen[0] != major:
        said = f"TensorRT {seen[0]}.{seen[1]}" if seen else "a TensorRT that it does not name"
        raise error(
            f"{library} was built for {said}, but {tensorrt.flavour} {tensorrt.version_text} is "
            "installed",
            f"a library of plugins built for TensorRT {major}: another one may end the process",
            f"in a checkout: cmake -S plugins -B plugins/build -DTENSORRT_VERSION={major}."
            f"{tensorrt.version[1]} && cmake --build plugins/build",
        )


def _find_missing(registry: IPluginRegistry, needed: Collection[str]) -> list[str]:
    """Return the needed plugins that the registry lacks, without a query, which logs an error."""
    present = {
        f"{creator.name}/{creator.plugin_version}"
        for creator in registry.all_creators
        if creator.plugin_namespace == NAMESPACE
    }
    return sorted(set(needed) - present)
