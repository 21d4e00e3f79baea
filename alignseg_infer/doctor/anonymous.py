"""Takes folders and the user's name out of messages, since people send them in reports of bugs."""

import getpass
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_HOME = "/~"  # stands for a known folder, so that the folders after it are found too
_SLASH = r"[/\\]+"
_START = r"(?:file:/*)?(?:[A-Za-z]:)?"
_LAST = r"(?=[^/\\\s'\"])"  # before the last part of a path, which stays
_HOMES = re.compile(rf"(?i)(?:(?<![a-z])[a-z]:)?{_SLASH}(?:home|users){_SLASH}[^/\\\s:'\"]+")
_QUOTED = re.compile(rf"(?<=['\"]){_START}[/\\][^'\"\n]*[/\\]{_LAST}")
_FOLDERS = re.compile(rf"(?<![\w.:/\\-]){_START}(?:{_SLASH}[^/\\\s:'\"]+)+{_SLASH}{_LAST}")


def anonymous(text: str) -> str:
    """Return a message without folders and without the name of the user."""
    text = without_folders(text)
    for name in _user_names():
        text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "~", text)
    return text


def without_folders(text: str) -> str:
    """Return a text in which paths have lost their folders; a home folder itself becomes ``~``.

    A space ends a path, except in quotes, in the user's own home folder and in that of Python.
    """
    for folder in sorted(_known_folders(), key=len, reverse=True):
        parts = [re.escape(part) for part in re.split(_SLASH, folder)]
        text = re.sub(rf"(?i){_SLASH.join(parts)}(?![\w.-])", lambda _: _HOME, text)
    text = _HOMES.sub(_HOME, text)
    text = _FOLDERS.sub("", _QUOTED.sub("", text))
    return text.replace(_HOME, "~")


def _known_folders() -> Iterator[str]:
    for folder in (_home(), sys.prefix, sys.base_prefix):
        if Path(folder).name:  # "/" is in every path
            yield folder.rstrip("/\\")


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:  # there is none
        return ""


def _user_names() -> set[str]:
    names = {Path(_home()).name}
    with suppress(ImportError, KeyError, OSError):  # a user without a name, as in a container
        names.add(getpass.getuser())
    return names - {""}
