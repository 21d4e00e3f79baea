"""Typing what an error advises."""

import os
import shlex
import subprocess
import sys
from pathlib import Path


def run_advice(fix: str, folder: Path) -> None:
    """Type the command at the end of an advice in `folder`, without our package or other code."""
    words = shlex.split(fix[fix.index("python -") :])
    command = [sys.executable, *words[1:]]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
