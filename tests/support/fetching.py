"""Packages that single tests need, in folders of their own, since others must not see them."""

import subprocess
import sys
from pathlib import Path

import pytest


def fetched(folder: Path, *packages: str) -> Path:
    """Install `packages`, without dependencies, into `folder`; skip the test if that fails."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' and '.join(packages)} cannot be fetched: {done.stderr[-200:]}")
    return folder
