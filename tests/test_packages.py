"""Packages that are absent, broken or there twice: what is said, and what is let through.

Fake packages in a folder stand for those of an environment; `tests/test_installs.py` has real ones.
"""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import alignseg_infer
from alignseg_infer.backends import open_backend
from alignseg_infer.cli import start
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.packages import (
    ONNXRUNTIME,
    OPENCV,
    SharedModule,
    installed_of,
    require_shared,
    warn_of_several,
)
from tests.support.project import PROJECT

PACKAGE = Path(alignseg_infer.__file__).parent
LEFT = None  # a folder without code
LACKS = "raise ImportError('libGL.so.1: cannot open shared object file')"
GPU = "pip install onnxruntime, or for an NVIDIA GPU: pip install onnxruntime-gpu"
AGAIN = "pip install --force-reinstall --no-deps"
Site = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Make the only packages that can be imported."""

    def make(modules: dict[str, str | None], *distributions: str) -> None:
        for name, code in modules.items():
            (tmp_path / name).mkdir()
            if code is not None:
                (tmp_path / name / "__init__.py").write_text(code)
        for name in distributions:
            add_distribution(tmp_path, name)
        for module in (ONNXRUNTIME.module, OPENCV.module):
            monkeypatch.setitem(sys.modules, module, sys)  # so that what is imported goes again
            del sys.modules[module]
        monkeypatch.setattr(sys, "path", [str(tmp_path)])

    return make


def add_distribution(folder: Path, name: str) -> None:
    facts = folder / f"{name.replace('-', '_')}-1.30.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.30\n")


UNUSABLE: list[tuple[Any, ...]] = [
    (ONNXRUNTIME, {}, [], "ONNX Runtime is not installed", GPU),
    (ONNXRUNTIME, {"onnxruntime": LEFT}, [], "is only what is left of ONNX Runtime", GPU),
    (
        *(ONNXRUNTIME, {"onnxruntime": LEFT}, ["onnxruntime-gpu"]),
        *("is only what is left of", f"{AGAIN} onnxruntime-gpu"),
    ),
    (
        *(ONNXRUNTIME, {"onnxruntime": LEFT}, ["onnxruntime-gpu", "onnxruntime"]),
        "is only what is left of",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    ),
    (
        *(ONNXRUNTIME, {"onnxruntime": "import onnxruntime.absent"}, ["onnxruntime"]),
        *("cannot be imported: No module named 'onnxruntime.absent'", f"{AGAIN} onnxruntime"),
    ),
    (
        *(ONNXRUNTIME, {}, ["onnxruntime"]),
        *("cannot be imported: No module named 'onnxruntime'", f"{AGAIN} onnxruntime"),
    ),
    (ONNXRUNTIME, {"onnxruntime": LACKS}, ["onnxruntime-gpu"], "libGL", f"{AGAIN} onnxruntime-gpu"),
    (
        *(OPENCV, {}, [], "OpenCV is not installed"),
        "pip install onnxruntime opencv-python-headless",
    ),
    (
        *(OPENCV, {"cv2": "import no_such_numpy"}, ["opencv-python"], "named 'no_such_numpy'"),
        "pip install --force-reinstall opencv-python",
    ),
    (OPENCV, {}, ["onnxruntime-gpu"], "not installed", "pip install opencv-python-headless"),
    (OPENCV, {"onnxruntime": ""}, [], "not installed", "pip install opencv-python-headless"),
    (
        *(OPENCV, {"cv2": LACKS}, ["opencv-python"], "OpenCV cannot be imported: libGL.so.1"),
        "pip uninstall -y opencv-python && pip install opencv-python-headless",
    ),
    (
        *(OPENCV, {"cv2": LACKS}, ["opencv-contrib-python-headless"], "libGL.so.1"),
        f"{AGAIN} opencv-contrib-python-headless",
    ),
]


@pytest.mark.parametrize(("shared", "modules", "distributions", "problem", "fix"), UNUSABLE)
def test_what_cannot_be_used(
    shared: SharedModule,
    modules: dict[str, str | None],
    distributions: list[str],
    problem: str,
    fix: str,
    site: Site,
) -> None:
    site(modules, *distributions)
    with pytest.raises(MissingDependencyError) as caught:
        require_shared(shared)
    assert problem in caught.value.problem
    assert shared.module in caught.value.expected
    assert caught.value.fix == fix


@pytest.mark.parametrize("distributions", [[], ["onnxruntime-gpu"], ["onnxruntime-gpu", "numpy"]])
def test_what_can_be_used(distributions: list[str], site: Site) -> None:
    """Without a distribution too: Conda and JetPack have none of these names."""
    site({"onnxruntime": "", "cv2": ""}, *distributions)
    require_shared(ONNXRUNTIME)
    require_shared(OPENCV)
    assert installed_of(ONNXRUNTIME) == distributions[:1]
    assert installed_of(OPENCV) == []


# Two at once


@pytest.mark.parametrize("shared", [ONNXRUNTIME, OPENCV], ids=lambda shared: shared.module)
def test_two_are_warned_of_once(
    shared: SharedModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The one that is really here won, whatever the order of the names."""
    if len(installed_of(shared)) != 1:
        pytest.skip(f"not one distribution of {shared.module} is installed: {installed_of(shared)}")
    (here,) = installed_of(shared)
    other = next(name for name in shared.distributions if name != here)
    add_distribution(tmp_path, other)
    monkeypatch.syspath_prepend(tmp_path)
    warn_of_several.cache_clear()
    open_backend("demo")
    open_backend("demo")
    warn_of_several.cache_clear()
    (warning,) = caplog.messages
    assert f"both are the module {shared.module}: the last one that was installed wins" in warning
    assert f"; here, {here} won; to leave one: pip uninstall -y " in warning
    assert warning.endswith(f" && pip install {other}")


def test_one_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    if any(len(installed_of(shared)) > 1 for shared in (ONNXRUNTIME, OPENCV)):
        pytest.skip("two are installed here")
    warn_of_several.cache_clear()
    open_backend("demo")
    assert caplog.messages == []


# Without them

HIDDEN = """
import sys
sys.modules[{module!r}] = None
{rest}
"""


def run_without(module: str, rest: str) -> "subprocess.CompletedProcess[str]":
    program = HIDDEN.format(module=module, rest=rest)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["alignseg_infer", "alignseg_infer.errors"])
def test_the_package_without_opencv(module: str) -> None:
    done = run_without("cv2", f"import {module}")
    assert done.returncode == 1
    assert "\nalignseg_infer.errors.MissingDependencyError: OpenCV cannot be" in done.stderr
    assert "\n  try: pip install " in done.stderr


# As it is installed, it is no part of the package.
START = f"import runpy; main = runpy.run_path({start.__file__!r})['main']"


def test_the_command_without_opencv() -> None:
    done = run_without("cv2", f"{START}; sys.exit(main())")
    assert done.returncode == 1
    assert done.stdout == ""
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("error: OpenCV cannot be imported")
    assert last.startswith("  try: pip install ")
    assert "Traceback" not in done.stderr


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert PROJECT["scripts"] == {"alignseg": "alignseg_command:main"}
    monkeypatch.setattr(sys, "argv", ["alignseg", "--version"])
    assert start.main() == 0
    assert capsys.readouterr().out.startswith("alignseg-infer ")


def test_other_faults_of_the_package_are_not_hidden() -> None:
    done = run_without("alignseg_infer.cli", f"{START}; main()")
    assert "Traceback" in done.stderr
    assert "alignseg_infer.cli" in done.stderr.splitlines()[-1]


WITHOUT_ONNXRUNTIME = [
    "from alignseg_infer import Predictor; Predictor('demo')",
    "from alignseg_infer.packages import require_export_packages as need; from pathlib import Path;"
    "need(Path('x.onnx'))",
]


@pytest.mark.parametrize("statement", WITHOUT_ONNXRUNTIME, ids=["Predictor", "export"])
def test_models_without_onnxruntime(statement: str) -> None:
    done = run_without("onnxruntime", statement)
    assert "MissingDependencyError: ONNX Runtime cannot be imported" in done.stderr


def test_openvino_needs_no_onnxruntime() -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    predictor = "from alignseg_infer import Predictor; Predictor('demo', runtime='openvino')"
    done = run_without("onnxruntime", predictor)
    assert done.returncode == 0, done.stderr


def test_one_module_imports_onnxruntime() -> None:
    """Others would raise an ImportError that does not say what to type."""
    importing = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if {"onnxruntime", "onnxruntime.capi"} & set(names):
                importing.add(path.relative_to(PACKAGE).as_posix())
    assert importing == {"backends/onnxruntime_package.py"}
