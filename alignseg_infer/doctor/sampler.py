"""Which sampler to export for a runtime: the first one whose graphs are right in it."""

from collections.abc import Mapping
from dataclasses import dataclass

from alignseg_infer.doctor.asking import ask
from alignseg_infer.doctor.catalogue import CASES
from alignseg_infer.doctor.known import known_of, state_of
from alignseg_infer.doctor.parts import PARTS, installed_distributions, list_versions
from alignseg_infer.doctor.runtimes import GOOD, Found, Target
from alignseg_infer.errors import ExportError
from alignseg_infer.spec.model import Precision, Sampler

ORDER = (Sampler.NATIVE, Sampler.GATHER)  # plugin needs a library, so nobody gets it unasked


@dataclass(frozen=True)
class Choice:
    """A sampler, and why it was chosen; no sampler if none is right."""

    sampler: Sampler | None
    reason: str


def choose_sampler(
    target: Target, version: str, precision: Precision, results: Mapping[str, Found]
) -> Choice:
    """Return the first sampler that nothing speaks against.

    Args:
        target: The runtime.
        version: Its version; empty if it is not installed.
        precision: Precision of the graph.
        results: What came of the catalogue in it; empty if it cannot run here.
    """
    against: list[str] = []
    for sampler in ORDER:
        reason = _reason_against(sampler, target, version, precision, results)
        if reason is None:
            return Choice(
                sampler,
                "; ".join([*against, _reason_for(sampler, target, version, precision, results)]),
            )
        against.append(f"not {sampler}: {reason}")
    return Choice(None, "; ".join(against))


def _cases_of(sampler: Sampler, precision: Precision) -> list[str]:
    """Return the names of the graphs that show whether a sampler is right."""
    return [case.name for case in CASES if case.sampler is sampler and precision in case.precisions]


def _reason_against(
    sampler: Sampler,
    target: Target,
    version: str,
    precision: Precision,
    results: Mapping[str, Found],
) -> str | None:
    cases = _cases_of(sampler, precision)
    for name in cases:
        if name in results and results[name].verdict not in GOOD:
            return f"{name} is {results[name].verdict} in {target} {version}"
    for known in known_of(target, version):
        concerns = known.avoid is sampler and precision in known.precisions
        if concerns and state_of(known, results) != "not seen here":
            return f"{known.thread} reports that {known.what}, and it {state_of(known, results)}"
    unknown = [name for name in cases if name not in results] if results else []
    if unknown:  # it hung before, or ended the process so often that it was not asked again
        return f"{', '.join(unknown)} could not be run in {target} {version}"
    return None


def _reason_for(
    sampler: Sampler,
    target: Target,
    version: str,
    precision: Precision,
    results: Mapping[str, Found],
) -> str:
    if not results:
        where = f"{target} {version}".strip()
        return f"{sampler}, since {where} cannot be asked here and nothing is known against it"
    verdicts = {results[name].verdict for name in _cases_of(sampler, precision)}
    did = "is right" if verdicts == {GOOD[0]} else "is read rightly, but not run,"
    return f"{sampler}, which {did} in {target} {version}"


def sampler_for(target: Target, precision: Precision) -> tuple[Sampler, str]:
    """Ask the runtime on this machine; return the sampler, and why it was chosen.

    Raises:
        ExportError: No sampler is right in it.
    """
    part = next(one for one in PARTS if target in one.targets)
    found = list_versions(installed_distributions())[part.module]
    answer = ask(part) if found else None
    version = found[0].partition(" ")[2] if found else ""
    results = answer.results.get(target, {}) if answer else {}
    choice = choose_sampler(target, version, precision, results)
    if choice.sampler is None:
        raise ExportError(
            f"sampler='auto' finds none that is right: {choice.reason}",
            f"a version of {target} that computes one of them rightly",
            "alignseg doctor; then install another version, or name the sampler: sampler='native'",
        )
    return choice.sampler, choice.reason
