"""The folder for what can be made again, but takes long: engines, calibrations, compiled models."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from alignseg_infer.errors import OutputError

FOLDER_VARIABLE = "ALIGNSEG_CACHE"
CALIBRATIONS = "calibrations"  # ranges of values, for INT8
COMPILED = "openvino"  # models that OpenVINO has compiled
CHOICES = "choices"  # what alignseg tune chose, for models whose folder cannot be written
CHECKS = "bf16-checks"  # input shapes at which bfloat16 agreed with float32
ENDINGS = {CALIBRATIONS: ".npz", COMPILED: ".compiled", CHECKS: ".json", CHOICES: ".json"}
KEY = re.compile("[0-9a-f]{64}")  # how what is kept is named


@dataclass(frozen=True)
class KeptFile:
    """A file in the cache.

    Attributes:
        path: The file.
        size: Bytes that it takes.
        used: When it was last used, in seconds since 1970.
    """

    path: Path
    size: int
    used: float


def cache_folder(kind: str) -> Path:
    """Return the folder for one kind of thing, which may not exist yet.

    It is in ``$ALIGNSEG_CACHE``, or else in the user's cache folder on this system.
    """
    said = os.environ.get(FOLDER_VARIABLE)
    if said:
        return Path(os.path.abspath(os.path.expanduser(said))) / kind
    import platformdirs

    return platformdirs.user_cache_path("alignseg-infer", appauthor=False) / kind


def kept_path(kind: str, key: str) -> Path:
    """Return where a thing of one kind is kept, which may not exist yet.

    Args:
        kind: A key of `ENDINGS`.
        key: A SHA-256 of all that the thing depends on.
    """
    return cache_folder(kind) / f"{key}{ENDINGS[kind]}"


def kept_files(kind: str) -> list[KeptFile]:
    """Return the files of one kind in the cache, the last used first."""
    found = []
    for path in cache_folder(kind).glob(f"*{ENDINGS[kind]}"):
        if not KEY.fullmatch(path.stem):  # not ours
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # another process has just removed it
            continue
        found.append(KeptFile(path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda file: -file.used)


def remove_file(file: KeptFile) -> None:
    """Remove a file from the cache.

    Raises:
        OutputError: It cannot be removed.
    """
    try:
        file.path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{file.path} cannot be removed: {error.strerror}",
            "a folder of yours",
            f"export {FOLDER_VARIABLE}=FOLDER",
        ) from error
