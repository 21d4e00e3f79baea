"""Where image files are: a folder, a glob, or a list of paths, always in the same order."""

import codecs
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from alignseg_infer.errors import DatasetError
from alignseg_infer.files.reading import is_folder, read_text, require_file, walk_files

IMAGE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pam"),
)
LIST_ENDING = ".txt"
WILDCARDS = frozenset("*?[")
ANY_FOLDERS = "**"


@dataclass(frozen=True)
class ImagePaths:
    """Images of one source, which have not been opened yet.

    Attributes:
        root: The folder from which the names of the images are counted.
        paths: The images, found while they are iterated over; only once.
    """

    root: Path
    paths: Iterable[Path]


def find_images(source: Path, enters: Callable[[Path], bool] = lambda folder: True) -> ImagePaths:
    """Find the images of a source, one after the other in the order of their paths.

    Args:
        source: A folder, which is searched with its sub-folders, except for hidden ones; a glob
            such as ``photos/*/left_*.png``, where ``**`` stands for any folders; a ``.txt`` file
            with one path per line, relative to its own folder (blank lines and lines that start
            with ``#`` are skipped); or another file, which is itself the only image.
        enters: Returns whether a folder in a folder is searched, too.

    Raises:
        DatasetError: The source does not exist, is no list, or a folder cannot be searched.
    """
    if is_folder(source, DatasetError):
        return ImagePaths(source, walk_files(source, IMAGE_ENDINGS, DatasetError, enters))
    if is_glob(str(source)) and not os.path.lexists(source):
        return _match_images(source, enters)
    require_file(source, "a folder, a glob, a list of images, or an image", DatasetError)
    if source.suffix.lower() == LIST_ENDING:
        return ImagePaths(source.parent, map(source.parent.__truediv__, read_list(source)))
    return ImagePaths(source.parent, [source])


def is_glob(source: str) -> bool:
    """Return whether a source has wildcards."""
    return not WILDCARDS.isdisjoint(source)


def split_glob(pattern: str) -> tuple[str, list[str]]:
    """Return the folder in front of the first part of a pattern with wildcards, and the parts."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if is_glob(part))
    return "/".join(parts[:first]) or ("/" if first else ""), parts[first:]


def matches(names: Sequence[str], pattern: Sequence[str], *, as_folder: bool = False) -> bool:
    """Return whether the parts of a path match those of a glob.

    Args:
        names: Names of folders, and of the file.
        pattern: The parts of the glob; ``**`` stands for any number of folders.
        as_folder: Whether `names` is a folder, and what is in it may match.
    """
    if not names:
        return bool(pattern) == as_folder
    if not pattern:
        return False
    if list(pattern) == [ANY_FOLDERS]:
        return True
    if pattern[0] == ANY_FOLDERS:
        later = matches(names[1:], pattern, as_folder=as_folder)
        return later or matches(names, pattern[1:], as_folder=as_folder)
    fits = fnmatchcase(names[0], pattern[0])
    return fits and matches(names[1:], pattern[1:], as_folder=as_folder)


def no_images_error(source: str, folder: str) -> DatasetError:
    """Return the error about a source without images, of which `folder` can be listed."""
    return DatasetError(
        f"{source} contains no images",
        f"files that end in {', '.join(IMAGE_ENDINGS)}, or a list of such files",
        f"find {shlex.quote(folder)} -name '*.jpg' | head",
    )


def _match_images(source: Path, enters: Callable[[Path], bool]) -> ImagePaths:
    start, pattern = split_glob(source.as_posix())
    root = Path(start)
    if not is_folder(root, DatasetError):
        raise DatasetError(
            f"{source} matches nothing, since {root} is not a folder",
            "a glob of images, such as 'photos/**/*.jpg'",
            f"check the path: ls {root.parent}",
        )

    def may_hold(folder: Path) -> bool:
        names = folder.relative_to(root).parts
        return matches(names, pattern, as_folder=True) and enters(folder)

    def matching() -> Iterator[Path]:
        for path in walk_files(root, IMAGE_ENDINGS, DatasetError, may_hold):
            if matches(path.relative_to(root).parts, pattern):
                yield path

    return ImagePaths(root, matching())


def read_list(path: Path) -> list[str]:
    """Return the paths in a list.

    Raises:
        DatasetError: It is no text, or holds paths as another system writes them.
    """
    try:
        text = read_text(path, "surrogateescape")
    except ValueError as error:
        raise _not_text(path, str(error)) from error
    if "\0" in text:  # UTF-32 with a mark begins like UTF-16
        raise _not_text(path, f"character {text.index(chr(0))} is 0")
    lines = [line.strip() for line in text.split("\n")]
    names = [line for line in lines if line and not line.startswith("#")]
    _require_plain_paths(path, names)
    return names


def _not_text(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path} is not a text file: {reason}",
        "a UTF-8 list with the path of one image per line",
        f"find IMAGES -name '*.png' > {path}",
    )


def _require_plain_paths(path: Path, names: Sequence[str]) -> None:
    """Check that a list does not hold paths in quotes or as another system writes them."""
    quoted = [name for name in names if name[0] in "\"'" and name[0] == name[-1]]
    slashed = [name for name in names if os.sep == "/" and "\\" in name]
    odd = [name for name in (*quoted, *slashed) if not os.path.lexists(path.parent / name)]
    if odd:
        kinds = ["quotes"] * bool(quoted) + ["backslashes"] * bool(slashed)
        steps = [f"tr -d \\{name[0]}" for name in quoted[:1]] + [r"tr \\ /"] * bool(slashed)
        is_utf16 = path.read_bytes()[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        first = "iconv -f utf-16 -t utf-8" if is_utf16 else "cat"
        plain = path.with_name(f"{path.stem}-plain.txt")
        old, new = (shlex.quote(str(each)) for each in (path, plain))
        raise DatasetError(
            f"{path} holds paths with {' and '.join(kinds)}, such as {odd[0]}",
            "paths without quotes, with / between folders, one per line",
            f"{' | '.join([f'{first} {old}', *steps])} > {new}",
        )
