"""The processor, the memory and the GPUs, asked through psutil, py-cpuinfo and NVML.

These packages are loaded with this module.
"""

import functools
import platform
from collections.abc import Callable
from typing import Any, TypeVar

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

# What makes networks faster, as Linux calls it: vectors, INT8, bfloat16, matrix tiles; then Arm's.
FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
CPUID_NAMES = {"avx512vnni": "avx512_vnni"}  # py-cpuinfo's own, where the system tells no flags
UNKNOWN_STATE = 32  # NVML_PSTATE_UNKNOWN
MIB = 1 << 20


def cpu_name() -> str:
    """Return the model of the processor, as it calls itself."""
    return str(_cpu().get("brand_raw") or platform.processor() or platform.machine())


def cpu_flags() -> tuple[str, ...]:
    """Return which of `FLAGS` the processor has; none where that cannot be told."""
    found = {CPUID_NAMES.get(flag, flag) for flag in _cpu().get("flags", ())}
    return tuple(flag for flag in FLAGS if flag in found)


@functools.cache
def _cpu() -> dict[str, Any]:
    """Ask py-cpuinfo, which starts a process and takes a second; it knows nothing of some CPUs."""
    return dict(cpuinfo.get_cpu_info())


def memory_bytes() -> tuple[int, int]:
    """Return the machine's memory, and how much of it is available."""
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def processor_seconds() -> tuple[float, float]:
    """Return the seconds all cores have worked since the start, and those plus what they idled.

    What other virtual machines took (steal) counts as work. What guests of this machine took is in
    the time of their processes already.
    """
    times = psutil.cpu_times()._asdict()
    everything = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return everything - times["idle"] - times.get("iowait", 0.0), everything


def gpu_states() -> tuple[GpuState, ...]:
    """Return the state of each GPU; nothing where NVIDIA's driver is not there or fails."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        count = pynvml.nvmlDeviceGetCount()
        return tuple(
            _state_of(pynvml.nvmlDeviceGetHandleByIndex(index), driver) for index in range(count)
        )
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _state_of(gpu: object, driver: str) -> GpuState:
    capability = _told(pynvml.nvmlDeviceGetCudaComputeCapability, gpu)
    state = _told(pynvml.nvmlDeviceGetPerformanceState, gpu)
    # The second version does not count what the driver reserves as used, as nvidia-smi does.
    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, gpu, pynvml.nvmlMemory_v2)
    return GpuState(
        name=str(pynvml.nvmlDeviceGetName(gpu)),
        driver=driver,
        compute_capability=None if capability is None else ".".join(map(str, capability)),
        state=None if state in (None, UNKNOWN_STATE) else f"P{state}",
        sm_mhz=_told(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_SM),
        max_sm_mhz=_told(pynvml.nvmlDeviceGetMaxClockInfo, gpu, pynvml.NVML_CLOCK_SM),
        memory_mhz=_told(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_MEM),
        memory_used_mib=None if memory is None else memory.used // MIB,
        memory_mib=None if memory is None else memory.total // MIB,
    )


def _told(ask: Callable[..., T], *arguments: object) -> T | None:
    """Return what NVML says; None where it does not support that, as for Jetson's memory."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None
