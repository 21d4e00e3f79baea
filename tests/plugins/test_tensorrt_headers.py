"""Whose headers CMake takes: `TensorRtHeaders.cmake`, with stand-ins for what it looks at."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.host_kernels import KERNELS

SCRIPT = KERNELS.parent / "cmake" / "TensorRtHeaders.cmake"
TAGS = ["10.3.0", "10.13.0", "10.13.3", "10.14", "11.0", "11.1"]


def write_headers(folder: Path, version: str) -> Path:
    """Write what the script reads of TensorRT's headers."""
    folder.mkdir(parents=True, exist_ok=True)
    major, minor = version.split(".")[:2]
    (folder / "NvInferRuntime.h").write_text("// nothing\n")
    (folder / "NvInferVersion.h").write_text(
        f"#define TRT_MAJOR_ENTERPRISE {major}\n#define TRT_MINOR_ENTERPRISE {minor}\n"
        "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< TensorRT major version.\n"
        f"// {version}\n"
    )
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository with a tag for each of some versions."""
    if shutil.which("git") is None or shutil.which("cmake") is None:
        pytest.skip("needs git and cmake")
    folder = tmp_path_factory.mktemp("repository")
    name = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    commands = [["init", "-q"]]
    for version in TAGS:
        commands += [["add", "."], [*name, "commit", "-q", "-m", version], ["tag", f"v{version}"]]
    versions = iter(TAGS)
    for command in commands:
        if command[0] == "add":
            write_headers(folder / "include", next(versions))
        subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True)
    return folder.as_uri()


def chosen(folder: Path, repository: str, *options: str, python: str | None = None) -> str:
    """Run the script; return what it says at its end.

    Args:
        folder: Where it runs.
        repository: Where it fetches headers from.
        options: Options of CMake.
        python: Version of TensorRT that Python imports, if any.
    """
    programs = folder / "bin"
    programs.mkdir()
    says = "exit 1" if python is None else f"echo {python}"
    (programs / "python3").write_text(f"#!/bin/sh\n{says}\n")
    (programs / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    given = [f"-DTENSORRT_REPOSITORY={repository}", *options]
    done = subprocess.run(
        ["cmake", *given, "-P", str(SCRIPT)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join((done.stdout + done.stderr).split())  # CMake breaks lines
    assert (done.returncode == 0) is ("TensorRT headers:" in said), said
    return said.partition("TensorRT headers: ")[2].split(",")[0] or said


FETCHED = [
    ("10.14", "10.14"),
    ("10.13", "10.13"),  # 10.13.3
    ("10.16.1", "10.14"),  # the newest that is not newer
    ("11.4", "11.1"),
    ("10.3", "10.3"),
]


@pytest.mark.parametrize(("wanted", "headers"), FETCHED)
def test_the_version_that_is_asked_for(
    wanted: str, headers: str, repository: str, tmp_path: Path
) -> None:
    assert chosen(tmp_path, repository, f"-DTENSORRT_VERSION={wanted}", python="9.9.9") == headers
    if wanted == "10.13":
        assert (tmp_path / "_deps/tensorrt-10.13.3/include/NvInferRuntime.h").exists()


@pytest.mark.parametrize(("python", "headers"), [("11.4.0.106", "11.1"), ("10.3.0", "10.3")])
def test_the_version_that_python_imports(
    python: str, headers: str, repository: str, tmp_path: Path
) -> None:
    assert chosen(tmp_path, repository, python=python) == headers


SYSTEM = [
    (None, "10.9"),  # nothing else is known
    ("10.13.3.9", "10.9"),  # the same major version
    ("11.4.0.106", "11.1"),  # those of the system are of another major version
]


@pytest.mark.parametrize(("python", "headers"), SYSTEM)
def test_headers_of_the_system(
    python: str | None, headers: str, repository: str, tmp_path: Path
) -> None:
    write_headers(tmp_path / "usr" / "include", "10.9.0")
    prefix = f"-DCMAKE_PREFIX_PATH={tmp_path / 'usr'}"
    assert chosen(tmp_path, repository, prefix, python=python) == headers


def test_a_given_folder_comes_first(repository: str, tmp_path: Path) -> None:
    write_headers(tmp_path / "root" / "include", "10.7.0")
    root = f"-DTENSORRT_ROOT={tmp_path / 'root'}"
    assert chosen(tmp_path, repository, root, python="11.4.0.106") == "10.7"


def test_nothing_is_known(repository: str, tmp_path: Path) -> None:
    said = chosen(tmp_path, repository)
    assert "python3 cannot import tensorrt" in said
    assert "-DTENSORRT_VERSION=10.3" in said


@pytest.mark.parametrize("wanted", ["9.3", "10.2"])
def test_no_tag_fits(wanted: str, repository: str, tmp_path: Path) -> None:
    said = chosen(tmp_path, repository, f"-DTENSORRT_VERSION={wanted}")
    assert f"it has no tag of {wanted.split('.', maxsplit=1)[0]}.x up to {wanted}" in said


def test_old_headers_are_refused(repository: str, tmp_path: Path) -> None:
    write_headers(tmp_path / "root" / "include", "8.6.1")
    said = chosen(tmp_path, repository, f"-DTENSORRT_ROOT={tmp_path / 'root'}")
    assert "are TensorRT 8.6; expected 10.0 or newer" in said


def test_a_repository_that_cannot_be_reached(tmp_path: Path, repository: str) -> None:
    missing = (tmp_path / "nowhere").as_uri()
    said = chosen(tmp_path, missing, "-DTENSORRT_VERSION=10.14")
    assert f"cannot be fetched from {missing}" in said
    assert "does not exist" in said or "not found" in said or "not appear" in said
