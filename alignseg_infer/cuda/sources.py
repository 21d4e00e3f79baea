"""Where the sources of CUDA kernels and TensorRT plugins lie."""

from pathlib import Path


def plugin_folder() -> Path:
    """Return the folder ``plugins``: in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "plugins"
    return installed if installed.is_dir() else package.parent / "plugins"
