"""The rooms of the package: which may import which.

Imports are read from the source, so those inside functions count too. A room imports from floors
below its own, and within a room modules do not import in a circle. `.github/CONTRIBUTING.md` and
docs/architecture.md show the same floors to people.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "alignseg_infer"
FLOORS = [
    ["backports", "version"],
    ["errors", "arrays", "progress", "text"],
    ["choices", "files", "packages"],
    ["spec"],
    ["ops", "pixels"],
    ["backend", "datasets", "demo", "drawing"],
    ["cuda", "models", "offsets", "results"],
    ["inference", "trt"],
    ["backends"],
    ["predictor"],
    ["batch", "benchmark", "evaluation", "video"],
    ["doctor", "page", "tuning"],
    ["export"],
    ["deploy"],
    ["api"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
LEVELS = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules() -> dict[str, Path]:
    """Paths of all modules by their names within the package, such as ``trt.runtime.runner``."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__" and len(parts) > 1
        found[".".join(parts[:-1] if is_package else parts)] = path
    return found


def imported(source: str) -> Iterator[str]:
    """Which modules of the package a source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package, _, inner = alias.name.partition(".")
                if package == PACKAGE:
                    yield inner or "__init__"
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            package, _, inner = (node.module or "").partition(".")
            if package == PACKAGE:
                names = [f"{inner}.{alias.name}".lstrip(".") for alias in node.names]
                yield from (name if name in modules() else inner or "__init__" for name in names)


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports of a room that is not on a floor below."""
    found = []
    for module, targets in graph.items():
        for target in sorted(targets):
            here, there = module.split(".")[0], target.split(".")[0]
            if here != there and LEVELS[there] >= LEVELS[here]:
                found.append(f"{module} imports {target}")
    return found


@cache
def graph() -> dict[str, set[str]]:
    """What each module imports."""
    return {
        name: set(imported(path.read_text(encoding="utf-8"))) - {name}
        for name, path in modules().items()
    }


def test_every_room_has_a_floor() -> None:
    assert {name.split(".")[0] for name in modules()} == set(LEVELS)


def test_imports_go_down() -> None:
    assert upward(graph()) == []


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError with the circle


def test_every_package_says_what_it_is_for() -> None:
    for name, path in modules().items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import alignseg_infer", {"__init__"}),
        ("def f():\n    from alignseg_infer.cuda import kernels", {"cuda.kernels"}),
        ("from alignseg_infer.cuda.kernels import Kernels", {"cuda.kernels"}),
        ("from alignseg_infer import Predictor, files", {"__init__", "files"}),
        ("import alignseg_infer.trt.log as log", {"trt.log"}),
        ("import numpy, cuda.bindings", set()),
    ],
)
def test_imports_are_read(source: str, expected: set[str]) -> None:
    assert set(imported(source)) == expected


def test_faults_are_found() -> None:
    assert upward({"spec.model": {"trt.log"}, "trt.log": {"spec.model"}}) == [
        "spec.model imports trt.log"
    ]
    assert upward({"cuda.base": {"models.norm"}}) == ["cuda.base imports models.norm"]
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
