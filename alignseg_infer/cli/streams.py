"""Standard output and error, which may be missing, closed by the reader, or of any encoding."""

import io
import os
import sys


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


def print_to_pipe(text: str) -> bool:
    """Print `text` at once; return False if its reader, such as ``head``, has closed the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_stdout()
        return False
    return True


def discard_stdout() -> None:
    """Send standard output nowhere from now on, since its reader has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
