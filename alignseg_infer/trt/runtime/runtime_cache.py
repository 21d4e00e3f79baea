"""A file that keeps the kernels that TensorRT-RTX compiled for this GPU between runs.

The file lies beside the engine: ``alignseg.engine.cache``. TensorRT-RTX checks that it fits the
GPU, driver and version ("Working with Runtime Cache"); a file that does not fit is replaced.
Everything works without the file too, but the first calls are slower.
"""

import logging
from pathlib import Path

from alignseg_infer.errors import OutputError
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.trt.bindings import RtxIRuntimeCache

logger = logging.getLogger(__name__)


def cache_path(engine: Path) -> Path:
    """Return where the cache of the plan file `engine` lies."""
    return engine.with_name(engine.name + ".cache")


def read_cache(path: Path, cache: RtxIRuntimeCache) -> None:
    """Fill `cache` from the file, if there is one that fits. The CUDA context must be current."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("%s cannot be read: %s", path, error)
        return
    if not content or not cache.deserialize(content):
        logger.info("%s belongs to another GPU, driver or version; it will be replaced", path)


def write_cache(path: Path, cache: RtxIRuntimeCache) -> None:
    """Write `cache` to the file, if that changes it."""
    content = bytes(cache.serialize())
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        with write_atomically(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, OutputError) as error:
        logger.warning("the compiled kernels cannot be kept for the next run: %s", error)
