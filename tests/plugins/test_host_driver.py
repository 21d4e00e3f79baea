"""GPU tests without a GPU: the real packages, over a driver of host memory.

It shows that the seam calls CUDA as the driver wants to be called; what a GPU does is another
matter.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from alignseg_infer.cuda.nvrtc import compile_kernel
from tests.support.host_entries import ENTRIES, library_path

TESTS = Path(__file__).parents[1]
SOURCE = TESTS / "data" / "host_driver.c"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc") or not shutil.which("nm"),
    reason="needs gcc and nm on Linux",
)


def build_driver(folder: Path, users: Iterable[Path]) -> Path:
    """Build the driver, with stubs for whatever else the extension modules `users` import."""
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
    """Return the names of the CUDA driver's functions that `library` exports or imports."""
    command = ["nm", "-D", option, str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\b(cu[A-Z]\w+)", listing))


def runner_over(package: str, module: str, folder: Path) -> "Runner":
    """A function that runs GPU tests over the driver, with a Python package for CUDA."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    extensions = Path(next(iter(found.submodule_search_locations))).glob("_driver*.so")
    library = build_driver(folder, extensions)
    paths = [str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {"LD_LIBRARY_PATH": os.pathsep.join(paths), "LD_PRELOAD": str(library)}

    def run(file: str, chosen: str, **more: str) -> int:
        """Return how many tests pass; all chosen tests must pass."""
        command = [sys.executable, "-c", COMPILED_BEFORE, "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "-k", chosen, str(TESTS / file)],
            cwd=TESTS.parent,
            env={**os.environ, **environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stderr  # PyCUDA's, at the end of the process
        passed = re.search(r"\b(\d+) passed", done.stdout)
        assert passed is not None, done.stdout
        return int(passed[1])

    return run


Runner = Callable[..., int]
# NVRTC 13.0 asks a loaded driver for more than this one has, and crashes.
COMPILED_BEFORE = """
import os, pathlib, sys, pytest
if "CUBINS" in os.environ:
    from alignseg_infer.cuda import nvrtc
    folder = pathlib.Path(os.environ["CUBINS"])
    nvrtc.compile_kernel = lambda name, capability: (folder / name).read_bytes()
sys.exit(pytest.main())
"""


@pytest.mark.parametrize(
    ("package", "module", "passes"), [("cuda-python", "cuda", 13), ("pycuda", "pycuda", 10)]
)
def test_seam(tmp_path: Path, package: str, module: str, passes: int) -> None:
    run = runner_over(package, module, tmp_path)
    # A PyTorch or CuPy built for CUDA would need more from a driver.
    assert run("gpu/test_gpu_cuda.py", f"{package} and not pytorch and not cupy") == passes


@pytest.mark.slow
def test_kernels(tmp_path: Path) -> None:
    """The GPU tests of our kernels: NVRTC's cubin is loaded, and the CPU's build of it runs."""
    run = runner_over("cuda-python", "cuda", tmp_path)
    libraries = os.pathsep.join(str(library_path(source)) for source in ENTRIES)
    for source in ENTRIES:
        (tmp_path / source).write_bytes(compile_kernel(source, "9.0"))
    few = "(test_labels and 33x47) or (test_network and 1x) or (test_sampling and 2x33x3x3)"
    few += " or (test_sampling and 5x9)"
    assert run("gpu/test_gpu_kernels.py", few, CUBINS=str(tmp_path), HOST_KERNELS=libraries) > 50
