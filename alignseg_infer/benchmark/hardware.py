"""Facts about the processor, the memory and the GPUs, from psutil, py-cpuinfo and NVML.

This module loads these packages when it is imported.
"""

import functools
import platform
from collections.abc import Callable
from typing import Any, TypeVar

from alignseg_infer.backends.processor import FLAGS
from alignseg_infer.benchmark.machine import GpuState
from alignseg_infer.errors import INSTALL_BENCH, MissingDependencyError

try:
    import cpuinfo
    import psutil
    import pynvml
except ImportError as error:
    raise MissingDependencyError(
        f"facts about the machine need the package {error.name}, which is not installed",
        "the packages psutil, py-cpuinfo (imported as cpuinfo) and nvidia-ml-py (pynvml)",
        INSTALL_BENCH,
    ) from error

T = TypeVar("T")

# py-cpuinfo uses this name of its own if the system does not give the flags.
CPUID_NAMES = {"avx512vnni": "avx512_vnni"}
UNKNOWN_STATE = 32  # NVML_PSTATE_UNKNOWN
MIB = 1 << 20


def cpu_name() -> str:
    """Return the processor's name for itself."""
    return str(_cpu().get("brand_raw") or platform.processor() or platform.machine())


def cpu_flags() -> tuple[str, ...]:
    """Return the `FLAGS` that the processor has, or none if they are unknown."""
    found = {CPUID_NAMES.get(flag, flag) for flag in _cpu().get("flags", ())}
    return tuple(flag for flag in FLAGS if flag in found)


@functools.cache
def _cpu() -> dict[str, Any]:
    """Ask py-cpuinfo, which starts a process and takes a second. It does not know all CPUs."""
    return dict(cpuinfo.get_cpu_info())


def memory_bytes() -> tuple[int, int]:
    """Return the total and the available memory of the machine, in bytes."""
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def processor_seconds() -> tuple[float, float]:
    """Return how many seconds all cores have worked since the start, and worked or been idle.

    Time that other virtual machines took (steal) counts as work. Time of this machine's guests is
    not added, since the times of their processes contain it.
    """
    times = psutil.cpu_times()._asdict()
    everything = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return everything - times["idle"] - times.get("iowait", 0.0), everything


def gpu_states() -> tuple[GpuState, ...]:
    """Return the state of each GPU, or none if NVIDIA's driver is missing or fails."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        count = pynvml.nvmlDeviceGetCount()
        return tuple(
            _read_state(pynvml.nvmlDeviceGetHandleByIndex(index), driver) for index in range(count)
        )
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _read_state(gpu: object, driver: str) -> GpuState:
    capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, gpu)
    state = _ask(pynvml.nvmlDeviceGetPerformanceState, gpu)
    # Like nvidia-smi, version 2 does not count the memory that the driver reserves as used.
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, gpu, pynvml.nvmlMemory_v2)
    return GpuState(
        name=str(pynvml.nvmlDeviceGetName(gpu)),
        driver=driver,
        compute_capability=None if capability is None else ".".join(map(str, capability)),
        state=None if state in (None, UNKNOWN_STATE) else f"P{state}",
        sm_mhz=_ask(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_SM),
        max_sm_mhz=_ask(pynvml.nvmlDeviceGetMaxClockInfo, gpu, pynvml.NVML_CLOCK_SM),
        memory_mhz=_ask(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_MEM),
        memory_used_mib=None if memory is None else memory.used // MIB,
        memory_mib=None if memory is None else memory.total // MIB,
    )


def _ask(query: Callable[..., T], *arguments: object) -> T | None:
    """Return NVML's answer, or None if it does not support the query, such as Jetson's memory."""
    try:
        return query(*arguments)
    except pynvml.NVMLError:
        return None
