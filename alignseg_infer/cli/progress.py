"""A progress bar on stderr, shared by the commands that take long."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

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

if TYPE_CHECKING:
    from alignseg_infer.export.callbacks import Phase, PhaseProgress

Progress: TypeAlias = Callable[[int, int], None]

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
