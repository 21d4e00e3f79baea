"""Forked and other processes that a test waits for, but never longer than it should."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def exit_code_of_fork(work: Callable[[], object]) -> int | None:
    """Do `work` in a forked process. Return 0, or 1 if it raised, or None if it never ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run_program(program: str, folder: Path, *arguments: object) -> str:
    """Run a Python program with all processes that it starts, and return what it printed."""
    path, output = folder / "program.py", folder / "output.txt"
    path.write_text(program)
    with output.open("w") as file:  # a pipe would stay open as long as a child that hangs
        process = subprocess.Popen(
            [sys.executable, str(path), *map(str, arguments)],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            code = process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    printed = output.read_text()
    assert code == 0, printed
    return printed
