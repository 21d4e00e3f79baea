"""What a benchmark ran on, as facts; `watch` and `hardware` find them."""

import os
from dataclasses import dataclass

BUSY_LOAD = 0.25  # of the usable cores
BUSY_SHARE = 0.05


@dataclass(frozen=True)
class GpuState:
    """What a GPU is and does at one moment; None for what its driver does not tell.

    Attributes:
        name: Its model.
        driver: Version of the driver.
        compute_capability: For example ``8.9``.
        state: P0 (fast) to P12 (idle).
        sm_mhz: Clock of the multiprocessors.
        max_sm_mhz: The highest it may have.
        memory_mhz: Clock of the memory.
        memory_used_mib: Memory in use, by all processes together.
        memory_mib: Memory there is.
    """

    name: str
    driver: str
    compute_capability: str | None
    state: str | None
    sm_mhz: int | None
    max_sm_mhz: int | None
    memory_mhz: int | None
    memory_used_mib: int | None
    memory_mib: int | None

    def __str__(self) -> str:
        told = (
            (f"compute capability {self.compute_capability}", self.compute_capability),
            (self.state, self.state),
            (f"{self.sm_mhz} of {self.max_sm_mhz} MHz", self.sm_mhz),
            (f"memory {self.memory_mhz} MHz", self.memory_mhz),
            (f"{self.memory_used_mib} of {self.memory_mib} MiB used", self.memory_mib),
        )
        texts = [text for text, value in told if text and value is not None]
        return ", ".join([self.name, f"driver {self.driver}", *texts])


@dataclass(frozen=True)
class Machine:
    """What a benchmark ran on.

    Attributes:
        cpu: Model of the processor.
        cores: Logical cores this process may use.
        flags: Those of `hardware.FLAGS` that the processor has.
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
    gpus: tuple[GpuState, ...]

    @property
    def busy(self) -> str | None:
        """Why these figures are not to be trusted, if other work was running."""
        if self.others is not None and self.others > BUSY_SHARE:
            return f"other processes took {self.others:.0%} of the processor's time meanwhile"
        if self.others is None and self.load is not None and self.load > BUSY_LOAD * self.cores:
            return f"the load average was {self.load:.1f} at the start, on {self.cores} cores"
        return None


def usable_cores() -> int:
    """Return how many logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
