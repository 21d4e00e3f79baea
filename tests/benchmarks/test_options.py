"""The programs of this folder read only options that they define."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = [
    path
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if "parse_args" in path.read_text() and not path.name.startswith("test_")
]


def defined_in(tree: ast.AST) -> Iterator[str]:
    """Yield the names under which the options of a parser are read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name == "add_argument":
                option = ast.literal_eval(node.args[-1])  # the long one
                yield option.lstrip("-").replace("-", "_")
            elif name.startswith("add_"):  # add_destination of the commands
                yield name.removeprefix("add_")


def read_in(tree: ast.AST) -> Iterator[str]:
    """Yield the attributes of ``arguments`` that a program reads."""
    for node in ast.walk(tree):
        owner = node.value if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Attribute) and getattr(owner, "id", "") == "arguments":
            yield node.attr


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_read_options_that_they_define(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert set(read_in(tree)) <= set(defined_in(tree))


def test_unknown_options_are_found() -> None:
    tree = ast.parse("parser.add_argument('--max-frames')\nprint(arguments.frames)")
    assert set(read_in(tree)) - set(defined_in(tree)) == {"frames"}
    assert set(defined_in(tree)) == {"max_frames"}
