"""What TensorRT calls back into: its log, and its progress, by which a build can be stopped.

TensorRT calls these from C++, where a Python exception ends the process. So nothing here raises:
what goes wrong is kept, and raised when the build has returned.
"""

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Phase:
    """A part of a build that is under way, or has just ended.

    Attributes:
        name: TensorRT's name for it.
        depth: How many phases it is inside of.
        done: Steps done.
        steps: Steps it has.
        ended: Whether it has ended; it may do so before its last step.
    """

    name: str
    depth: int
    done: int
    steps: int
    ended: bool = False


PhaseProgress: TypeAlias = Callable[[Phase], None]


class Phases:
    """Follows the phases of a build, and stops it. TensorRT may call from several threads.

    Args:
        report: Is called with every change; None for nobody.

    Attributes:
        stopped: Whether the build was told to stop.
        error: What `report` raised, which stops the build too.
    """

    def __init__(self, report: PhaseProgress | None = None) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._running: dict[str, Phase] = {}
        self.stopped = False
        self.error: Exception | None = None

    def stop(self) -> None:
        """Ends the build at its next step."""
        self.stopped = True

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            outer = self._running.get(parent or "")
            self._change(Phase(name, outer.depth + 1 if outer else 0, 0, steps))

    def step(self, name: str, step: int) -> bool:
        """Step `step`, from 0, is done. Returns whether to go on."""
        with self._lock:
            if phase := self._running.get(name):
                self._change(Phase(name, phase.depth, step + 1, phase.steps))
        return not self.stopped

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            if phase := self._running.pop(name, None):
                self._tell(Phase(name, phase.depth, phase.done, phase.steps, ended=True))

    def _change(self, phase: Phase) -> None:
        self._running[phase.name] = phase
        self._tell(phase)

    def _tell(self, phase: Phase) -> None:
        if self._report is None or self.error is not None:
            return
        try:
            self._report(phase)
        except Exception as error:  # it must not pass through C++
            self.error = error
            self.stop()


def monitor_of(module: Any, phases: Phases) -> Any:
    """A TensorRT progress monitor that tells `phases`. Keep it as long as the configuration."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def run_stoppable(work: Callable[[], _T], stop: Callable[[], None]) -> _T:
    """Runs `work` in a thread of its own; Ctrl-C calls `stop`, waits for the end, then raises.

    Python handles signals in the main thread, between two of its own instructions. If that thread
    were inside TensorRT, Ctrl-C would be noticed there, and would raise in the middle of C++.

    Raises:
        KeyboardInterrupt: `work` was interrupted, and has ended.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        interrupted = False
        while not future.done():
            try:
                concurrent.futures.wait([future], timeout=POLL_SECONDS)
            except KeyboardInterrupt:
                if not interrupted:
                    logger.info("interrupted; waiting for TensorRT to stop")
                interrupted = True
                stop()
    if interrupted:
        raise KeyboardInterrupt
    return future.result()
