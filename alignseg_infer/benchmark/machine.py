"""What a benchmark ran on: processor, GPU, load, versions."""

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from alignseg_infer.version import __version__

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp")
# Import name -> distribution; only what is loaded has a part in the figures.
PACKAGES = {
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}
GPU_FIELDS = (
    *("name", "driver_version", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem"),
    *("memory.used", "memory.total"),
)
GPU_SECONDS = 20.0  # nvidia-smi takes two where the driver is not kept loaded
BUSY_LOAD = 0.25  # of the usable cores
BUSY_SHARE = 0.05
LEAST_WATCHED = 1.0  # s of processor time; the system counts in hundredths


@dataclass(frozen=True)
class Gpu:
    """A GPU as ``nvidia-smi`` describes it; None for what it does not know.

    Attributes:
        name: Its model.
        driver: Version of the driver.
        state: P0 (fast) to P12 (idle).
        sm_mhz: Clock of the multiprocessors.
        max_sm_mhz: The highest it may have.
        memory_mhz: Clock of the memory.
        memory_used_mib: Memory in use, by all processes together.
        memory_mib: Memory there is.
    """

    name: str
    driver: str
    state: str
    sm_mhz: int | None
    max_sm_mhz: int | None
    memory_mhz: int | None
    memory_used_mib: int | None
    memory_mib: int | None

    def __str__(self) -> str:
        return (
            f"{self.name}, driver {self.driver}, {self.state}, "
            f"{self.sm_mhz} of {self.max_sm_mhz} MHz, memory {self.memory_mhz} MHz, "
            f"{self.memory_used_mib} of {self.memory_mib} MiB used"
        )


@dataclass(frozen=True)
class Machine:
    """What a benchmark ran on.

    Attributes:
        cpu: Model of the processor.
        cores: Logical cores this process may use.
        flags: Those of `FLAGS` that the processor has.
        system: Operating system.
        python: Version of Python.
        versions: Of this package and of what was loaded, by distribution.
        date: Day and time, UTC, ISO 8601.
        load: Load average of the last minute before it began; None where there is none.
        others: Share (0..1) of the processor's time that other processes took while it was
            measured; None where that cannot be told.
        gpus: One for each GPU, right after the last round.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    system: str
    python: str
    versions: dict[str, str]
    date: str
    load: float | None
    others: float | None
    gpus: tuple[Gpu, ...]

    @property
    def busy(self) -> str | None:
        """Why these figures are not to be trusted, if other work was running."""
        if self.others is not None and self.others > BUSY_SHARE:
            return f"other processes took {self.others:.0%} of the processor's time meanwhile"
        if self.others is None and self.load is not None and self.load > BUSY_LOAD * self.cores:
            return f"the load average was {self.load:.1f} at the start, on {self.cores} cores"
        return None


class MachineWatch:
    """Watches the machine from its construction until `facts` is called."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._all, self._own = processor_seconds(), own_seconds()

    def facts(self) -> Machine:
        """What the machine is, and what it did meanwhile."""
        gpus = found_gpus()
        return Machine(
            cpu=cpu_name(),
            cores=usable_cores(),
            flags=cpu_flags(),
            system=platform.platform(),
            python=platform.python_version(),
            versions=loaded_versions(),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            load=self._load,
            others=self._share_of_others(),
            gpus=gpus,
        )

    def _share_of_others(self) -> float | None:
        now, own = processor_seconds(), own_seconds() - self._own
        if now is None or self._all is None:
            return None
        busy, everything = (after - before for after, before in zip(now, self._all, strict=True))
        if everything < LEAST_WATCHED:  # and some containers show a /proc/stat that stands still
            return None
        return min(max((busy - own) / everything, 0.0), 1.0)


def own_seconds() -> float:
    """Processor time of this process and its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def processor_seconds(stat: Path = Path("/proc/stat")) -> tuple[float, float] | None:
    """Seconds all cores have worked since the start, and those plus what they idled.

    What other virtual machines took counts as work. None where there is no such file.
    """
    try:
        line = stat.read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return None
    user, nice, system, idle, wait, irq, soft_irq, steal = map(int, line.split()[1:9])
    busy = user + nice + system + irq + soft_irq + steal
    hertz = os.sysconf("SC_CLK_TCK")
    return busy / hertz, (busy + idle + wait) / hertz


def usable_cores() -> int:
    """Logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model of the processor, as the system calls it."""
    known = _cpuinfo(cpuinfo)
    for key in ("model name", "Model", "Hardware"):
        if known.get(key):
            return known[key]
    return platform.processor() or platform.machine()


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Which of `FLAGS` the processor has; none where that cannot be read."""
    known = _cpuinfo(cpuinfo)
    found = (known.get("flags") or known.get("Features") or "").split()
    return tuple(flag for flag in FLAGS if flag in found)


def _cpuinfo(path: Path) -> dict[str, str]:
    """The first value of each key."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in reversed(lines)]
    return {key.strip(): value.strip() for key, _, value in pairs}


def loaded_versions() -> dict[str, str]:
    """Versions of this package and of those of `PACKAGES` that are loaded."""
    versions = {"alignseg-infer": __version__}
    for module, distribution in PACKAGES.items():
        if module in sys.modules:
            versions[module if module != "cv2" else "opencv"] = _version(module, distribution)
    return versions


def _version(module: str, distribution: str) -> str:
    version = getattr(sys.modules[module], "__version__", None)
    text = str(version or importlib.metadata.version(distribution))
    return text.partition("-")[0]  # OpenVINO adds its build and branch


def found_gpus() -> tuple[Gpu, ...]:
    """What ``nvidia-smi`` says; nothing where there is none, or where it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603 - found on PATH, constant arguments
            command, capture_output=True, text=True, check=True, timeout=GPU_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parsed_gpus(done.stdout)


def parsed_gpus(text: str) -> tuple[Gpu, ...]:
    """The lines of ``nvidia-smi --query-gpu`` for `GPU_FIELDS`, without header and units."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(
        Gpu(row[0], row[1], row[2], *map(_whole_or_none, row[3:]))
        for row in rows
        if len(row) == len(GPU_FIELDS)
    )


def _whole_or_none(text: str) -> int | None:
    return int(text) if text.isdecimal() else None  # [N/A], [Not Supported]
