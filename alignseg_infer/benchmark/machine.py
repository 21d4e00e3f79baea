"""Facts about the machine that a benchmark ran on. `watch` and `hardware` find them."""

from dataclasses import dataclass

BUSY_LOAD = 0.25  # load average, as a share of the usable cores
BUSY_SHARE = 0.05  # share of the processor's time that other processes took


@dataclass(frozen=True)
class GpuState:
    """What a GPU is and does at one moment. A fact that its driver does not give is None.

    Attributes:
        name: Name of the model.
        driver: Version of the driver.
        compute_capability: Compute capability, such as ``8.9``.
        state: Performance state, from P0 (fast) to P12 (idle).
        sm_mhz: Clock of the multiprocessors.
        max_sm_mhz: Highest clock of the multiprocessors.
        memory_mhz: Clock of the memory.
        memory_used_mib: Memory that all processes together use.
        memory_mib: Total memory.
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
        facts = (
            (f"compute capability {self.compute_capability}", self.compute_capability),
            (self.state, self.state),
            (f"{self.sm_mhz} of {self.max_sm_mhz} MHz", self.sm_mhz),
            (f"memory {self.memory_mhz} MHz", self.memory_mhz),
            (f"{self.memory_used_mib} of {self.memory_mib} MiB used", self.memory_mib),
        )
        texts = [text for text, value in facts if text and value is not None]
        return ", ".join([self.name, f"driver {self.driver}", *texts])


@dataclass(frozen=True)
class Machine:
    """The machine that a benchmark ran on.

    Attributes:
        cpu: Model of the processor.
        cores: Number of logical cores that this process may use.
        flags: The `processor.FLAGS` that the processor has.
        system: Operating system.
        python: Version of Python.
        versions: Versions of this package and of the loaded packages, by distribution.
        date: Date and time in UTC, in ISO 8601.
        load: Load average of the minute before the benchmark; None on systems without it.
        others: Share (0..1) of the processor's time that other processes took during the
            benchmark; None if it is unknown.
        gpus: The state of each GPU right after the last round.
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
        """Why the figures cannot be trusted, if other work was running; otherwise None."""
        if self.others is not None and self.others > BUSY_SHARE:
            return f"other processes took {self.others:.0%} of the processor's time meanwhile"
        if self.others is None and self.load is not None and self.load > BUSY_LOAD * self.cores:
            return f"the load average was {self.load:.1f} at the start, on {self.cores} cores"
        return None
