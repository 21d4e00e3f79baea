"""The archives that are built: what is in the checkout is in them."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.project import PROJECT

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def files() -> set[str]:
    """The files of the checkout, those not yet committed among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout to compare the archives with")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def archives(files: set[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel and a source archive, built by the backend that pip calls, in a copy."""
    folder = tmp_path_factory.mktemp("archives")
    for name in files:
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    built = {}
    for kind in ("sdist", "wheel"):
        program = f"from setuptools.build_meta import build_{kind} as build; print(build('..'))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder / "source",
            capture_output=True,
            text=True,
            check=True,
        )
        built[kind] = folder / done.stdout.splitlines()[-1]
    return built


def test_source_archive_has_every_file(files: set[str], archives: dict[str, Path]) -> None:
    with tarfile.open(archives["sdist"]) as archive:
        packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert files <= packed
    made = {"PKG-INFO", "setup.cfg"}
    added = {name for name in packed - files if not name.startswith("alignseg_infer.egg-info/")}
    assert added == made


def test_wheel_has_the_package_and_the_plugins(files: set[str], archives: dict[str, Path]) -> None:
    with zipfile.ZipFile(archives["wheel"]) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {name for name in files if name.startswith("alignseg_infer/")}
    package.add("alignseg_command/__init__.py")  # which the script `alignseg` starts
    plugins = {f"alignseg_infer/{name}" for name in files if name.startswith("plugins/")}
    assert packed == package | plugins


def test_metadata(archives: dict[str, Path]) -> None:
    """As pip reads them from the wheel."""
    from alignseg_infer.version import __version__

    with zipfile.ZipFile(archives["wheel"]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    assert f"\nVersion: {__version__}\n" in metadata
    extras = re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE)
    assert sorted(extras) == sorted(PROJECT["optional-dependencies"])


def test_extras_name_extras_that_exist() -> None:
    """``test`` includes others; pip only warns of one that is not there."""
    extras = PROJECT["optional-dependencies"]
    own = re.compile(r"alignseg-infer\[(.+)\]$")
    named = {
        name
        for requirements in extras.values()
        for requirement in requirements
        if (match := own.match(requirement))
        for name in match[1].split(",")
    }
    assert named >= {"export", "fast-test", "onnx", "tensorrt-rtx", "video"}
    assert named <= extras.keys()
