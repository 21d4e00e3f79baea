"""Checks before reading files, and atomic writing."""

import contextlib
import functools
import hashlib
import os
import reprlib
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alignseg_infer.errors import AlignSegError, OptionError, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HASH_BLOCK = 1 << 20
TEMPORARY = ".writing-"  # how names of folders for files that are being written begin


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` for the home folder as in a shell.

    Raises:
        OptionError: It is no path, such as bytes or None.
    """
    try:
        return Path(path).expanduser()
    except TypeError as error:
        raise OptionError(
            f"a path was given as {type(path).__name__}: {' '.join(reprlib.repr(path).split())}",
            "text or a pathlib.Path",
            "str(path), or os.fsdecode(path) for bytes",
        ) from error
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
    with _temporary_folder(path.parent) as folder:
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


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a folder in `parent` for files that are being written, and remove it at the end.

    It is locked until then. What a process that was killed has left is not locked any more, so the
    next process that writes into `parent` removes it.
    """
    _remove_leftovers(parent)
    folder, lock = _make_locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make_locked_folder(parent: Path) -> tuple[Path, int | None]:
    """Return a new folder and the descriptor that locks it; None if there are no locks here."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=TEMPORARY))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):  # another process takes it for a leftover
            continue
        except OSError:  # some network file systems
            return folder, None
        if lock is None or folder.exists():
            return folder, lock
        os.close(lock)


# Once for each folder: listing one of 100,000 files takes 150 ms.
@functools.lru_cache(maxsize=100)
def _remove_leftovers(parent: Path) -> None:
    for folder in parent.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # it is in use, or belongs to somebody else
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or its process ends; None on Windows.

    Raises:
        OSError: It is locked, or there are no locks here.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
