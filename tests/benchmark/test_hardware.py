"""Facts about the machine, and what a watched machine did."""

import platform
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cpuinfo
import cv2
import numpy as np
import psutil
import pynvml
import pytest

from alignseg_infer.backends.processor import FLAGS, usable_cores
from alignseg_infer.benchmark import hardware, watch
from alignseg_infer.benchmark.machine import GpuState
from alignseg_infer.errors import INSTALL_BENCH

H100 = GpuState("NVIDIA H100 80GB HBM3", "570.86.15", "9.0", "P0", 1980, 1980, 2619, 1543, 81559)
ORIN = GpuState("Orin (nvgpu)", "540.3.0", None, None, None, None, None, None, None)


@pytest.fixture
def asked_again() -> Iterator[None]:
    """py-cpuinfo is asked once in a process; not so before and after the test."""
    hardware._cpu.cache_clear()
    yield
    hardware._cpu.cache_clear()


def answer(value: object) -> Any:
    return lambda *_: value


def refuse(code: int) -> Any:
    def ask(*_: object) -> None:
        raise pynvml.NVMLError(code)

    return ask


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An NVML with two H100; what was opened and shut."""
    calls: list[str] = []
    clocks = {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}
    memory = SimpleNamespace(used=1543 << 20, total=81559 << 20)
    for name, replacement in {
        "nvmlInit": lambda: calls.append("init"),
        "nvmlShutdown": lambda: calls.append("shutdown"),
        "nvmlSystemGetDriverVersion": answer("570.86.15"),
        "nvmlDeviceGetCount": answer(2),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": answer("NVIDIA H100 80GB HBM3"),
        "nvmlDeviceGetCudaComputeCapability": answer((9, 0)),
        "nvmlDeviceGetPerformanceState": answer(0),
        "nvmlDeviceGetClockInfo": lambda _, clock: clocks[clock],
        "nvmlDeviceGetMaxClockInfo": lambda _, clock: {pynvml.NVML_CLOCK_SM: 1980}[clock],
        "nvmlDeviceGetMemoryInfo": lambda _, version: {pynvml.nvmlMemory_v2: memory}[version],
    }.items():
        monkeypatch.setattr(pynvml, name, replacement)
    return calls


def test_gpus(driver: list[str]) -> None:
    assert hardware.gpu_states() == (H100, H100)
    assert driver == ["init", "shutdown"]


def test_gpu_that_tells_little(driver: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", answer(1))
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", answer("540.3.0"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", answer("Orin (nvgpu)"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPerformanceState", answer(hardware.UNKNOWN_STATE))
    for fact in ("CudaComputeCapability", "ClockInfo", "MaxClockInfo", "MemoryInfo"):
        refusal = refuse(pynvml.NVML_ERROR_NOT_SUPPORTED)
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{fact}", refusal)
    assert hardware.gpu_states() == (ORIN,)
    assert driver == ["init", "shutdown"]


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetName"])
def test_driver_that_fails(
    function: str, driver: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, function, refuse(pynvml.NVML_ERROR_UNKNOWN))
    assert hardware.gpu_states() == ()
    assert driver in ([], ["init", "shutdown"])


def test_gpu_as_text() -> None:
    assert str(H100) == (
        "NVIDIA H100 80GB HBM3, driver 570.86.15, compute capability 9.0, P0, 1980 of 1980 MHz, "
        "memory 2619 MHz, 1543 of 81559 MiB used"
    )
    assert str(ORIN) == "Orin (nvgpu), driver 540.3.0"


@pytest.mark.usefixtures("asked_again")
def test_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags as Linux calls them, and as py-cpuinfo does where it asks the processor itself."""
    for flags in (["fpu", "avx512_vnni", "avx2"], ["avx2", "avx512vnni"]):
        hardware._cpu.cache_clear()
        monkeypatch.setattr(cpuinfo, "get_cpu_info", answer({"brand_raw": "A CPU", "flags": flags}))
        assert hardware.cpu_name() == "A CPU"
        assert hardware.cpu_flags() == ("avx2", "avx512_vnni")


@pytest.mark.usefixtures("asked_again")
def test_processor_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpuinfo, "get_cpu_info", answer({}))
    monkeypatch.setattr(platform, "processor", answer(""))
    monkeypatch.setattr(platform, "machine", answer("loongarch64"))
    assert (hardware.cpu_name(), hardware.cpu_flags()) == ("loongarch64", ())


@pytest.mark.usefixtures("asked_again")
def test_processor_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"brand_raw": "A CPU", "flags": ["avx2"]}])
    monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: next(answers))
    assert (hardware.cpu_name(), hardware.cpu_flags()) == ("A CPU", ("avx2",))


def test_this_machine() -> None:
    assert hardware.cpu_name()
    assert set(hardware.cpu_flags()) <= set(FLAGS)
    total, available = hardware.memory_bytes()
    assert 1 << 28 < available < total
    assert 1 <= usable_cores() <= (psutil.cpu_count() or 1)
    busy, everything = hardware.processor_seconds()
    assert 0 < busy <= everything


LinuxTimes = namedtuple(
    "LinuxTimes", "user nice system idle iowait irq softirq steal guest guest_nice"
)
MacTimes = namedtuple("MacTimes", "user nice system idle")


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (LinuxTimes(1.0, 2, 3, 40, 0.5, 0.06, 0.07, 0.08, 0.9, 0.9), (6.21, 46.71)),
        (MacTimes(1.0, 2, 3, 40), (6, 46)),
    ],
)
def test_processor_seconds(
    times: tuple[float, ...], expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guests are in the time of users already."""
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    assert hardware.processor_seconds() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("end", "own", "others"),
    [
        ((111.0, 520.0), 58.0, 3 / 20),  # of 20 s on two cores 11 were busy, 8 of them ours
        ((111.0, 520.0), 99.0, 0.0),
        ((100.0, 500.0), 58.0, None),  # the system's times stand still
    ],
)
def test_share_of_others(
    end: tuple[float, float],
    own: float,
    others: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything, ours = iter([(100.0, 500.0), end]), iter([50.0, own])
    monkeypatch.setattr(watch, "processor_seconds", lambda: next(everything))
    monkeypatch.setattr(watch, "own_seconds", lambda: next(ours))
    found = watch.MachineWatch().facts().others
    assert found == (None if others is None else pytest.approx(others))


def test_versions_of_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = SimpleNamespace(__version__="2026.4.1-22982-e213a147257-releases/2026/4")
    with monkeypatch.context() as patched:  # pytest needs its modules again to report a failure
        patched.setattr(sys, "modules", {"numpy": np, "cv2": cv2, "openvino": openvino})
        found = watch.loaded_versions()
    assert found.keys() == {"alignseg-infer", "numpy", "opencv", "openvino"}
    assert (found["numpy"], found["openvino"]) == (np.__version__, "2026.4.1")


@pytest.mark.parametrize("package", ["psutil", "cpuinfo", "pynvml"])
def test_package_that_is_missing(package: str) -> None:
    """A benchmark says so before it measures anything; `Predictor` does not need it."""
    program = f"""
import sys
sys.modules[{package!r}] = None
from alignseg_infer.benchmark import Variant, benchmark
from alignseg_infer import MissingDependencyError, Predictor
class Never(Predictor):
    def __call__(self, *arguments, **options):
        raise AssertionError
try:
    benchmark([Variant("a", Never("demo"))], ["street.jpg"])
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert f"the package {package}, which is not installed" in done.stdout
    assert f"try: {INSTALL_BENCH}" in done.stdout
