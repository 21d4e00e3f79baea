"""The only place that imports PyAV, with an error that says what to install."""

from alignseg_infer.errors import INSTALL_VIDEO, MissingDependencyError

try:
    import av
except ImportError as error:
    raise MissingDependencyError(
        f"PyAV, which reads and writes videos, cannot be imported: {error}",
        "the package av",
        INSTALL_VIDEO,
    ) from error

__all__ = ["av"]
