"""Copies of files at addresses, for what reads its images more than once."""

import contextlib
import hashlib
import os
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from alignseg_infer.datasets.addresses import is_address
from alignseg_infer.datasets.sources import SourceImage, read_image_bytes
from alignseg_infer.files.writing import no_room_error, temporary_folder


class Copies:
    """A temporary folder of copies, which is removed when nothing refers to this object any more.

    Each file is fetched when its path is asked for, and only once.

    Args:
        max_pixels: The largest number of pixels of an image.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def path_of(self, image: SourceImage) -> Path:
        """Return the path of the copy of an image.

        Raises:
            ImageError: The image cannot be read, or is too large.
            OutputError: The temporary folder has no room for it.
        """
        name = hashlib.sha256(image.url.encode("utf-8", "surrogateescape")).hexdigest()
        path = self._open_folder() / name
        if not path.exists():
            data = read_image_bytes(image, self._max_pixels)
            try:
                _write(path, data)
            except OSError as error:
                raise no_room_error(path, error) from error
        return path

    def _open_folder(self) -> Path:
        with self._lock:
            if self._folder is None:
                stack = contextlib.ExitStack()
                self._folder = stack.enter_context(temporary_folder())
                weakref.finalize(self, stack.close)
            return self._folder


def _write(path: Path, data: bytes) -> None:
    """Write a file that other threads see when it is whole."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
        except OSError:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)


@dataclass(frozen=True)
class FetchedFile(os.PathLike[str]):
    """A file at an address. Its path is that of a copy, and its text is the address.

    Attributes:
        image: The file.
        copies: Where the copy is.
    """

    image: SourceImage
    copies: Copies

    def __fspath__(self) -> str:
        """Return the path of the copy, which is fetched the first time.

        Raises:
            ImageError, OutputError: As `Copies.path_of` does.
        """
        return str(self.copies.path_of(self.image))

    def __str__(self) -> str:
        """Return the address."""
        return self.image.url


FilePath: TypeAlias = Path | FetchedFile


def file_of(image: SourceImage, copies: Copies) -> FilePath:
    """Return what reads the file of an image, with a copy if it is at an address."""
    return FetchedFile(image, copies) if is_address(image.url) else Path(image.url)
