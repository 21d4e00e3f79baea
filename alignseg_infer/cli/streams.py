"""Standard output and error, which may be missing, closed by the reader, or of any encoding."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from alignseg_infer.errors import OutputError
from alignseg_infer.text import printable_lines


def make_streams_safe() -> None:
    r"""Make sure that printing cannot end a command that has done its work.

    Under pythonw and with ``>&-`` there are no streams at all. Characters that the encoding of a
    stream does not have, as in names of files, are printed as ``\x..`` or ``\u....``.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_message(text: str, file: TextIO | None = None) -> None:
    """Print a line, and further ones that begin with two spaces; names in it are only shown.

    Args:
        text: What to print.
        file: Where to; None for standard output.
    """
    if file is not None and file is sys.stderr:
        with contextlib.suppress(OSError):  # a log on a full disk does not end the work
            print(printable_lines(text), file=file)
        return
    with naming_stdout():
        print(printable_lines(text), file=file, flush=file is None)


def print_report(text: str) -> None:
    """Print all lines of a table or of JSON, which show names as they should be shown."""
    with naming_stdout():
        print(text.removesuffix("\n"))


@contextlib.contextmanager
def naming_stdout() -> Iterator[None]:
    """Say that standard output cannot be written, as when it goes to a full disk.

    Raises:
        OutputError: The block raised an OSError, which is no closed pipe.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()  # else Python tries to write the rest at its end
        raise OutputError(
            f"standard output cannot be written: {error.strerror}",
            "a terminal, a pipe, or a file on a disk with room",
            "df -h to see which disk is full, then another file after >",
        ) from error


def print_to_pipe(text: str) -> bool:
    """Print a message; return False if its reader, such as ``head``, has closed the pipe."""
    try:
        print_message(text)
    except BrokenPipeError:
        discard_stdout()
        return False
    return True


def discard_stdout() -> None:
    """Send standard output nowhere from now on, since its reader has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
