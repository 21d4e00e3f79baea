"""A folder for a consumer: it appears whole, or not at all."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from alignseg_infer.errors import OutputError
from alignseg_infer.files.reading import user_path
from alignseg_infer.files.writing import temporary_folder


def write_folder(destination: str | Path, files: Mapping[str, str | bytes | Path]) -> Path:
    """Write a new folder; nothing that is there already is changed.

    Args:
        destination: The folder to make. It may be there already if it is empty.
        files: What each file holds by its path in the folder, with ``/``: a text (written as
            UTF-8), bytes, or the path of a file to copy.

    Returns:
        The folder.

    Raises:
        OutputError: Something with this name is there already, or the folder cannot be written.
    """
    destination = user_path(destination)
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise OutputError(
            f"{destination} is there already",
            "a new or an empty folder",
            "choose another folder: -o FOLDER",
        )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(destination.parent) as folder:
            made = folder / destination.name
            for name, content in files.items():
                path = made / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copyfile(content, path)
                elif isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    path.write_text(content, encoding="utf-8")
            made.replace(destination)
    except OSError as error:
        raise OutputError(
            f"{destination} cannot be written ({error})",
            "a folder that can be written, and room on its disk",
            "choose another folder: -o FOLDER",
        ) from error
    return destination
