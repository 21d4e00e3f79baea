"""Several processes with one engine cache, which TensorRT for RTX really builds for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from alignseg_infer.files import caches
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.trt.engine_file import read_facts
from tests.support.waiting import PATIENCE

pytest.importorskip("tensorrt_rtx", reason="builds engines with TensorRT for RTX")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of engines, which does not exist yet."""
    monkeypatch.setenv(caches.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def plan_in(cache: Path) -> Path:
    (plan,) = cache.glob("*/model.engine")
    return plan


BUILD = """
import sys
from pathlib import Path
import alignseg_infer
from alignseg_infer.backends.cached_engine import engine_of
from alignseg_infer.backends.engine_order import EngineOrder
from alignseg_infer.demo import model_path
from alignseg_infer.pixels.preprocess import SizePolicy
from alignseg_infer.trt.flavours import Flavour
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
order = EngineOrder(policy=SizePolicy(fixed=(64, 96)))
print(engine_of(model_path("demo"), Flavour.TENSORRT_RTX, order, None))
"""


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a process that builds an engine of the demo model with TensorRT for RTX."""
    children: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", BUILD],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_two_processes_build_once(start: Callable[[], subprocess.Popen[str]], cache: Path) -> None:
    children = [start(), start()]
    outputs = [child.communicate(timeout=PATIENCE)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert sum("building an engine" in output for output in outputs) == 1, outputs
    assert sum("another process builds this engine" in output for output in outputs) <= 1
    plan = plan_in(cache)
    assert all(output.splitlines()[-1] == str(plan) for output in outputs)
    assert sha256_of(plan) == read_facts(plan).sha256


def test_a_lock_of_a_process_that_was_killed_is_free(
    start: Callable[[], subprocess.Popen[str]], cache: Path
) -> None:
    killed = start()
    assert killed.stdout is not None
    assert any("building an engine" in line for line in killed.stdout)  # it holds the lock now
    (lock,) = cache.glob("*.lock")
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(lock).acquire(timeout=0)
    killed.send_signal(signal.SIGKILL)
    killed.wait(PATIENCE)
    assert not list(cache.glob("*/needs.json"))
    output = start().communicate(timeout=PATIENCE)[0]
    assert output.splitlines()[-1] == str(plan_in(cache))
    assert len(list(plan_in(cache).parent.iterdir())) == 3


def test_a_full_disk_of_one_process(
    start: Callable[[], subprocess.Popen[str]], cache: Path
) -> None:
    """A limit of the operating system on the size of files, which a write really meets."""
    resource = pytest.importorskip("resource", reason="this system has no such limits")
    signal_before = signal.getsignal(signal.SIGXFSZ)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        child = start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, signal_before)
    output = child.communicate(timeout=PATIENCE)[0]
    assert child.returncode == 1
    assert "OutputError: the engine cannot be kept in the cache" in output
    assert "export ALIGNSEG_CACHE=FOLDER" in output
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_a_real_build_is_found_by_the_next_process(
    start: Callable[[], subprocess.Popen[str]],
) -> None:
    first, second = (start().communicate(timeout=PATIENCE)[0] for _ in range(2))
    assert "building an engine" in first
    assert "building an engine" not in second
    assert "this engine was built, not verified: alignseg verify" in second
    assert first.splitlines()[-1] == second.splitlines()[-1]
