"""What all tests share: options of pytest, a small model and its exports."""

import ctypes
import gc
import importlib.util
import itertools
import math
import os
import re
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from alignseg_infer.arrays import Image
from tests.support.kept_exports import KeptExports
from tests.support.models import SMALL_SPEC, write_seeded_checkpoint

CACHES = itertools.count()
Report = TypeVar("Report", pytest.CollectReport, pytest.TestReport)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu``, other modules are not imported: a GPU machine may lack what they need."""
    others = collection_path.suffix == ".py" and collection_path.parent.name != "gpu"
    return True if others and config.option.markexpr == "gpu" else None


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers one thread of PyTorch, since they share the processors."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """For runs under a sanitizer, which slows each test down, and for machines that are slow."""
    parser.addoption(
        "--sample",
        type=int,
        default=1,
        metavar="N",
        help="run about one test in N, chosen by name: the same ones each time",
    )
    parser.addoption(
        "--until",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="start no test later than so many seconds after 1970, and say which were left out",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what ``--until`` leaves out."""
    if time.time() > item.config.option.until:
        pytest.skip("not run: this machine is too slow for all tests in the time they may take")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``--sample`` does not choose, and what can only be skipped."""
    sample = config.option.sample
    if sample != 1:
        items[:] = [item for item in items if zlib.crc32(item.nodeid.encode()) % sample == 0]
    if not config.option.collectonly and not has_cuda_device():
        items[:] = with_one_skip_a_gpu_module(items)


def pytest_sessionstart() -> None:
    """Do not search for garbage while all modules are imported."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what was imported out of each search for garbage, which would take 0.3 s and more."""
    gc.freeze()
    gc.enable()


HAS_PYTORCH = importlib.util.find_spec("torch") is not None
# As Python, its metadata and this package say it, the last in messages of child processes.
LACKS_PYTORCH = re.compile(
    r"No (module named|package metadata was found for) '?torch\b|needs the package torch\b"
)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip modules that import PyTorch where it is not installed."""
    report = yield
    return skip_without_pytorch(report, collector.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skip tests that fail since PyTorch is not installed."""
    report = yield
    return skip_without_pytorch(report, item.path)


def skip_without_pytorch(report: Report, path: Path, *, has_pytorch: bool = HAS_PYTORCH) -> Report:
    """Return `report`, as skipped if nothing but a PyTorch that is not installed made it fail."""
    if report.failed and not has_pytorch and LACKS_PYTORCH.search(report.longreprtext):
        report.outcome = "skipped"
        report.longrepr = (str(path), 0, "Skipped: needs PyTorch, which is not installed")
    return report


def has_cuda_device() -> bool:
    """Return whether the NVIDIA driver is there and sees a device."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    fails = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return not fails and count.value > 0


def with_one_skip_a_gpu_module(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return `items` with one test of each GPU module, which says how many it stands for."""
    others = {item for item in items if not item.get_closest_marker("gpu")}
    gpu = [item for item in items if item not in others]
    tests = Counter(item.path for item in gpu)
    first = {item.path: item for item in reversed(gpu)}
    for path, item in first.items():
        reason = f"no CUDA device: all {tests[path]} tests of {path.name} are skipped"
        item.add_marker(pytest.mark.skip(reason=reason))
    kept = others | set(first.values())
    return [item for item in items if item in kept]


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours: small R18, seeded weights with negative norm weights among them."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    write_seeded_checkpoint(path, SMALL_SPEC)
    return path


@pytest.fixture(scope="session")
def export_small(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[..., Path]:
    """Return a function that exports the small checkpoint with the given `ExportOptions`.

    What the same code has exported before, in whatever process, is not exported again.
    """
    from alignseg_infer.export.graph.options import ExportOptions

    folder = tmp_path_factory.mktemp("exports")
    cache: pytest.Cache | None = getattr(request.config, "cache", None)  # -p no:cacheprovider
    kept = KeptExports(cache.mkdir("exports") if cache else folder / "kept", small_checkpoint)
    made: dict[ExportOptions, Path] = {}

    def export(**options: object) -> Path:
        key = ExportOptions(**options)  # type: ignore[arg-type]
        if key not in made:
            path = folder / f"{len(made)}.onnx"
            kept.copy_to(path, key)
            made[key] = path
        return made[key]

    return export


@pytest.fixture(scope="session")
def small_onnx(export_small: Callable[..., Path]) -> Path:
    """The small model, exported with default options."""
    return export_small()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give each test a cache folder of its own, which is made when something is kept."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(CACHES)}"
    with pytest.MonkeyPatch.context() as patch:  # what tests replace is back before it is removed
        patch.setenv("ALIGNSEG_CACHE", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def image() -> Image:
    """A (90, 130, 3) uint8 BGR image whose blue channel holds labels 0..18 in vertical stripes."""
    stripes = np.repeat(np.arange(13, dtype=np.uint8), 10)
    pixels = np.zeros((90, 130, 3), np.uint8)
    pixels[..., 0] = stripes
    pixels[..., 1] = 100
    pixels[..., 2] = 200
    return pixels
