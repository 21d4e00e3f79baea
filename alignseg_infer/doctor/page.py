"""The report as a page of text, 80 columns wide."""

import textwrap
from collections import Counter
from collections.abc import Collection, Iterator

from alignseg_infer.doctor.asking import Answer
from alignseg_infer.doctor.catalogue import CASE_NAMES
from alignseg_infer.doctor.parts import PARTS
from alignseg_infer.doctor.report import Report
from alignseg_infer.doctor.runtimes import GOOD, Found
from alignseg_infer.doctor.sampler import Choice
from alignseg_infer.spec.model import Precision
from alignseg_infer.text import printable

WIDTH = 80
TITLE_WIDTH = 14


def page_of(report: Report) -> str:
    """Return the report as a page."""
    sections = [
        ("", [("alignseg-infer", report.version), *report.machine, ("Driver", _driver(report))]),
        ("Installed", list(_list_parts(report))),
        ("Clashes", list(_list_clashes(report))),
        ("Small graphs, compared with stored references", list(_list_results(report))),
        ("Reported problems of these versions", list(_list_known(report))),
        ("Which sampler to export", list(_list_samplers(report))),
        ("Result", list(_list_result(report))),
    ]
    texts = [
        "\n".join([title] * bool(title) + [_row(*row) for row in rows])
        for title, rows in sections
        if rows
    ]
    return "\n\n".join(texts)


def _row(title: str, text: str) -> str:
    """Return a title and a text in lines of at most `WIDTH` columns; commands are not broken."""
    start = f"  {printable(title):<{TITLE_WIDTH}} "
    if len(start) > TITLE_WIDTH + 3:
        start = f"  {printable(title)}: "
    hanging = " " * (TITLE_WIDTH + 3)
    lines = textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=start,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) or start.rstrip()


def _driver(report: Report) -> str:
    return report.driver.runs_on if report.driver.loads else "no NVIDIA driver"


def _list_parts(report: Report) -> Iterator[tuple[str, str]]:
    absent = []
    for part in PARTS:
        answer = report.answers.get(part.module)
        if answer is None:
            absent.append(part.title)
            continue
        versions = ", ".join(report.versions[part.module])
        yield part.title, f"{versions}; {_describe(answer)}"
    if absent:
        yield "not installed", ", ".join(absent)


def _describe(answer: Answer) -> str:
    if answer.loads:
        return f"loads: {answer.runs_on}" if answer.runs_on else "loads"
    fix = f"; try: {answer.fix}" if answer.fix else ""
    return f"DOES NOT LOAD: {answer.problem}{fix}"


def _list_clashes(report: Report) -> Iterator[tuple[str, str]]:
    for clash in report.clashes:
        yield "clash", clash.problem
        yield "  try", clash.fix
    if not report.clashes:
        yield "none", ""


def _list_results(report: Report) -> Iterator[tuple[str, str]]:
    for answer in report.answers.values():
        for target, results in answer.results.items():
            if results:
                yield target, _count(results)
            for name, found in results.items():
                if found.verdict not in GOOD:
                    unused = "" if CASE_NAMES[name].precisions else "; not exported by this package"
                    yield f"  {found.verdict}", f"{CASE_NAMES[name].what}: {found.detail}{unused}"


def _count(results: dict[str, Found]) -> str:
    counts = Counter(found.verdict for found in results.values())
    words = {"read": "read rightly and built, not run"}
    return ", ".join(
        f"{count} {words.get(verdict, verdict)}" for verdict, count in counts.most_common()
    )


def _list_known(report: Report) -> Iterator[tuple[str, str]]:
    for known, here in report.known:
        yield f"{known.target}", f"{known.what} ({known.thread}); {here}"


def _list_samplers(report: Report) -> Iterator[tuple[str, str]]:
    for target, row in report.samplers.items():
        yield target, "; ".join(_group(row))


def _group(row: dict[Precision, Choice]) -> list[str]:
    """Return one text for precisions that share a choice."""
    by_choice: dict[Choice, list[str]] = {}
    for precision, choice in row.items():
        by_choice.setdefault(choice, []).append(precision)
    return [f"{', '.join(names)}: {choice.reason}" for choice, names in by_choice.items()]


def _list_result(report: Report) -> Iterator[tuple[str, str]]:
    for problem in report.broken:
        yield "broken", problem
    if not report.broken:
        yield "well", "what is installed works" if report.goal is None else f"{report.goal} works"
    if report.advice is not None:
        yield _title(report, report.advice.missing), report.advice.command


def _title(report: Report, missing: Collection[str]) -> str:
    """Return what the advised command does; what is installed, but does not load, is mended."""
    if not missing:
        return "next"
    return "to mend" if any(name in report.answers for name in missing) else "to install"
