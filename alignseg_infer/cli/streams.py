"""Standard output and error, which may be missing, closed by the reader, or of any encoding."""

import io
import os
import sys
from typing import TextIO

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
    print(printable_lines(text), file=file, flush=file is None)


def print_report(text: str) -> None:
    """Print all lines of a table or of JSON, which show names as they should be shown."""
    print(text.removesuffix("\n"))


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
