"""Builds the real kernels for the CPU, over tests/data/host_cuda/host_cuda.h."""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
KERNELS = TESTS.parent / "plugins" / "kernels"
HOST_CUDA = TESTS / "data" / "host_cuda"

# Not -ffast-math, and no FMA: a GPU contracts a*b+c, this build does not, and tolerances hold both.
OPTIONS = (
    *("-std=c++20", "-O2", "-fPIC", "-pthread", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),  # pragma unroll is nvcc's
    *("-DALIGNSEG_HOST_CUDA", f"-I{HOST_CUDA}", f"-I{KERNELS}"),
)


def host_compile(sources: Sequence[Path], output: Path, *, flags: Sequence[str] = ()) -> None:
    """Compile `sources` into `output`; skip the test if there is no g++.

    Args:
        sources: C++ files, or .cu files, which are compiled as C++.
        output: The file to write; a library if `flags` say ``-shared``.
        flags: Options after the usual ones.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to build the kernels for the CPU")
    command = [compiler, *OPTIONS, *flags, "-o", str(output), "-x", "c++", *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"g++ could not build {output.name}:\n{done.stderr}")


def host_library(
    sources: Sequence[Path], folder: Path, *, flags: Sequence[str] = ()
) -> ctypes.CDLL:
    """Build `sources` into a shared library in `folder` and load it.

    Args:
        sources: C++ files, or .cu files, which are compiled as C++.
        folder: Where the library goes, under the first source's name.
        flags: Options of g++ after the usual ones.
    """
    path = folder / f"lib{sources[0].stem}.so"
    host_compile(sources, path, flags=("-shared", *flags))
    return ctypes.CDLL(str(path))
