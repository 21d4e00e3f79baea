"""Files that are written whole or not at all, and temporary folders."""

import atexit
import contextlib
import errno
import functools
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alignseg_infer.errors import OutputError
from alignseg_infer.files.reading import real_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".writing-alignseg-"  # how names of folders for files that are being written begin
# The same in the system's temporary folder, where other programs have folders, too.
SYSTEM_TEMPORARY = ".alignseg-writing-"
_RANDOM = "[a-z0-9_]" * 8  # how they end, as `tempfile.mkdtemp` makes them
_VARIABLES = ("TMPDIR", "TEMP", "TMP")  # that name the temporary folder, in Python's order
_OTHER_TEMPORARY = f"name a folder on another disk: export {_VARIABLES[0]}=FOLDER"
# A full disk, a used-up quota, a file as large as the shell or the disk allows, a read-only disk.
NO_ROOM = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS") if hasattr(errno, name)
}


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
        if error.errno in NO_ROOM:
            raise no_room_error(path / TEMPORARY, error) from error
        raise OutputError(
            f"cannot write into {path}: {_describe(error, path)}",
            "a folder that can be created and written to",
            "choose another output with -o",
        ) from error


def require_no_pipe(path: Path) -> None:
    """Check that a model can be written to `path`, which is read again afterwards.

    Raises:
        OutputError: It is a pipe or a device.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OutputError(
            f"{path} is a pipe or a device",
            "a file name, since a model is read again when it is written",
            f"-o {path.with_stem(path.stem + '-file').name}",
        )


def _describe(error: Exception, path: Path) -> str:
    """Return why a path cannot be written."""
    if not path.is_absolute():
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the working folder no longer exists; go to another one, or give a whole path"
    if isinstance(error, FileExistsError):
        return "it is not a folder"
    return getattr(error, "strerror", None) or f"{error}"


def no_room_error(path: Path, error: OSError) -> OutputError:
    """Return the error about `path`, whose disk has no room: what is full, and what to type."""
    folder, choose = path.parent, "choose another output with -o"
    problem = f"cannot write {path}: {error.strerror}"
    for place in (path, *path.parents):
        if place.name.startswith(SYSTEM_TEMPORARY):
            folder, choose = place.parent, _OTHER_TEMPORARY
            problem = f"cannot write into the temporary folder {folder}: {error.strerror}"
    if error.errno == errno.EFBIG:
        expected = "files of any size; a limit of the shell or of the disk stops this one"
        return OutputError(problem, expected, f"ulimit -f unlimited, or {choose}")
    while not folder.exists() and folder != folder.parent:  # df takes only what exists
        folder = folder.parent
    return OutputError(
        problem, "free disk space and permission to write there", f"df -h {folder}, or {choose}"
    )


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Create a folder for the block, and remove it at the end of the block or of Python.

    A process that is forked during the block does not remove the folder when it ends, as it would
    with `tempfile.TemporaryDirectory`. The folder is locked. What a process that was killed has
    left is not locked any more, so the next process that makes a folder in the same place removes
    it.

    Args:
        parent: Where to create it; None for the system's temporary folder.

    Raises:
        OutputError: It cannot be created, or the system's temporary folder has no room for what the
            block writes.
    """
    with _naming_full_disk() if parent is None else contextlib.nullcontext():
        folder, lock = _make_locked_folder(parent)
        process = os.getpid()

        def remove() -> None:
            if os.getpid() == process:
                shutil.rmtree(folder, ignore_errors=True)

        atexit.register(remove)
        try:
            yield folder
        finally:
            remove()  # if a second signal interrupts it, it runs again when Python ends
            atexit.unregister(remove)
            if lock is not None:
                os.close(lock)


def system_folder() -> Path:
    """Return the system's temporary folder, which ``TMPDIR`` names.

    Python takes another folder without a word if that one cannot be used; this raises an error.

    Raises:
        OutputError: The folder cannot be written to.
    """
    asked = next(filter(None, map(os.environ.get, _VARIABLES)), None)
    try:
        used = tempfile.gettempdir()
        if asked is None or real_path(asked) == real_path(used):
            return Path(used)
    except OSError:  # none of several places
        used = asked = asked or "/tmp"  # noqa: S108 - named in the error
    try:
        with tempfile.TemporaryFile(dir=asked) as trial:
            trial.write(b"x")
    except OSError as error:
        raise OutputError(
            f"cannot write into the temporary folder {asked}: {error.strerror or error}",
            "a folder that exists, on a disk with room",
            _OTHER_TEMPORARY
            if Path(asked).exists() or asked.startswith("~")  # no shell replaced it in quotes
            else f"mkdir -p {shlex.quote(asked)}, or {_OTHER_TEMPORARY}",
        ) from error
    return Path(used)  # it can be written to, but the application has chosen this one


@contextlib.contextmanager
def _naming_full_disk() -> Iterator[None]:
    """Say which disk has no room for temporary files.

    Raises:
        OutputError: The block raised an OSError about a disk without room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise no_room_error(system_folder() / SYSTEM_TEMPORARY, error) from error


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move what was written there to `path` at the end.

    If the block raises, `path` stays as it was and the temporary files are deleted. A pipe or a
    device, such as ``/dev/null``, is not replaced: what was written is copied into it.

    Raises:
        OutputError: The folder cannot be written to, `path` is a directory, or a pipe cannot take
            what was written.
    """
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        is_special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
        if not is_special:  # the folder of a pipe may be one that nobody can write to
            path = path.resolve()  # a symbolic link stays; its target is replaced
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
        problem = f"{path} cannot be written: {_describe(error, path)}"
        raise OutputError(problem, "a file name", "-o NAME") from error
    if stat.S_ISDIR(mode):
        raise OutputError(f"{path} is a directory", "a file name", f"-o {path / 'NAME'}")
    if not is_special:
        require_writable_folder(path.parent)
    with temporary_folder(None if is_special else path.parent) as folder:
        temporary = folder / path.name
        with _naming_output(temporary if is_special else path, folder):
            yield temporary
        written = sorted(folder.iterdir(), key=lambda file: file == temporary)
        with _naming_output(path, folder):
            if is_special:
                _copy_into(path, written)
            else:
                for file in written:
                    os.replace(file, path.parent / file.name)


@contextlib.contextmanager
def _naming_output(path: Path, folder: Path) -> Iterator[None]:
    """Say that `path`, which is made in `folder`, cannot be written.

    Raises:
        OutputError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room_error(path, error) from error
        other = error.filename if isinstance(error.filename, str) else None
        if other and not Path(other).is_relative_to(folder) and Path(other) != path:
            problem = f"cannot write {path}, since {other} fails: {error.strerror}"
            raise OutputError(problem, "a file that can be used", f"ls -l {other}") from error
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}",
            "free disk space and permission to write there",
            f"df -h {path.parent}, or choose another output with -o",
        ) from error


def _copy_into(special: Path, written: list[Path]) -> None:
    """Copy a file into a pipe or a device.

    Raises:
        OutputError: There are several files, which belong beside each other.
        OSError: It cannot be written to.
    """
    if len(written) > 1:
        raise OutputError(
            f"{special} is a pipe or a device, but {len(written)} files have to be written",
            "a file name, so that the other files can be beside it",
            "-o NAME",
        )
    with written[0].open("rb") as source, special.open("wb") as target:
        shutil.copyfileobj(source, target)


def _make_locked_folder(parent: Path | None) -> tuple[Path, int | None]:
    """Return a new folder and the descriptor that locks it; None if there are no locks here.

    Raises:
        OutputError: It cannot be created.
    """
    prefix = SYSTEM_TEMPORARY if parent is None else TEMPORARY
    parent = parent or system_folder()
    _remove_leftovers(parent, prefix)
    while True:
        try:
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        except OSError as error:
            raise no_room_error(parent / prefix, error) from error
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
def _remove_leftovers(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}{_RANDOM}"):
        with contextlib.suppress(OSError):  # it is in use, or belongs to somebody else
            if hasattr(os, "geteuid") and folder.lstat().st_uid != os.geteuid():
                continue
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
