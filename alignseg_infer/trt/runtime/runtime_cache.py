"""Kernels that TensorRT-RTX compiled for this GPU, kept in a file between runs.

The file is beside the engine, ``alignseg.engine.cache``. TensorRT-RTX checks that it fits the GPU,
driver and version ("Working with Runtime Cache"); one that does not is replaced. Without it all
works the same, only the first calls are slower.
"""

import logging
from pathlib import Path
from typing import Any

from alignseg_infer.errors import OutputError
from alignseg_infer.files import written_atomically

logger = logging.getLogger(__name__)


def cache_path(engine: Path) -> Path:
    """Where the cache of the plan file `engine` is."""
    return engine.with_name(engine.name + ".cache")


def read_cache(path: Path, cache: Any) -> None:
    """Fills `cache` from the file, if there is one that fits. Needs the CUDA context current."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("%s cannot be read: %s", path, error)
        return
    if not content or not cache.deserialize(content):
        logger.info("%s is of another GPU, driver or version; it will be replaced", path)


def write_cache(path: Path, cache: Any) -> None:
    """Writes `cache` to the file, if that changes it."""
    content = bytes(cache.serialize())
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        with written_atomically(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, OutputError) as error:
        logger.warning("the compiled kernels are not kept for the next run: %s", error)
