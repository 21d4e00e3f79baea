"""What the forge and pre-commit read: it parses, and the commands it names exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignseg_infer.cli import COMMANDS, main
from tests.support.project import PROJECT, PYPROJECT
from tests.test_rooms import FLOORS

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
CONTRIBUTING = GITHUB / "CONTRIBUTING.md"
FORMS = [GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug", "idea")]


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


JOBS = {
    "check": ("github.event_name != 'workflow_dispatch'", "bash .ci/run"),
    "newest": ("github.event_name == 'workflow_dispatch'", "bash .ci/run newest"),
}


def test_workflow_runs_on_each_push_and_pull_request_and_by_hand() -> None:
    workflow = loaded(GITHUB / "workflows" / "ci.yml")
    assert set(workflow[True]) == {"push", "pull_request", "workflow_dispatch"}  # YAML 1.1: on
    assert workflow["jobs"].keys() == JOBS.keys()


@pytest.mark.parametrize("name", JOBS)
def test_jobs_call_the_script(name: str) -> None:
    job = loaded(GITHUB / "workflows" / "ci.yml")["jobs"][name]
    condition, command = JOBS[name]
    assert job["if"] == condition
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["sudo apt-get install --yes strace", command]
    (python,) = (step["with"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    *others, default = python["python-version"].split()  # a text: as a number, 3.10 would be 3.1
    assert default == "3.11"
    assert others == (["3.10", "3.12", "3.13"] if name == "check" else [])


def test_what_the_fast_part_leaves_out_exists() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    left_out = script.partition("left_out=(")[2].partition(")")[0].split()
    assert left_out
    assert all((ROOT / path).exists() for path in left_out)


def test_the_newest_releases_are_tested_without_pins() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    newest = script.partition("newest ]")[2].partition("\nfi\n")[0]
    assert "pip install torch -e '.[test]'" in newest
    assert "-m ''" in newest  # the slow ones too


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_form(path: Path) -> None:
    """Has the keys that a form must have, and each of its fields is one of its own."""
    form = loaded(path)
    assert {"name", "description", "body"} <= form.keys()
    assert all(field["type"] == "textarea" for field in form["body"])
    assert all(field["attributes"]["label"] for field in form["body"])
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names)
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_bug_form_asks_for_versions_and_the_model() -> None:
    text = FORMS[0].read_text(encoding="utf-8")
    assert "`alignseg doctor --json`" in text
    assert "`alignseg --version --verbose`" in text
    assert "`alignseg inspect MODEL`" in text


@pytest.mark.parametrize("path", [*FORMS, CONTRIBUTING], ids=lambda path: path.stem)
def test_commands_that_are_named_exist(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in re.findall(r"`alignseg ([^`]+)`", path.read_text(encoding="utf-8")):
        first, *rest = shlex.split(command)
        assert first in COMMANDS or first.startswith("--"), command
        try:
            code: object = main([first, *(["--help"] if first in COMMANDS else rest)])
        except SystemExit as stop:
            code = stop.code
        assert code == 0, command
    capsys.readouterr()


def test_hooks_are_tools_of_the_extra_for_tests() -> None:
    (repository,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    tools = {re.split("[>=]", one)[0] for one in PROJECT["optional-dependencies"]["fast-test"]}
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].split()[0] in tools
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff", "ruff-format", "mypy"]


def test_types_are_checked_with_the_oldest_python_that_installs() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"mypy --python-version {oldest} " in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    known = {f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)}
    assert known <= set(PROJECT["classifiers"])


def test_contributing_installs_what_the_script_installs() -> None:
    (install,) = re.findall(r"^pip install .*$", CONTRIBUTING.read_text(), re.MULTILINE)
    assert install in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_contributing_shows_the_floors_that_are_tested() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", CONTRIBUTING.read_text("utf-8"), re.MULTILINE)
    shown = {int(floor): set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows}
    assert shown == {floor: set(rooms) for floor, rooms in enumerate(FLOORS, 1)}
