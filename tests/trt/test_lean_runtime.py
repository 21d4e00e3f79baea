"""Where the library for version-compatible engines is found: in pip's package, or anywhere else."""

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignseg_infer.errors import BuildError
from alignseg_infer.trt.flavours import Flavour, TensorRT
from alignseg_infer.trt.lean_runtime import load_lean_runtime
from tests.support.fetching import require_installable

CLASSIC = TensorRT(Flavour.TENSORRT, SimpleNamespace(), (11, 4, 0, 106))
NAME = "libnvinfer_lean.so.11"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded; only files that exist can be."""
    paths: list[str] = []

    def load(path: str, mode: int) -> None:
        assert mode == ctypes.RTLD_GLOBAL  # TensorRT looks for it by name
        if not Path(path).is_file():
            raise OSError(f"{path}: cannot open shared object file")
        paths.append(path)

    monkeypatch.setattr("ctypes.CDLL", load)
    return paths


def test_the_package_of_pip(
    loaded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tensorrt_lean_libs"
    folder.mkdir()
    for name in ("__init__.py", NAME, "libnvinfer_lean.so.10"):
        (folder / name).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    load_lean_runtime(CLASSIC)
    assert loaded == [str(folder / NAME)]


def test_the_folders_of_the_system(
    loaded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).touch()
    load_lean_runtime(CLASSIC)
    assert loaded == [NAME]


def test_it_is_not_installed(loaded: list[str]) -> None:
    with pytest.raises(BuildError) as caught:
        load_lean_runtime(CLASSIC)
    assert f"{NAME}: cannot open shared object file" in caught.value.problem
    assert "pip install tensorrt-lean-cu13==11.4.0.106" in caught.value.fix
    assert "version_compatible=False" in caught.value.fix
    assert loaded == []


@pytest.mark.slow
def test_what_is_to_be_installed_exists() -> None:
    with pytest.raises(BuildError) as caught:
        load_lean_runtime(CLASSIC)
    require_installable(caught.value.fix)
