"""Facts about the machine: Python, the system, the processor, the memory and the GPUs."""

import platform
from collections.abc import Iterator

from alignseg_infer.backends.processor import usable_cores
from alignseg_infer.errors import MissingDependencyError

GIB = 1 << 30


def list_machine_facts() -> Iterator[tuple[str, str]]:
    """Yield titles and facts, fewer of them where the packages for `bench` are missing."""
    yield "Python", platform.python_version()
    yield "System", platform.platform()
    try:
        from alignseg_infer.benchmark import hardware
    except MissingDependencyError as error:
        yield "CPU", f"{platform.processor() or platform.machine()}, {usable_cores()} usable cores"
        yield "CPU flags, memory, GPU", f"unknown; {error.fix}"
        return
    flags = ", ".join(hardware.cpu_flags()) or "no known flags"
    yield "CPU", f"{hardware.cpu_name()}, {usable_cores()} usable cores, {flags}"
    total, available = hardware.memory_bytes()
    yield "Memory", f"{total / GIB:.1f} GiB, {available / GIB:.1f} GiB available"
    gpus = hardware.gpu_states()
    yield from (("GPU", str(gpu)) for gpu in gpus)
    if not gpus:
        yield "GPU", "none that NVIDIA's driver shows"
