"""The images of a folder, a glob, a list, a manifest or a bucket, one after the other."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignseg_infer.datasets.addresses import (
    is_address,
    local_path,
    naming_address,
    open_address,
    split_chain,
)
from alignseg_infer.datasets.image_paths import (
    IMAGE_ENDINGS,
    LIST_ENDING,
    find_images,
    is_glob,
    matches,
    no_images_error,
    read_list,
    split_glob,
)
from alignseg_infer.errors import DatasetError, ImageError, OptionError
from alignseg_infer.files.reading import is_folder, real_path, require_file, require_path
from alignseg_infer.pixels.encoded import read_encoded, require_encoded

if TYPE_CHECKING:
    import fsspec

PART_ENDING = ".parquet"
# What file systems call that which changes with a file's content, the best first.
_VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "updated", "last_modified")


class SourceImage(NamedTuple):
    """An image that has not been read.

    Attributes:
        name: Path below the source, with ``/`` between its parts; results are named after it.
        url: Path or address of the file.
        size: Bytes; None if that is not known.
        version: What changes with the content: an etag, or a time; empty if that is not known.
    """

    name: str
    url: str
    size: int | None
    version: str


def find_source_images(
    source: str, destination: str = "", result_endings: tuple[str, ...] = ()
) -> Iterator[SourceImage]:
    """Find the images of a source, in the same order each time.

    Args:
        source: As `find_images` takes it, with addresses in lists; a manifest, as a ``.parquet``
            file or a folder of them; or an address of a folder, a glob or one image.
        destination: The folder or the address for results, which is not searched; empty for none.
        result_endings: How names of results end, which are left out of lists if they lie in the
            destination.

    Raises:
        DatasetError: The source cannot be read or listed.
        OptionError: The source lies in the destination, or its address cannot be opened.
        MissingDependencyError: The package for its address is not installed.
    """
    if is_address(source):
        return _find_in_bucket(source, destination)
    path = Path(source)
    if is_manifest(path):
        named = _find_in_manifest(path)
    elif path.suffix.lower() == LIST_ENDING and os.path.isfile(path):
        named = _find_in_list(path)
    else:
        return _find_in_folder(path, destination)
    return _leave_out_results(named, source, destination, result_endings) if destination else named


def require_source(source: str) -> None:
    """Check that a source may exist, without a request to a bucket.

    Raises:
        DatasetError: There is no such file or folder.
        OptionError, MissingDependencyError: Its address cannot be opened.
    """
    if is_address(source):
        open_address(source)
    elif not is_glob(source):
        require_path(Path(source), "a folder, a list, or a video", DatasetError)


def nothing_found_error(source: str) -> DatasetError:
    """Return the error about a source, or an address, without images."""
    if not is_address(source):
        return no_images_error(source, str(find_images(Path(source)).root))
    names = "check how the names of the bucket and the folders are written"
    return DatasetError(
        f"{source} contains no images",
        f"objects whose names end in {', '.join(IMAGE_ENDINGS)}",
        f"{names}; [ in a name is [[] in a glob" if "[" in source else names,
    )


def is_manifest(path: Path) -> bool:
    """Return whether a path is a part of a manifest, or a folder of parts.

    A folder with images or other folders is a source of images.
    """
    if path.suffix == PART_ENDING:
        return True
    if not is_folder(path, DatasetError) or not any(path.glob(f"*{PART_ENDING}")):
        return False
    inside = path.glob("[!.]*")
    return not any(each.name.lower().endswith(IMAGE_ENDINGS) or each.is_dir() for each in inside)


def _find_in_folder(source: Path, destination: str) -> Iterator[SourceImage]:
    results = real_path(destination) if destination and not is_address(destination) else ""
    found = find_images(source, lambda folder: real_path(folder) != results)
    root = os.path.abspath(found.root)
    if results and Path(real_path(root)).is_relative_to(results) and not source.is_file():
        raise _inside_error(str(source), destination)
    return (_local_image(path, root) for path in found.paths)


def _inside_error(source: str, destination: str) -> OptionError:
    return OptionError(
        f"the images of {source} lie in the destination {destination}",
        "a destination elsewhere, or a folder in the source: results would become images",
        f"-o {destination.rstrip('/')}-results",
    )


def _leave_out_results(
    images: Iterable[SourceImage], source: str, destination: str, endings: tuple[str, ...]
) -> Iterator[SourceImage]:
    """Leave out results of earlier runs, which lie in the destination.

    Raises:
        OptionError: Another image lies there: it was asked for, and must not be lost.
    """
    if is_address(destination):
        results: tuple[str, ...] = (destination.rstrip("/") + "/",)
    else:
        results = os.path.join(os.path.abspath(destination), ""), real_path(destination) + os.sep
    for image in images:
        if not image.url.startswith(results):
            yield image
        elif not image.url.endswith(endings):
            raise _inside_error(source, destination)


def _find_in_list(source: Path) -> Iterator[SourceImage]:
    require_file(source, "a list of images", DatasetError)
    root = os.path.abspath(source.parent)
    for line in read_list(source):
        if is_address(line):
            parts = split_chain(line)[0].partition("://")[2].split("/")
            yield SourceImage("/".join(filter(None, parts)), line, None, "")
        else:
            yield _local_image(source.parent / local_path(line), root)


def _local_image(path: Path, root: str) -> SourceImage:
    """Return an image in a file, with a name below `root`, or below / if it lies elsewhere."""
    absolute = os.path.abspath(path)
    inside = absolute.startswith(os.path.join(root, ""))
    name = os.path.relpath(absolute, root) if inside else os.path.splitdrive(absolute)[1]
    return _with_status(name.replace(os.sep, "/").lstrip("/"), absolute)


def _with_status(name: str, path: str) -> SourceImage:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # reading it fails, too, and says why
        return SourceImage(name, path, None, "")
    return SourceImage(name, path, status.st_size, str(status.st_mtime_ns))


def _find_in_manifest(source: Path) -> Iterator[SourceImage]:
    from alignseg_infer.datasets.manifest_rows import file_text, read_parts

    paths = sorted(source.glob(f"*{PART_ENDING}")) if source.is_dir() else [source]
    try:
        rows = read_parts((path.name, path.read_bytes()) for path in paths)
    except OSError as error:
        raise DatasetError(
            f"{source} cannot be read: {error.strerror}", "a manifest", f"ls -l {source}"
        ) from error
    for row in rows.to_pylist():
        name, url = row["name"], row["source"]
        if is_address(url):
            yield SourceImage(name, url, row["bytes"], row["version"])
        elif "\\x" in url and not os.path.lexists(url):
            yield _with_status(file_text(name), file_text(url))
        else:
            yield _with_status(name, url)


def _find_in_bucket(source: str, destination: str) -> Iterator[SourceImage]:
    """Find the images below an address; ``[`` in one of no glob is a character like others."""
    inner, chain = split_chain(source)
    scheme, _, place = inner.partition("://")
    start, pattern = split_glob(place) if is_glob(place) else (place, [])
    address = f"{scheme}://{start}{chain}"
    root = open_address(address)[1]
    is_same_system = destination.startswith(f"{scheme}://") and destination.endswith(chain)
    results = open_address(destination)[1] if is_same_system else None
    if results and f"{root}/".startswith(f"{results}/"):
        raise _inside_error(source, destination)

    def enters(path: str) -> bool:
        parts = path[len(root) :].strip("/").split("/")
        return path != results and (not pattern or matches(parts, pattern, as_folder=True))

    for image in find_at_address(address, IMAGE_ENDINGS, enters):
        if not pattern or matches(image.name.split("/"), pattern):
            yield image


def find_at_address(
    address: str, endings: tuple[str, ...], enters: Callable[[str], bool] = lambda path: True
) -> Iterator[SourceImage]:
    """Find the files below an address, in the order of their paths, except for hidden ones.

    Args:
        address: Of a folder or of one file.
        endings: How the names of the files end, in any case.
        enters: Returns whether a folder, by its path in the file system, is searched, too.

    Raises:
        DatasetError: The address cannot be listed.
        OptionError, MissingDependencyError: It cannot be opened.
    """
    inner, chain = split_chain(address)
    scheme = inner.partition("://")[0]
    system, root = open_address(address)
    lower = tuple(ending.lower() for ending in endings)
    with naming_address(address, DatasetError, "listed"):
        for facts in _walk(system, root, lower, enters):
            path = str(facts["name"])
            name = path[len(root) :].strip("/") or path.rpartition("/")[2]
            url = f"{scheme}://{path.lstrip('/')}{chain}"
            yield SourceImage(name, url, facts.get("size"), _version_of(facts))


def _walk(
    system: "fsspec.AbstractFileSystem",
    root: str,
    endings: tuple[str, ...],
    enters: Callable[[str], bool],
) -> Iterator[dict[str, Any]]:
    """List a folder of a bucket and those in it, in the order of their paths."""
    waiting: list[dict[str, Any]] = [{"name": root, "type": "directory"}]
    while waiting:
        facts = waiting.pop()
        place = str(facts["name"])
        if facts["type"] != "directory":
            yield facts
            continue
        inside = sorted(_list(system, place, endings), key=lambda each: each["name"], reverse=True)
        waiting += [
            each for each in inside if each["type"] != "directory" or enters(str(each["name"]))
        ]


def _list(
    system: "fsspec.AbstractFileSystem", place: str, endings: tuple[str, ...]
) -> Iterable[dict[str, Any]]:
    for facts in system.ls(place, detail=True):
        name = str(facts["name"]).rstrip("/")
        is_folder = facts["type"] == "directory"
        if is_folder and name == place.rstrip("/"):  # the mark of an empty folder
            continue
        hidden = name.rpartition("/")[2].startswith(".")
        if not hidden and (is_folder or name.lower().endswith(endings)):
            yield {**facts, "name": name}


def _version_of(facts: dict[str, Any]) -> str:
    found = next((facts[name] for name in _VERSIONS if facts.get(name)), "")
    return str(found).strip('"')


def read_image_bytes(image: SourceImage, max_pixels: int) -> bytes:
    """Return the bytes of an image in a file or at an address.

    Raises:
        ImageError: They cannot be read, or there are too many for `max_pixels`.
    """
    if not is_address(image.url):
        require_file(Path(image.url), "an image", ImageError)  # no pipe, which may never end
        return read_encoded(Path(image.url), max_pixels)
    system, path = open_address(image.url)
    with naming_address(image.url, ImageError, "read"):
        size = image.size if image.size is not None else int(system.size(path) or 0)
        require_encoded(image.url, b"x", size, max_pixels)  # before it is read
        data: bytes = system.cat_file(path)
    require_encoded(image.url, data, len(data), max_pixels)
    return data
