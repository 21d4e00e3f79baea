"""Progress bars on stderr for the commands that take long."""

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

from alignseg_infer.cli.streams import print_message
from alignseg_infer.progress import BatchProgress, FrameProgress, Progress
from alignseg_infer.text import printable

if TYPE_CHECKING:
    from alignseg_infer.trt.builder.progress import Phase, PhaseProgress


LINE_SECONDS = 5.0
PRINTED_DEPTH = 1  # without a terminal, deeper phases get no line


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Open a progress bar; yield a function of (done, total) that updates it.

    A terminal shows a bar with the remaining time. Elsewhere, a line is printed for each tenth.

    Args:
        what: What is counted, such as "images".
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: _print_each_tenth(what, done, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console) as bar:
        task = bar.add_task(printable(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def frames_bar() -> Iterator[FrameProgress]:
    """Open a progress bar for frames; yield a function of (done, total or None) that updates it.

    A terminal shows a bar with frames per second and the remaining time. Elsewhere, a line is
    printed every few seconds.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _FrameLines().show
        return
    columns = (
        TextColumn("{task.description}", markup=False),
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


@contextlib.contextmanager
def images_bar() -> Iterator[BatchProgress]:
    """Open a progress bar for many images; yield a function of (done, total, failed).

    A terminal shows a bar with images per second, the remaining time and the failures. Elsewhere, a
    line is printed every few seconds.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _ImageLines().show
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with RichProgress(*columns, console=console) as bar:
        task = bar.add_task("images", total=None, rate="", failed="")

        def show(done: int, total: int, failed: int) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f} images/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=rate, failed=_failed_text(failed))

        yield show


def _failed_text(failed: int) -> str:
    return f"{failed} failed" if failed else ""


class _ImageLines:
    """Prints the progress of many images where there is no terminal."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()

    def show(self, done: int, total: int, failed: int) -> None:
        """Print a line if the last one is at least `LINE_SECONDS` old."""
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        speed = done / (now - self._begin)
        rest = f"about {(total - done) / speed:.0f} s left"
        parts = [f"{done} of {total} images", f"{speed:.1f} images/s", rest, _failed_text(failed)]
        print_message(", ".join(filter(None, parts)), sys.stderr)


class _FrameLines:
    """Prints the progress of a video where there is no terminal."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()

    def show(self, done: int, total: int | None) -> None:
        """Print a line if the last one is at least `LINE_SECONDS` old."""
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        speed = done / (now - self._begin)
        rest = "" if total is None else f", about {max(0, total - done) / speed:.0f} s left"
        of = "" if total is None else f" of {total}"
        print_message(f"{done}{of} frames, {speed:.1f} fps{rest}", sys.stderr)


def _print_each_tenth(what: str, done: int, total: int) -> None:
    if done * 10 // total != (done - 1) * 10 // total:
        print_message(f"{done} of {total} {what}", sys.stderr)


@contextlib.contextmanager
def phase_bars() -> Iterator["PhaseProgress"]:
    """Open progress bars for TensorRT's nested phases; yield a function that updates them.

    Where there is no terminal, a line is printed when an outer phase begins.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_outer_phase
        return
    columns = (
        TextColumn("{task.description}", markup=False),
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
        title = "  " * phase.depth + printable(phase.name)
        tasks[phase.name] = bars.add_task(title, total=phase.steps)
    bars.update(tasks[phase.name], completed=phase.done)


def _print_outer_phase(phase: "Phase") -> None:
    if phase.depth <= PRINTED_DEPTH and phase.done == 0 and not phase.ended:
        print_message("  " * phase.depth + phase.name, sys.stderr)
