"""``alignseg --version``: the version; with ``--verbose``, what a bug report should contain."""

from collections.abc import Iterator

from alignseg_infer.doctor.machine import list_machine_facts
from alignseg_infer.doctor.parts import PARTS, installed_distributions, list_versions, load_part
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.version import __version__


def version_text(*, verbose: bool) -> str:
    """Return one line; if `verbose`, one more for each runtime and each part of the machine."""
    line = f"alignseg-infer {__version__}"
    if not verbose:
        return line
    return "\n".join([line, *(f"{title}: {fact}" for title, fact in _list_facts())])


def _list_facts() -> Iterator[tuple[str, str]]:
    python, system, *machine = list_machine_facts()
    yield from (python, system)
    found = list_versions(installed_distributions())
    for part in PARTS:
        versions = found[part.module]
        providers = [_list_providers()] if versions and part.module == "onnxruntime" else []
        yield part.title, ", ".join([*versions, *providers]) or "not installed"
    yield from machine


def _list_providers() -> str:
    """Return the providers of ONNX Runtime, or why they are unknown."""
    try:
        return f"providers {load_part('onnxruntime').runs_on}"
    except MissingDependencyError as error:  # removing one of two distributions breaks the other
        return f"providers unknown: {error.problem}; try: {error.fix}"
