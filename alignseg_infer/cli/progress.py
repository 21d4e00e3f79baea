"""A progress bar on stderr, shared by the commands that take long."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from alignseg_infer.progress import FrameProgress, Progress

if TYPE_CHECKING:
    from alignseg_infer.trt.builder.progress import Phase, PhaseProgress


LINE_SECONDS = 5.0
PRINTED_DEPTH = 1  # where there is no terminal, deeper phases are not worth a line


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Gives a function of (done, total) that shows how far it is and how long it will take.

    On a terminal that is a bar; elsewhere, a line for each tenth.

    Args:
        what: Is counted, e.g. "images".
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: _line_for_each_tenth(what, done, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def frames_bar() -> Iterator[FrameProgress]:
    """Gives a function of (done, total or None) that shows frames, frames per second, and the rest.

    On a terminal that is a bar; elsewhere, a line every few seconds.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _FrameLines().show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console) as bar:
        task = bar.add_task("frames", total=None, fps="")

        def show(done: int, total: int | None) -> None:
            speed = bar.tasks[0].speed
            fps = f"{speed:.1f} fps" if speed else ""
            bar.update(task, completed=done, total=total, fps=fps)

        yield show


class _FrameLines:
    """Progress of a video where there is no terminal."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()

    def show(self, done: int, total: int | None) -> None:
        """Prints a line, unless the last one is not long ago."""
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        speed = done / (now - self._begin)
        rest = "" if total is None else f", about {max(0, total - done) / speed:.0f} s to go"
        of = "" if total is None else f" of {total}"
        print(f"{done}{of} frames, {speed:.1f} fps{rest}", file=sys.stderr)


def _line_for_each_tenth(what: str, done: int, total: int) -> None:
    if done * 10 // total != (done - 1) * 10 // total:
        print(f"{done} of {total} {what}", file=sys.stderr)


@contextlib.contextmanager
def phase_bars() -> Iterator["PhaseProgress"]:
    """Gives a function that shows TensorRT's phases, one inside the other, each with a bar.

    Where there is no terminal, it prints a line when an outer phase begins.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_for_outer_phase
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        yield lambda phase: _show_phase(bars, tasks, phase)


def _show_phase(bars: RichProgress, tasks: dict[str, TaskID], phase: "Phase") -> None:
    if phase.ended:
        bars.remove_task(tasks.pop(phase.name))
        return
    if phase.name not in tasks:
        tasks[phase.name] = bars.add_task("  " * phase.depth + phase.name, total=phase.steps)
    bars.update(tasks[phase.name], completed=phase.done)


def _line_for_outer_phase(phase: "Phase") -> None:
    if phase.depth <= PRINTED_DEPTH and phase.done == 0 and not phase.ended:
        print("  " * phase.depth + phase.name, file=sys.stderr)
