"""What was found about a machine, as JSON, and what of it counts as broken."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from alignseg_infer.doctor.anonymous import without_folders
from alignseg_infer.doctor.asking import Answer
from alignseg_infer.doctor.catalogue import CASE_NAMES
from alignseg_infer.doctor.clashes import Clash
from alignseg_infer.doctor.goals import NEEDS, Advice, Goal
from alignseg_infer.doctor.known import Known
from alignseg_infer.doctor.parts import PARTS
from alignseg_infer.doctor.runtimes import GOOD, Target
from alignseg_infer.doctor.sampler import Choice
from alignseg_infer.spec.model import Precision

JSON_VERSION = 1
OWN_TARGETS = tuple(target for target in Target if target is not Target.OPENVINO_BF16)


@dataclass(frozen=True)
class Report:
    """What `examine` found.

    Attributes:
        version: Version of this package.
        machine: Pairs of a title and a fact: Python, the system, CPU, memory and GPUs.
        driver: What NVIDIA's driver said.
        versions: Distributions with their versions, by module.
        answers: What the installed parts said, by module.
        clashes: What does not go together.
        known: Problems that others reported of these versions, and whether they were seen here.
        samplers: The sampler for each runtime that was asked, and each precision.
        goal: The goal that was asked about.
        advice: What the goal still needs; None without a goal.
    """

    version: str
    machine: tuple[tuple[str, str], ...]
    driver: Answer
    versions: dict[str, tuple[str, ...]]
    answers: dict[str, Answer]
    clashes: tuple[Clash, ...]
    known: tuple[tuple[Known, str], ...]
    samplers: dict[Target, dict[Precision, Choice]]
    goal: Goal | None
    advice: Advice | None

    @property
    def broken(self) -> tuple[str, ...]:
        """What is broken, of all or of what the goal needs; one line each."""
        modules = NEEDS[self.goal].modules if self.goal else tuple(part.module for part in PARTS)
        found = [clash.problem for clash in self.clashes if set(clash.parts) & set(modules)]
        for part in PARTS:
            answer = self.answers.get(part.module)
            if answer is None or part.module not in modules:
                continue
            if not answer.loads and (self.goal or not answer.needs_device):
                found.append(f"{part.title} does not load: {answer.problem}")
            for target in part.targets:
                found += self._wrong_in(target, answer)
        if self.advice is not None and self.advice.missing:
            found.append(f"{self.goal} needs {', '.join(self.advice.missing)}")
        return tuple(found)

    @staticmethod
    def _wrong_in(target: Target, answer: Answer) -> list[str]:
        """Return what is wrong in a target, of the graphs that this package exports."""
        if target not in OWN_TARGETS:
            return []
        return [
            f"{CASE_NAMES[name].what} is {found.verdict} in {target}"
            for name, found in answer.results.get(target, {}).items()
            if found.verdict not in GOOD and CASE_NAMES[name].precisions
        ]

    def to_json(self) -> str:
        """Return all facts as JSON, for a report of a bug."""
        facts: dict[str, Any] = {
            "version": JSON_VERSION,
            "alignseg-infer": self.version,
            "machine": [list(pair) for pair in self.machine],
            "driver": self.driver.runs_on or self.driver.problem,
            "parts": {module: self._part_as_json(module) for module in self.versions},
            "clashes": [
                dataclasses.asdict(clash) | {"fix": without_folders(clash.fix)}
                for clash in self.clashes
            ],
            "known": [
                {"thread": known.thread, "runtime": known.target, "what": known.what, "here": here}
                for known, here in self.known
            ],
            "sampler": {
                target: {precision: dataclasses.asdict(choice) for precision, choice in row.items()}
                for target, row in self.samplers.items()
            },
            "goal": self.goal,
            "next": self._next_as_json(),
            "broken": list(self.broken),
        }
        return json.dumps(facts, indent=2)

    def _next_as_json(self) -> dict[str, Any] | None:
        if self.advice is None:
            return None
        command = without_folders(self.advice.command)
        return {"missing": self.advice.missing, "command": command}

    def _part_as_json(self, module: str) -> dict[str, Any]:
        answer = self.answers.get(module)
        facts: dict[str, Any] = {"distributions": list(self.versions[module])}
        if answer is None:
            return facts
        facts |= {"loads": answer.loads, "runs on": answer.runs_on, "problem": answer.problem}
        facts["graphs"] = {
            target: {name: list(found) for name, found in results.items()}
            for target, results in answer.results.items()
        }
        return facts
