"""TensorRT's timing cache as a file: measurements of a build that later builds need not repeat.

The file is what TensorRT's own tools read and write (``trtexec --timingCacheFile``). TensorRT
only ("Timing Cache Migration" in the documentation of TensorRT for RTX says why).
"""

from pathlib import Path
from typing import Any

from alignseg_infer.errors import BuildError, OptionError
from alignseg_infer.files import written_atomically
from alignseg_infer.trt.builder.progress import Messages


def use_timing_cache(config: Any, path: Path, messages: Messages) -> None:
    """Gives `config` the measurements in the file at `path`; none if there is no such file yet.

    TensorRT takes a file it cannot read as an empty one and only warns, so its warnings count.

    Raises:
        BuildError: They come from another version of TensorRT or another GPU, or are damaged.
        OptionError: `path` cannot be read.
    """
    stored = _stored(path)
    before = len(messages.warnings)
    cache = config.create_timing_cache(stored)
    taken = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    complaints = [text for text in messages.warnings[before:] if "timing cache" in text.lower()]
    if not taken or (stored and complaints):
        raise BuildError(
            f"TensorRT does not take the timing cache {path}: {'; '.join(complaints)}",
            "a file that the same version of TensorRT wrote on the same kind of GPU",
            f"another file, or rm {path}",
        )


def _stored(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise OptionError(
            f"the timing cache {path} cannot be read: {error.strerror}",
            "a file",
            "timing_cache=FILE",
        ) from error


def save_timing_cache(config: Any, path: Path) -> None:
    """Writes the measurements of the build with `config` to `path`.

    Raises:
        OutputError: The file cannot be written.
    """
    cache = config.get_timing_cache()
    with written_atomically(path) as temporary:
        temporary.write_bytes(memoryview(cache.serialize()))
