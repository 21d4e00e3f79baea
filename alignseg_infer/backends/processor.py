"""What this process may use of the machine's processor. Needs no package."""

import math
import os
import platform
from functools import cache
from pathlib import Path

# Flags of features that make networks faster, under Linux's names: vectors, INT8 and bfloat16;
# matrix tiles; Arm's.
FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
MAX_THREADS = 1024  # that a runtime may be asked for
_CPU_FACTS = Path("/proc/cpuinfo")  # only Linux has it
_GROUPS = Path("/sys/fs/cgroup")
_NAME_KEYS = ("model name", "Model", "Processor")  # of x86-64, and of boards with Arm
_FLAG_KEYS = ("flags", "Features")


def usable_cores() -> int:
    """Return how many logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def core_limit() -> float | None:
    """Return how many cores' time the container of this process may take; None for no limit.

    It is Linux's limit of a group of processes (``docker run --cpus 1.5``). More threads than that
    would wait for each other.
    """
    try:
        quota, period = (_GROUPS / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:  # the older kind of groups
            quota, period = (
                (_GROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    if not quota.isdecimal() or not int(period):  # "max", or -1 in the older kind
        return None
    return round(int(quota) / int(period), 3)


def thread_limit() -> int:
    """Return the most threads that can work at the same time in this process."""
    limit = core_limit()
    return min(usable_cores(), max(1, math.ceil(limit))) if limit else usable_cores()


def physical_cores() -> int:
    """Return how many of the cores this process may use are not the second half of another one."""
    if not hasattr(os, "sched_getaffinity"):
        return usable_cores()
    cores = set()
    for number in os.sched_getaffinity(0):
        place = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        try:
            cores.add(place.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(number))
    return len(cores)


def cpu_model() -> str:
    """Return the processor's name for itself, as far as Linux or Python knows it."""
    facts = _cpu_facts()
    told = [facts[key] for key in _NAME_KEYS if facts.get(key)]
    return told[0] if told else platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Return the `FLAGS` that the processor has; none on systems other than Linux."""
    facts = _cpu_facts()
    found = {flag for key in _FLAG_KEYS for flag in facts.get(key, "").split()}
    return tuple(flag for flag in FLAGS if flag in found)


@cache
def _cpu_facts() -> dict[str, str]:
    """Return what Linux says of the first core."""
    try:
        text = _CPU_FACTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts
