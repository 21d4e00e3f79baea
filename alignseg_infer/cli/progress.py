"""A progress bar on stderr, shared by the commands that take long."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Progress: TypeAlias = Callable[[int, int], None]


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
