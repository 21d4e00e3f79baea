"""Checks before reading files, and atomic writing."""

import atexit
import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alignseg_infer.errors import AlignSegError, OutputError

HASH_BLOCK = 1 << 20


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` for the home folder as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~name of a user who does not exist: a file may be called so
        return Path(path)


def require_file(path: Path, what: str, error: type[AlignSegError]) -> None:
    """Raise `error` unless `path` is a readable file that is not empty.

    Args:
        path: The file.
        what: What the file should be, for the message: "an image".
        error: Type of the error to raise.
    """
    expected = f"{what} that can be read"
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as missing:
        fix = f"check the path: ls {path.parent}"
        raise error(f"{path} does not exist", expected, fix) from missing
    except (OSError, ValueError) as unusable:  # name too long or with a NUL, or no permission
        raise error(f"{path} cannot be read: {unusable}", expected, "check the path") from unusable
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{path} is a directory", expected, f"name a file in it: {path / '...'}")
    if status.st_size == 0:
        raise error(f"{path} is empty (0 bytes)", expected, "copy or download it again")
    if not os.access(path, os.R_OK):
        raise error(f"no permission to read {path}", expected, f"chmod +r {path}")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def require_writable_folder(path: Path) -> None:
    """Create the folder `path` if it does not exist, and check that it can be written to.

    Raises:
        OutputError: The folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write into {path}: {error.strerror}",
            "a folder that can be created and written to",
            "choose another output with -o",
        ) from error


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = "alignseg-") -> Iterator[Path]:
    """Create a folder for the block, and remove it at the end of the block or of Python.

    Other than with `tempfile.TemporaryDirectory`, a process that is forked during the block does
    not remove the folder when it ends; the folder belongs to its parent.

    Args:
        parent: Where to create it; None for the system's temporary folder.
        prefix: How its name begins.
    """
    folder, process = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)), os.getpid()

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    try:
        yield folder
    finally:
        atexit.unregister(remove)
        remove()


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move what was written there to `path` at the end.

    If the block raises, `path` stays as it was and the temporary files are deleted.

    Raises:
        OutputError: The folder cannot be written to, or `path` is a directory.
    """
    try:
        path = path.resolve()  # a symbolic link stays; its target is replaced
        taken = path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise OutputError(f"{path} cannot be written: {error}", "a file name", "-o NAME") from error
    if taken:
        raise OutputError(f"{path} is a directory", "a file name", f"-o {path / 'NAME'}")
    require_writable_folder(path.parent)
    with temporary_folder(path.parent, ".writing-") as folder:
        temporary = folder / path.name
        try:
            yield temporary
            for written in sorted(folder.iterdir(), key=lambda file: file == temporary):
                os.replace(written, path.parent / written.name)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror or error}",
                "free disk space and permission to write there",
                f"df -h {path.parent}, or choose another output with -o",
            ) from error
