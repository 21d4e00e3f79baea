"""Places with an address, such as ``s3://bucket/folder``, opened through fsspec."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from alignseg_infer.errors import (
    INSTALL_BATCH,
    AlignSegError,
    MissingDependencyError,
    OptionError,
)
from alignseg_infer.files.reading import user_path

if TYPE_CHECKING:
    import fsspec

_ADDRESS = re.compile("(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)(::|://)", re.DOTALL)
_LOCAL = ("file://", "local://")


def is_address(place: str) -> bool:
    """Return whether a place is read and written through fsspec; a drive of Windows is none."""
    return _ADDRESS.match(place) is not None and not place.startswith(_LOCAL)


def plain_place(place: str | os.PathLike[str]) -> str:
    """Return a place without a slash at its end, and the path of one whose address is local.

    A path object always names a file or a folder.

    Raises:
        OptionError: It is neither text nor a path.
    """
    if not isinstance(place, str):
        return str(user_path(place))
    if is_address(place):
        return place.rstrip("/")
    return str(user_path(local_path(place)))


def local_path(place: str) -> str:
    """Return the path of an address such as ``file:///data/x``; others as they are."""
    for scheme in _LOCAL:
        place = place.removeprefix(scheme)
    return place


def split_chain(address: str) -> tuple[str, str]:
    """Return what is named, and where that is: ``zip://a`` and ``::s3://bucket/photos.zip``."""
    scheme, separator, rest = address.partition("://")
    inner, chain, outer = rest.partition("::")
    return f"{scheme}{separator}{inner}", f"{chain}{outer}"


def address_below(address: str, name: str) -> str:
    """Return the address of what lies in the folder at an address."""
    inner, chain = split_chain(address)
    scheme, _, place = inner.partition("://")
    folder = f"{place.rstrip('/')}/" if place else ""
    return f"{scheme}://{folder}{name}{chain}"


def listing_command(address: str) -> str:
    """Return a command that lists the folder at an address."""
    return (
        f"python -c 'import fsspec; print(*fsspec.open_files(\"{address_below(address, '*')}\"))'"
    )


def open_address(address: str) -> tuple["fsspec.AbstractFileSystem", str]:
    """Return the file system of an address, and the path in it.

    What a file system needs, such as credentials, comes from its own settings and from variables
    such as ``FSSPEC_S3_ENDPOINT_URL``.

    Raises:
        MissingDependencyError: The package for addresses of this kind is not installed.
        OptionError: There are no addresses of this kind, or the archive in it cannot be opened.
    """
    try:
        import fsspec.core
    except ImportError as error:
        raise MissingDependencyError(
            f"{address} needs the package fsspec, which is not installed",
            "the packages fsspec and pyarrow",
            INSTALL_BATCH,
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        raise _missing_package(address, error) from error
    except ValueError as error:
        raise OptionError(
            f"{address} cannot be opened: {error}",
            "an address that fsspec knows, such as s3://bucket/folder",
            "python -c 'import fsspec; print(*fsspec.available_protocols())'",
        ) from error
    except Exception as error:  # an archive is opened here, and is missing or damaged
        reason = " ".join(f"{error}".split()) or type(error).__name__
        raise OptionError(
            f"{address} cannot be opened: {reason}",
            "an archive that exists and is whole, or another address",
            "check the path or the address behind ::, and download the archive again",
        ) from error
    return system, str(path)


def _missing_package(address: str, error: ImportError) -> MissingDependencyError:
    from fsspec.registry import known_implementations

    scheme = _ADDRESS.match(address)
    known: dict[str, Any] = known_implementations.get(scheme["scheme"] if scheme else "", {})
    package = str(known.get("class", "")).partition(".")[0]
    fix = f"pip install {package}" if package not in ("", "fsspec") else f"{error}"
    return MissingDependencyError(
        f"{address} cannot be opened: {error}", "fsspec's package for these addresses", fix
    )


@contextlib.contextmanager
def naming_address(address: str, error: type[AlignSegError], purpose: str) -> Iterator[None]:
    """Say that an address cannot be used; each file system has errors of its own.

    Args:
        address: What is opened.
        error: Type of the error to raise.
        purpose: What is done with it: "listed".
    """
    try:
        yield
    except AlignSegError:
        raise
    except FileNotFoundError as cause:
        raise error(
            f"{address} cannot be {purpose}: it does not exist",
            "the address of something that exists",
            "check how the names of the bucket and the folders are written",
        ) from cause
    except Exception as cause:
        reason = " ".join(f"{cause}".split()) or type(cause).__name__
        raise error(
            f"{address} cannot be {purpose}: {reason}",
            "an address that exists, a network that reaches it, and credentials for it",
            _advise(address),
        ) from cause


def _advise(address: str) -> str:
    scheme = address.partition("://")[0]
    if scheme in ("s3", "s3a"):
        return (
            "export AWS_ACCESS_KEY_ID=KEY AWS_SECRET_ACCESS_KEY=SECRET; for a bucket that "
            "everybody may read: export FSSPEC_S3_ANON=true; for a server that is not Amazon's: "
            "export FSSPEC_S3_ENDPOINT_URL=ADDRESS"
        )
    inner, chain = split_chain(address)
    place = inner.partition("://")[2]
    folder = place.rpartition("/")[0] if "/" in place or chain else place
    return listing_command(f"{scheme}://{folder}{chain}")
