"""TensorRT's timing cache in a file: measurements that later builds need not repeat.

TensorRT's own tools read and write the same file (``trtexec --timingCacheFile``). TensorRT for RTX
does not use it ("Timing Cache Migration" in its documentation says why).
"""

from pathlib import Path

from alignseg_infer.errors import BuildError, OptionError
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.trt.bindings import IBuilderConfig
from alignseg_infer.trt.log import Messages


def use_timing_cache(config: IBuilderConfig, path: Path, messages: Messages) -> None:
    """Give `config` the measurements in the file at `path`, or none if it does not exist yet.

    TensorRT treats a file that it cannot read as empty and only warns, so a warning counts as an
    error here.

    Raises:
        BuildError: The file comes from another version of TensorRT or another GPU, or is damaged.
        OptionError: The file cannot be read.
    """
    stored = _read_file(path)
    before = len(messages.warnings)
    cache = config.create_timing_cache(stored)
    taken = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    complaints = [text for text in messages.warnings[before:] if "timing cache" in text.lower()]
    if not taken or (stored and complaints):
        raise BuildError(
            f"TensorRT rejects the timing cache {path}: {'; '.join(complaints)}",
            "a file that the same version of TensorRT wrote on the same kind of GPU",
            f"use another file, or rm {path}",
        )


def _read_file(path: Path) -> bytes:
    try:
        reason = "it is a pipe" if path.is_fifo() else None  # nobody may ever write to it
        stored = path.read_bytes() if path.exists() and not reason else b""
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise OptionError(
            f"the timing cache {path} cannot be read: {reason}", "a file", "timing_cache=FILE"
        )
    return stored


def save_timing_cache(config: IBuilderConfig, path: Path) -> None:
    """Write the measurements of the build with `config` to `path`.

    Raises:
        OutputError: The file cannot be written.
    """
    cache = config.get_timing_cache()
    with write_atomically(path) as temporary:
        temporary.write_bytes(memoryview(cache.serialize()))
