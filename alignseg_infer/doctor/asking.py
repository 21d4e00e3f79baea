"""Asks each part in a child process, so that a part that crashes or hangs is only reported.

A runtime that ends the process in the middle of the catalogue is asked again for the rest.
"""

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from alignseg_infer.doctor.anonymous import anonymous
from alignseg_infer.doctor.catalogue import CASES
from alignseg_infer.doctor.parts import Part
from alignseg_infer.doctor.runtimes import Found, Target, Verdict, cases_of
from alignseg_infer.files.writing import temporary_folder
from alignseg_infer.packages import command_of

PROBE = "alignseg_infer.doctor.probe"
PART_SECONDS = 120.0  # OpenVINO took 61 s on a machine with ten times more work than cores
STOP_SECONDS = 0.2  # until a child is killed that is no longer waited for
MAX_STARTS = 4  # a runtime that ends the process this often is not asked again

Results = dict[Target, dict[str, Found]]


@dataclass
class Answer:
    """What a part said.

    Attributes:
        loads: Whether it loads.
        runs_on: What it runs on, if it loads.
        problem: Why it does not load.
        fix: What to type then, if that is known.
        needs_device: Whether it does not load because of the GPU or its driver.
        cuda: The CUDA that it is for, or that the driver runs.
        results: What came of the catalogue.
        clashes: Pairs of a problem and what mends it.
    """

    loads: bool = False
    runs_on: str = ""
    problem: str = ""
    fix: str = ""
    needs_device: bool = False
    cuda: tuple[int, int] | None = None
    results: Results = field(default_factory=dict)
    clashes: list[tuple[str, str]] = field(default_factory=list)


def ask(
    part: Part, *, seconds: float = PART_SECONDS, stop: threading.Event | None = None
) -> Answer:
    """Load a part and run the catalogue in it, in child processes.

    Args:
        part: Which.
        seconds: How long a child may take.
        stop: Ends the child soon after it is set, and starts no other.
    """
    answer = Answer()
    todo = [(target, case.name) for target in part.targets for case in cases_of(target, CASES)]
    for _ in range(MAX_STARTS):
        if stop is not None and stop.is_set():
            return answer
        lines, end = _run_child(part.module, todo, seconds, stop)
        _take(lines, answer)
        if not answer.loads:
            answer.problem = answer.problem or end or "it ends without an answer"
            return answer
        todo = [(target, name) for target, name in todo if name not in _done(answer, target)]
        if not todo or not end:
            return answer
        target, name = todo.pop(0)
        verdict = Verdict.HUNG if end.startswith("it takes") else Verdict.ENDED
        answer.results.setdefault(target, {})[name] = Found(verdict, end)
        if verdict is Verdict.HUNG:
            return answer
    return answer


def _done(answer: Answer, target: Target) -> dict[str, Found]:
    return answer.results.get(target, {})


def _run_child(
    module: str,
    todo: list[tuple[Target, str]],
    seconds: float,
    stop: threading.Event | None,
) -> tuple[list[dict[str, Any]], str]:
    """Return the lines of a child, and how it ended, which is empty if it ended well."""
    wanted: dict[str, list[str]] = {}
    for target, name in todo:
        wanted.setdefault(target.value, []).append(name)
    with (
        temporary_folder() as folder,  # what a child leaves when it is killed goes with it
        subprocess.Popen(  # noqa: S603 - our own module
            [*command_of(PROBE), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(folder)},
        ) as child,
    ):
        try:
            output, errors = _talk(child, json.dumps(wanted).encode(), seconds, stop)
        except subprocess.TimeoutExpired as error:
            child.kill()
            return _parse(error.stdout or b""), f"it takes longer than {seconds:g} s"
        except BaseException:  # Ctrl-C, where the work is in the main thread
            child.kill()
            raise
    return _parse(output), _end_of(child.returncode, errors)


def _talk(
    child: "subprocess.Popen[bytes]", said: bytes, seconds: float, stop: threading.Event | None
) -> tuple[bytes, bytes]:
    """Return what a child writes to its two streams until it ends, or until it has to stop.

    Raises:
        subprocess.TimeoutExpired: It takes longer.
    """
    deadline, rest = time.monotonic() + seconds, [said]
    while True:
        try:
            return child.communicate(rest.pop() if rest else None, timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise
        if stop is not None and stop.is_set():
            child.kill()


def _parse(output: bytes) -> list[dict[str, Any]]:
    """Return the whole lines; the last one may be cut off."""
    return [json.loads(line) for line in output.split(b"\n")[:-1]]


def _end_of(code: int, errors: bytes) -> str:
    if code == 0:
        return ""
    last = ([line.strip() for line in errors.decode(errors="replace").splitlines()] or [""])[-1]
    try:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        name = f"exit code {code}"
    return f"it ends the process with {name}" + (f": {anonymous(last)}" if last else "")


def _take(lines: list[dict[str, Any]], answer: Answer) -> None:
    for line in lines:
        match line["kind"]:
            case "loaded":
                answer.loads, answer.runs_on = True, line["runs_on"]
                answer.cuda = (line["cuda"][0], line["cuda"][1]) if line["cuda"] else None
            case "unloaded":
                answer.problem, answer.fix = anonymous(line["problem"]), line["fix"]
                answer.needs_device = line["device"]
            case "case":
                found = Found(Verdict(line["verdict"]), anonymous(line["detail"]))
                answer.results.setdefault(Target(line["target"]), {})[line["name"]] = found
            case "absent":
                answer.results[Target(line["target"])] = {}
            case "clash":
                answer.clashes.append((anonymous(line["problem"]), line["fix"]))
