"""Packages that single tests need, in folders of their own, since others must not see them."""

import re
import shlex
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


def require_installable(advice: str) -> None:
    """Check that pip finds what the ``pip install`` in an error's advice names; installs nothing.

    The test is skipped where pip finds no package at all.
    """
    named = re.search(r"pip install ((?:'[^']*'|[\w.=<>-]+)(?: (?:'[^']*'|[\w.=<>-]+))*)", advice)
    assert named is not None, advice
    require_index()
    packages = shlex.split(named[1])
    assert _finds(*packages), packages


def require_index() -> None:
    """Skip the test if pip finds no package at all."""
    if not _finds("numpy"):
        pytest.skip("pip reaches no index")


def _finds(*packages: str) -> bool:
    options = ("--dry-run", "--ignore-installed", "--no-deps", "-q")
    command = [sys.executable, "-m", "pip", "install", *options, *packages]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
