"""Examines this machine."""

import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

from alignseg_infer.backends.processor import usable_cores
from alignseg_infer.choices import check_kinds, choose
from alignseg_infer.doctor.asking import Answer, ask
from alignseg_infer.doctor.clashes import find_clashes
from alignseg_infer.doctor.goals import NEEDS, Goal, advise
from alignseg_infer.doctor.known import Known, known_of, state_of
from alignseg_infer.doctor.machine import list_machine_facts
from alignseg_infer.doctor.parts import (
    DRIVER,
    PARTS,
    Part,
    installed_distributions,
    list_versions,
)
from alignseg_infer.doctor.report import OWN_TARGETS, Report
from alignseg_infer.doctor.runtimes import Target
from alignseg_infer.doctor.sampler import Choice, choose_sampler
from alignseg_infer.progress import Progress
from alignseg_infer.spec.model import Precision
from alignseg_infer.version import __version__

MAX_CHILDREN = 4


@check_kinds
def examine(goal: str | None = None, *, progress: Progress | None = None) -> Report:
    """Find out what is installed here, what of it loads, and whether its results are right.

    Each part is loaded in a child process, so a part that crashes or hangs is only reported. ::

        print(examine("video").broken)

    Args:
        goal: What this machine is for: one of `Goal`; None for everything that is installed.
        progress: Called with the number of parts that were asked, and the total.

    Raises:
        OptionError: There is no such goal, or `progress` is no function.
    """
    chosen = None if goal is None else choose(Goal, goal, "goal")
    installed = installed_distributions()
    versions = list_versions(installed)
    answers = _ask_all(versions, progress)
    driver = answers.pop(DRIVER.module)
    names = {other for needs in NEEDS.values() for other in needs.others}
    modules = {name for name in names if importlib.util.find_spec(name) is not None}
    known, samplers = _judge(versions, answers)
    return Report(
        version=__version__,
        machine=tuple(list_machine_facts()),
        driver=driver,
        versions=versions,
        answers=answers,
        clashes=tuple(find_clashes(installed, answers, driver.cuda)),
        known=known,
        samplers=samplers,
        goal=chosen,
        advice=None if chosen is None else advise(chosen, answers, modules),
    )


def _ask_all(versions: dict[str, tuple[str, ...]], progress: Progress | None) -> dict[str, Answer]:
    """Ask the installed parts and the driver, several at a time."""
    parts = [part for part in PARTS if versions[part.module]]
    asked = [*sorted(parts, key=lambda part: -len(part.targets)), DRIVER]  # the longest first
    answers, stop = {}, threading.Event()
    threads = min(MAX_CHILDREN, usable_cores())
    working = threading.Semaphore(threads)

    def work(part: Part) -> Answer:
        with working:
            return ask(part, stop=stop)

    with ThreadPoolExecutor(threads) as pool:
        try:
            futures = {pool.submit(work, part): part.module for part in asked}
            for done, future in enumerate(as_completed(futures), 1):
                answers[futures[future]] = future.result()
                if progress is not None:
                    progress(done, len(asked))
        finally:
            stop.set()
            for _ in range(threads):  # after a Ctrl-C in `submit`, the pool forgets its thread
                working.acquire()
            working.release(threads)  # for what is still queued, which ends at once
    return answers


def _judge(
    versions: dict[str, tuple[str, ...]], answers: dict[str, Answer]
) -> tuple[tuple[tuple[Known, str], ...], dict[Target, dict[Precision, Choice]]]:
    """Return the known problems of the installed runtimes, and the samplers for them."""
    problems: list[tuple[Known, str]] = []
    samplers: dict[Target, dict[Precision, Choice]] = {}
    for part in PARTS:
        if part.module not in answers:
            continue
        version = versions[part.module][0].partition(" ")[2]
        for target in part.targets:
            results = answers[part.module].results.get(target, {})
            problems += [(one, state_of(one, results)) for one in known_of(target, version)]
            if target in OWN_TARGETS:
                samplers[target] = {
                    precision: choose_sampler(target, version, precision, results)
                    for precision in Precision
                }
    return tuple(problems), samplers
