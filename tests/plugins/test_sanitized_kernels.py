"""No kernel touches memory outside its tensors: AddressSanitizer and UBSan watch the CPU build."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.host_kernels import HOST_CUDA, KERNELS, host_compile

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
FLAGS = ("-shared", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
# Without this guard, a pixel of weight 0 is read wherever it would lie.
GUARD = "if (!guarded || weight[first + y][x] != 0.0F)"


def sanitizer() -> Path:
    """Return the sanitizer's runtime, which must be loaded before Python."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to build the kernels for the CPU")
    command = [compiler, "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("needs AddressSanitizer's runtime library beside g++")
    return Path(found).resolve()


def sanitized_run(library: Path, *, short: int = 0) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "LD_PRELOAD": str(sanitizer()),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(TESTS.parent),
    }
    command = [
        sys.executable,
        str(TESTS / "support" / "sanitized_kernels.py"),
        str(library),
        str(short),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sanitizer()
    path = tmp_path_factory.mktemp("sanitized") / "libsampling.so"
    host_compile([HOST_CUDA / "host_sampling.cpp"], path, flags=FLAGS)
    return path


def test_kernels_stay_inside(library: Path) -> None:
    done = sanitized_run(library)
    assert done.returncode == 0, done.stderr
    assert "cases done" in done.stdout


def test_writing_past_the_end_is_seen(library: Path) -> None:
    done = sanitized_run(library, short=1)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def test_reading_outside_is_seen(tmp_path: Path) -> None:
    """Build the same kernels without their one guard."""
    sanitizer()
    for source in [*KERNELS.glob("*.h"), *KERNELS.glob("*.cu")]:
        shutil.copy(source, tmp_path)
    mutant = tmp_path / "sampling_window.h"
    text = mutant.read_text(encoding="utf-8")
    assert text.count(GUARD) == 1
    mutant.write_text(text.replace(GUARD, "if (true)"), encoding="utf-8")
    shutil.copy(HOST_CUDA / "host_sampling.cpp", tmp_path)
    path = tmp_path / "libmutant.so"
    host_compile([tmp_path / "host_sampling.cpp"], path, flags=(*FLAGS, f"-iquote{tmp_path}"))
    done = sanitized_run(path)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
