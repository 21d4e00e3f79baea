"""One set of words: what help and errors say is what commands and functions take."""

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import alignseg_infer
from alignseg_infer.cli import COMMANDS

PACKAGE = Path(alignseg_infer.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
COMMAND = re.compile(r"alignseg ([a-z]+(?:-[a-z]+)?)((?: (?!or |and )[^\s;,)]+)*)")
OTHER_PROGRAMS = (
    "nvidia-smi",
    "trtexec",
    "--backend-config=tensorrt",  # of tritonserver
    "pip install",
    "cmake",
    "ray start",
    "--gpu-architecture",
    "--query-gpu",
    "--format=csv",
    "--include-path",
    "--std=",
)
OLD_WORDS = {
    *("--protocol", "--alpha", "--limit", "--images-limit", "--sizes", "--output-file"),
    *("--verify-images", "--verify-images-limit", "--calibration-images", "--overlay", "--frames"),
    *("--sampling-convention", "--save", "--opt", "--min", "--max", "--compute-capability"),
}


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"alignseg {command}")
    COMMANDS[command].add_arguments(parser)
    parser.add_argument("--debug")
    return parser


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a command, and of the commands in it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from actions_of(inner)


def options_of(command: str) -> set[str]:
    return {name for action in actions_of(parser_of(command)) for name in action.option_strings}


def texts_in(path: Path) -> Iterator[str]:
    """The strings of a module, docstrings left out; what is filled in is ``{}``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    described = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in described | parts:
            yield from [node.value] if isinstance(node.value, str) else []


def library_texts() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "cli" not in path.relative_to(PACKAGE).parts:
            for text in texts_in(path):
                yield path, text


def test_the_library_does_not_speak_of_options() -> None:
    """But in whole commands."""
    commands, wrong = 0, []
    for path, text in library_texts():
        rest, count = COMMAND.subn("", text)
        commands += count
        if OPTION.search(rest) and not any(program in rest for program in OTHER_PROGRAMS):
            wrong.append(f"{path}: {text}")
    assert wrong == []
    assert commands > 20


def test_commands_that_the_library_advises_have_these_options() -> None:
    for path, text in library_texts():
        for command, typed in COMMAND.findall(text):
            if command in COMMANDS:
                assert set(OPTION.findall(typed)) <= options_of(command), f"{path}: {text}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_options_of_the_command(command: str) -> None:
    parser, module = parser_of(command), COMMANDS[command]
    texts = [module.HELP, module.EXAMPLE]
    texts += [action.help for action in actions_of(parser) if action.help]
    for text in texts:
        for other, typed in COMMAND.findall(text):
            assert set(OPTION.findall(typed)) <= options_of(other), text
        assert set(OPTION.findall(COMMAND.sub("", text))) <= options_of(command), text


@pytest.mark.parametrize("command", COMMANDS)
def test_errors_of_a_command_name_its_options(command: str) -> None:
    path = inspect.getsourcefile(COMMANDS[command])
    assert path is not None
    for text in texts_in(Path(path)):
        assert set(OPTION.findall(COMMAND.sub("", text))) <= options_of(command), text


def test_words_that_are_gone() -> None:
    for command in COMMANDS:
        assert not options_of(command) & OLD_WORDS, command


def test_words_mean_one_thing() -> None:
    for command in COMMANDS:
        for action in actions_of(parser_of(command)):
            text = action.help or ""
            if action.dest == "destination":
                assert action.option_strings == ["-o", "--destination"]
            if action.dest in ("size", "calibration_size"):
                assert "size of the network's input, HEIGHTxWIDTH" in text, command
            if action.dest == "runtime":
                engines = set() if command == "offsets" else {"tensorrt", "tensorrt-rtx"}
                tuned = set() if command == "verify" else {"tuned"}  # it says what to compare
                choices = {"onnxruntime", "openvino"} | tuned | engines
                assert set(action.choices or ()) == choices, command
            if action.dest == "output":
                assert set(action.choices or ()) == {"logits", "labels", "probabilities"}


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("export-onnx", alignseg_infer.export_onnx),
        ("export-trt", alignseg_infer.export_engine),
        ("verify", alignseg_infer.verify),
        ("tune", alignseg_infer.tune),
    ],
)
def test_options_and_parameters_have_the_same_names(command: str, function: object) -> None:
    names = set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    options = {action.dest for action in parser_of(command)._actions}
    if command == "tune":
        options.remove("destination")  # of the report, which the function returns
    assert names - {"progress"} == options - {"help", "debug"}


def test_options_of_videos_are_parameters_or_of_the_predictor() -> None:
    names = set(inspect.signature(alignseg_infer.segment_video).parameters) - {"progress"}
    names |= set(inspect.signature(alignseg_infer.Predictor).parameters)
    options = {action.dest for action in parser_of("video")._actions}
    assert options - {"help", "debug", "offsets", "show"} == names
