"""Where results go: a folder or a bucket, in which files appear whole or not at all."""

import errno
import itertools
import os
import shlex
import shutil
from pathlib import Path
from typing import Protocol

from alignseg_infer.datasets.addresses import is_address, naming_address, open_address
from alignseg_infer.errors import OptionError, OutputError
from alignseg_infer.files.writing import NO_ROOM, no_room_error, require_writable_folder

MANIFEST = "manifest"  # the folder of the parts
_OF_ONE_PROCESS = "memory://"
OWN_FOLDER = ".alignseg-batch"  # locks, and files that are being written; hidden, so no source
# Errors of one name only; others, such as a full disk, would meet all images.
_OF_ONE_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR}


class Store(Protocol):
    """A folder or a bucket, with paths below it that have ``/`` between their parts."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, which replaces an earlier one.

        Raises:
            OutputError: No file can be written.
            OSError: A file of this name cannot be.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None if there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the paths of the files in a folder, in their order."""
        ...

    def lacks(self, names: list[str]) -> bool:
        """Return whether it is known, without a request for each, that a file is not there."""
        ...


class Folder:
    """A folder. Files are written elsewhere in it first, and then moved.

    Args:
        root: Path of the folder.
        room: Name of the place for what is being written, which no other run uses.
    """

    def __init__(self, root: Path, room: str) -> None:
        self._root = root
        self._room = root / OWN_FOLDER / room
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Create the folder, and remove what a run that was killed has left.

        Raises:
            OutputError: The folder cannot be written to.
        """
        self.clear()
        require_writable_folder(self._root)
        require_writable_folder(self._room)

    def clear(self) -> None:
        """Remove the files that processes were writing when they died."""
        shutil.rmtree(self._room, ignore_errors=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, which replaces an earlier one."""
        path = self._root / name
        temporary = self._room / f"{os.getpid()}-{next(self._numbers)}"
        try:
            temporary.write_bytes(data)
            try:
                os.replace(temporary, path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in _OF_ONE_NAME:
                raise
            if error.errno in NO_ROOM:
                raise no_room_error(path, error) from error
            if error.errno == errno.EXDEV:
                raise OutputError(
                    f"cannot write {path}: its folder is on another disk than {self._root}",
                    "a destination that is on one disk, with no links to others in it",
                    f"another destination={os.path.realpath(path.parent)!r}",
                ) from error
            raise OutputError(
                f"cannot write {path}: {error.strerror or error}",
                "a folder that can be written to",
                f"check its permissions: ls -ld {shlex.quote(str(_nearest_folder(path)))}",
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None if there is none.

        Raises:
            OutputError: It cannot be read.
        """
        path = self._root / name
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(
                f"{path} cannot be read: {error.strerror or error}",
                "what an earlier run wrote, or nothing",
                f"check its permissions: ls -l {shlex.quote(str(path))}",
            ) from error

    def names(self, folder: str) -> list[str]:
        """Return the paths of the files in a folder, in their order."""
        paths = sorted((self._root / folder).glob("[!.]*"))
        return [path.relative_to(self._root).as_posix() for path in paths]

    def lacks(self, names: list[str]) -> bool:
        """Return whether a file is not there."""
        return not all(os.path.exists(self._root / name) for name in names)


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.exists())


def require_shared(address: str) -> None:
    """Check that other processes can reach a place.

    Raises:
        OptionError: It is in the memory of this process.
    """
    if _OF_ONE_PROCESS in address:
        raise OptionError(
            f"{address} is in the memory of one process, which workers do not see",
            "a folder, or the address of a bucket",
            "name a folder; images go into one with "
            "fsspec.filesystem('memory').get('/', 'FOLDER/', recursive=True)",
        )


class Bucket:
    """A bucket or another place with an address, which shows a file only when it is whole."""

    def __init__(self, address: str) -> None:
        require_shared(address)
        self._address = address
        self._system, self._root = open_address(address)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, which replaces an earlier one."""
        with naming_address(f"{self._address}/{name}", OutputError, "written"):
            self._system.pipe_file(f"{self._root}/{name}", data)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None if there is none."""
        with naming_address(f"{self._address}/{name}", OutputError, "read"):
            try:
                data: bytes = self._system.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
            return data

    def names(self, folder: str) -> list[str]:
        """Return the paths of the files in a folder, in their order."""
        with naming_address(f"{self._address}/{folder}", OutputError, "listed"):
            try:
                found = self._system.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return sorted(f"{folder}/{name}" for name in names if name != folder)

    def lacks(self, names: list[str]) -> bool:
        """Return False, since each file would cost a request."""
        return False


def open_store(destination: str, room: str) -> Folder | Bucket:
    """Return the place for results.

    Args:
        destination: A folder, or an address.
        room: As `Folder` takes it.

    Raises:
        MissingDependencyError, OptionError: The address cannot be opened.
    """
    return Bucket(destination) if is_address(destination) else Folder(Path(destination), room)
