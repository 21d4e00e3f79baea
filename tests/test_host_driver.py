"""tests/test_gpu_cuda.py without a GPU: the real packages, over a driver of host memory.

It shows that the seam calls CUDA as the driver wants to be called; what a GPU does is another
matter.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS / "data" / "host_driver.c"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc") or not shutil.which("nm"),
    reason="needs gcc and nm on Linux",
)


def build_driver(folder: Path, users: Iterable[Path]) -> Path:
    """Builds it with whatever else the extension modules `users` want of a driver, not working."""
    library, stubs = folder / "libcuda.so.1", folder / "stubs.c"
    wanted: set[str] = set()
    for user in users:
        wanted |= cuda_names("--undefined-only", user)
    here = set(re.findall(r"\bcu[A-Z]\w+(?=\()", SOURCE.read_text(encoding="utf-8")))
    stubs.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in wanted - here))
    options = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run(["gcc", *options, "-o", library, SOURCE, stubs, "-ldl"], check=True)
    return library


def cuda_names(option: str, library: Path) -> set[str]:
    """Names of the CUDA driver's functions that `library` has, or wants."""
    command = ["nm", "-D", option, str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\b(cu[A-Z]\w+)", listing))


@pytest.mark.parametrize(
    ("package", "module", "passes"), [("cuda-python", "cuda", 12), ("pycuda", "pycuda", 9)]
)
def test_seam(tmp_path: Path, package: str, module: str, passes: int) -> None:
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    folder = Path(next(iter(found.submodule_search_locations)))
    library = build_driver(tmp_path, folder.glob("_driver*.so"))
    paths = [str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {"LD_LIBRARY_PATH": os.pathsep.join(paths), "LD_PRELOAD": str(library)}
    # A PyTorch or CuPy built for CUDA would want more of a driver.
    chosen = f"{package} and not pytorch and not cupy"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    run = subprocess.run(
        [*command, str(TESTS / "test_gpu_cuda.py")],
        cwd=TESTS.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(rf"\b{passes} passed", run.stdout), run.stdout
    assert "WARNING" not in run.stderr  # PyCUDA's, at the end of the process
