"""PyAV, or what to install; the one place that imports it."""

from alignseg_infer.errors import MissingDependencyError

INSTALL = "pip install 'alignseg-infer[video]', or pip install av"

try:
    import av
except ImportError as error:
    raise MissingDependencyError(
        f"videos are read and written with PyAV, which cannot be imported: {error}",
        "the package av",
        INSTALL,
    ) from error

__all__ = ["av"]
