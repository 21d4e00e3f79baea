"""Follows the progress of a build, and stops it on Ctrl-C.

TensorRT calls back from C++, where a Python exception would end the process. So the callbacks
never raise: they keep an error until the build has returned.
"""

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from alignseg_infer.trt.bindings import IProgressMonitor
from alignseg_infer.trt.flavours import Module

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Phase:
    """A part of a build that is running, or has just ended.

    Attributes:
        name: TensorRT's name for it.
        depth: Number of phases around it.
        done: Steps that are done.
        steps: Steps in all.
        ended: Whether it has ended, which can happen before its last step.
    """

    name: str
    depth: int
    done: int
    steps: int
    ended: bool = False


PhaseProgress: TypeAlias = Callable[[Phase], None]
PhaseBars: TypeAlias = Callable[[], AbstractContextManager[PhaseProgress | None]]


class Phases:
    """Follows the phases of a build, and stops it. TensorRT may call from several threads.

    Args:
        report: Called with every change; None if nobody listens.

    Attributes:
        stopped: Whether the build was told to stop.
        error: The error that `report` raised, which stops the build too.
    """

    def __init__(self, report: PhaseProgress | None = None) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._running: dict[str, Phase] = {}
        self.stopped = False
        self.error: Exception | None = None

    def stop(self) -> None:
        """End the build at its next step."""
        self.stopped = True

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Note that a phase begins."""
        with self._lock:
            outer = self._running.get(parent or "")
            self._change(Phase(name, outer.depth + 1 if outer else 0, 0, steps))

    def step(self, name: str, step: int) -> bool:
        """Note that step `step`, counted from 0, is done. Return whether to go on."""
        with self._lock:
            if phase := self._running.get(name):
                self._change(Phase(name, phase.depth, step + 1, phase.steps))
        return not self.stopped

    def finish(self, name: str) -> None:
        """Note that a phase ends."""
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
        except Exception as error:  # an exception must not pass through C++
            self.error = error
            self.stop()


def new_monitor(module: Module, phases: Phases) -> IProgressMonitor:
    """Create a TensorRT progress monitor that reports to `phases`; it must outlive the config."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc,name-defined]
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
    """Run `work` in its own thread. On Ctrl-C, call `stop`, wait for the end, then raise.

    Python handles signals in the main thread, between two of its own instructions. If that thread
    were inside TensorRT, a callback would notice Ctrl-C and raise in the middle of C++.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C, and `work` has ended.
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
