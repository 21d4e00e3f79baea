"""Paths that users gave, and checks before files are read."""

import codecs
import hashlib
import os
import re
import reprlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from alignseg_infer.errors import AlignSegError, OptionError

HASH_BLOCK = 1 << 20
MAX_TEXT = 64 << 20  # bytes; a list of the 1.3 million images of ImageNet takes 50 MB
# The scheme of one letter is a drive of Windows.
_ADDRESS = re.compile("(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<place>.+)", re.DOTALL)


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


def real_path(path: str | os.PathLike[str]) -> str:
    """Return the path without links, to compare with others; as given if links cannot be read."""
    try:
        return os.path.realpath(path)
    except OSError:  # the working folder no longer exists
        return os.fspath(path)


def require_file(path: Path, what: str, error: type[AlignSegError]) -> None:
    """Raise `error` unless `path` is a readable file that is not empty.

    Args:
        path: The file.
        what: What the file should be, for the message: "an image".
        error: Type of the error to raise.
    """
    if stat.S_ISFIFO(require_readable(path, what, error).st_mode):
        raise error(
            f"{path} is a pipe",
            f"{what} in a file, since it is read more than once",
            f"copy it to a file first: cat {path} > FILE",
        )


def require_readable(path: Path, what: str, error: type[AlignSegError]) -> os.stat_result:
    """Return the status of a readable file that is not empty, or of a pipe; else raise `error`.

    Args:
        path: The file or the pipe, such as ``/dev/stdin``.
        what: What it should contain, for the message: "an image".
        error: Type of the error to raise.
    """
    expected = f"{what} that can be read"
    status = require_path(path, expected, error)
    is_file = stat.S_ISREG(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{path} is a directory", expected, f"name a file in it: {path / '...'}")
    if not is_file and not stat.S_ISFIFO(status.st_mode):
        raise error(
            f"{path} is a terminal, another device or a socket",
            f"{what} in a file, or one that comes through a pipe",
            "copy it to a file first, and name the file",
        )
    if is_file and status.st_size == 0:
        raise error(f"{path} is empty (0 bytes)", expected, "copy or download it again")
    if is_file:
        try:
            path.open("rb").close()
        except OSError as locked:
            problem = f"{path} cannot be opened: {locked.strerror}"
            raise error(problem, expected, f"chmod +r {path}") from locked
    return status


def require_path(path: Path, expected: str, error: type[AlignSegError]) -> os.stat_result:
    """Return the status of what is at `path`; raise `error` if nothing is, or it is out of reach.

    Args:
        path: A file, a folder, or something else.
        expected: What should be there, for the message.
        error: Type of the error to raise.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise error(*_describe_missing(path, expected)) from missing
    except (OSError, ValueError) as unusable:  # name too long or with a NUL, or no permission
        reason = getattr(unusable, "strerror", None) or unusable
        raise error(f"{path} cannot be read: {reason}", expected, "check the path") from unusable


def is_folder(path: Path, error: type[AlignSegError]) -> bool:
    """Return whether `path` is a folder; raise `error` if permissions hide that."""
    try:
        return path.is_dir()
    except OSError as hidden:
        raise error(
            f"{path} cannot be reached: {hidden.strerror}",
            "a path through folders that can be entered",
            f"check their permissions: ls -ld {path.parent}",
        ) from hidden


def _describe_missing(path: Path, expected: str) -> tuple[str, str, str]:
    """Return the three parts of the error about a path that does not exist."""
    address = _ADDRESS.match(str(path))
    if address is None:
        return f"{path} does not exist", expected, f"check the path: ls {path.parent}"
    scheme, place = address["scheme"].lower(), address["place"]  # Path made one slash of two
    if scheme == "file":
        return f"file:///{place} is an address", f"{expected}, by its path", f"write /{place}"
    url = f"{scheme}://{place}"
    by_curl = f": curl -O {url}" if scheme in ("http", "https", "ftp") else ""
    return f"{url} is an address, not a file", expected, f"download it first{by_curl}"


def find_files(
    folder: Path, endings: tuple[str, ...], error: type[AlignSegError], *, deep: bool = True
) -> list[Path]:
    """Return the files that `walk_files` finds, of the folder only unless `deep`."""
    return list(walk_files(folder, endings, error, lambda place: deep))


def walk_files(
    folder: Path,
    endings: tuple[str, ...],
    error: type[AlignSegError],
    enters: Callable[[Path], bool] = lambda folder: True,
) -> Iterator[Path]:
    """Find the files below a folder, one after the other in the order of their paths.

    Links to files and folders are followed, but not into a folder that contains the link. Hidden
    files and folders, whose names begin with a dot, are left out: macOS writes ``._NAME`` beside
    each file on some disks. A link whose target is missing is found, so that reading it fails.

    Args:
        folder: The folder to search.
        endings: How the names of the files end, in any case.
        error: Type of the error to raise if a folder cannot be read.
        enters: Returns whether a folder below `folder` is searched, too.
    """
    lower = tuple(ending.lower() for ending in endings)
    waiting: list[tuple[Path, bool, frozenset[tuple[int, int]]]] = [(folder, True, frozenset())]
    try:
        while waiting:  # the first path is last
            place, is_directory, above = waiting.pop()
            if not is_directory:
                yield place
                continue
            status = place.stat()
            identity = status.st_dev, status.st_ino
            if identity in above:
                continue
            inside = [(entry.name, entry.is_dir()) for entry in _entries_of(place, lower)]
            waiting += [
                (place / name, is_directory, above | {identity})
                for name, is_directory in sorted(inside, reverse=True)
                if not is_directory or enters(place / name)
            ]
    except OSError as unreadable:
        raise error(
            f"{unreadable.filename} cannot be searched: {unreadable.strerror}",
            "a folder whose files and folders can all be listed",
            f"chmod -R u+rX {folder}",
        ) from unreadable


def _entries_of(folder: Path, endings: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    """Return the folders in a folder, and its files with these endings."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_named = entry.name.lower().endswith(endings)
            if entry.is_dir() or (is_named and (entry.is_file() or entry.is_symlink())):
                yield entry


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of the bytes of the files, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a file that a user wrote, without its byte order mark.

    It is UTF-8, or UTF-16 with a mark, which Windows PowerShell writes.

    Args:
        path: The file.
        errors: What becomes of bytes that are no UTF-8: ``surrogateescape`` keeps them, for names
            of files.

    Raises:
        ValueError: It is no text, or much longer than people and their tools write.
    """
    if (size := path.stat().st_size) > MAX_TEXT:
        raise ValueError(f"{size:,} bytes are more than {MAX_TEXT:,}")
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        raise ValueError(f"byte {content.index(0)} is 0")
    return content.decode("utf-8", errors)
