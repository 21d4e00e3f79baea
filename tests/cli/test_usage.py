"""Wrong usage says what was meant; the name alone says what there is; shells complete."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from alignseg_infer import OptionError, Predictor
from alignseg_infer.backends import open_backend
from alignseg_infer.cli import COMMANDS, main, make_parser
from alignseg_infer.cli.usage import OTHER_NAMES, CommandParser
from alignseg_infer.datasets.class_tables import class_table
from alignseg_infer.demo import model_path
from alignseg_infer.errors import CheckpointError, ModelFileError
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.text import near_words


def options_of(name: str) -> set[str]:
    parser = CommandParser()
    COMMANDS[name].add_arguments(parser)
    return set(parser._option_string_actions)


def wrong_usage(typed: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that ``alignseg`` prints for a command line that makes no sense."""
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(typed))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


MEANT = [
    ("predcit", "predict"),
    ("evaluate", "eval"),
    ("export", "export-trt or export-onnx"),
    ("--verison", "--version"),
    ("predict demo a.jpg --output out", "-o/--destination"),
    ("predict demo a.jpg --out-dir=out", "-o/--destination"),
    ("predict demo a.jpg -o out --sizes 64", "--size"),
    ("predict demo a.jpg -o out --imgsz 64", "--size"),
    ("predict demo a.jpg -o out --runtime openvin", "openvino"),
    ("export-onnx demo --output a.onnx", "-o/--destination"),
    ("export-onnx demo -o a.onnx --output label", "labels"),
    ("eval demo --dataset cityscape --root data", "cityscapes"),
    ("video demo streets -o a.mp4 --alpha 1", "--opacity"),
]


@pytest.mark.parametrize(("typed", "meant"), MEANT, ids=[typed for typed, _ in MEANT])
def test_what_was_meant(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    usage, error, advice = wrong_usage(typed, capsys)
    first, *_ = typed.split()
    command = first if first in COMMANDS else ""
    assert usage.startswith(f"usage: alignseg {command}".rstrip())
    assert "--threads" not in usage
    assert f"did you mean {meant}?" in error
    assert advice == f"  try: {' '.join(['alignseg', command]).strip()} --help"


OTHERS = [
    ("predict demo", "the following arguments are required: images, -o/--destination"),
    ("predict demo a.jpg", "required: -o/--destination"),
    ("predict demo a.jpg -o out b.jpg", "'b.jpg' is one argument too many; write all images"),
    ("inspect demo more", "'more' is one argument too many"),
    ("export-onnx demo more -o a.onnx", "'more' is one argument too many"),
    ("zzz", "invalid choice: 'zzz' (choose from demo, predict, "),
    ("--debug predict", "no option --debug; options of a command follow its name"),
    ("predict demo a.jpg -o out --zzz", "there is no option --zzz"),
    ("predict demo a.jpg -o out -z", "there is no option -z"),
    ("predict demo a.jpg -o out --formats polygon", "try --formats polygons"),
]


@pytest.mark.parametrize(("typed", "message"), OTHERS, ids=[typed for typed, _ in OTHERS])
def test_what_is_wrong(typed: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, error, _ = wrong_usage(typed, capsys)
    assert message in error
    assert "did you mean" not in error


@pytest.mark.parametrize(
    "typed",
    [
        "export-onnx demo -o a.onnx --mean -1 -.5 -2.5 --std 1 1 1",
        "predict demo -oout --dest out --no-on-dev --size=64 -- --odd.jpg -x.jpg",
        "predict demo a.jpg -o out --overlap -1e-3",
    ],
)
def test_what_only_looks_unknown_is_left_to_argparse(typed: str) -> None:
    try:
        make_parser().parse_args(shlex.split(typed))
    except SystemExit:  # argparse takes -1e-3 for an option up to Python 3.13
        assert "-1e-3" in typed


def test_other_names_are_for_options_that_exist_and_are_no_misspellings() -> None:
    options = {option for name in COMMANDS for option in options_of(name)}
    assert set(OTHER_NAMES.values()) <= options
    assert not [name for name, ours in OTHER_NAMES.items() if ours in near_words(name, options)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b c.png"):
        cv2.imwrite(name, np.zeros((40, 64, 3), np.uint8))
    shutil.copy(model_path("demo"), "m.onnx")
    return tmp_path


SWAPPED = [
    ("predict a.png demo -o out", "predict demo a.png -o out"),
    ("predict a.png 'b c.png' demo -o out", "predict demo a.png 'b c.png' -o out"),
    (
        "predict -o demo --scales 1 1.5 -- a.png demo",
        "predict -o demo --scales 1 1.5 -- demo a.png",
    ),
    ("predict ./a.png ./m.onnx -o out", "predict ./m.onnx ./a.png -o out"),
    ("offsets a.png demo -o o.png", "offsets demo a.png -o o.png"),
    (
        "video streets demo -o out.mp4 --max-frames 1 --size 64x64",
        "video demo streets -o out.mp4 --max-frames 1 --size 64x64",
    ),
]


@pytest.mark.parametrize(("typed", "right"), SWAPPED, ids=[right for _, right in SWAPPED])
def test_swapped_model_and_source(
    typed: str, right: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, error, advice = wrong_usage(typed, capsys)
    assert re.search(
        r"stands where the model belongs, and the model (demo|m\.onnx) after it", error
    )
    assert advice == f"  try: alignseg {right}"
    assert main(shlex.split(right)) == 0


@pytest.mark.parametrize(
    "typed",
    [
        "predict demo demo -o out",
        "predict a.png b.png -o out",
        "verify a.png --against demo --images demo",
    ],
)
def test_order_is_not_guessed_without_a_reason(
    typed: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(typed)) == 1
    assert "belongs" not in capsys.readouterr().err


def test_misspelt_demo() -> None:
    with pytest.raises(ModelFileError, match="did you mean demo"):
        Predictor("dmeo")
    with pytest.raises(CheckpointError, match="did you mean demo"):
        load_checkpoint("Demo")
    with pytest.raises(ModelFileError, match="check the path") as caught:
        open_backend("street.onnx")
    assert "did you mean" not in str(caught.value)


def test_misspelt_names_in_python() -> None:
    with pytest.raises(OptionError, match="classes='ade20k'"):
        class_table("ADE20")
    with pytest.raises(OptionError, match="mode='slide'"):
        Predictor("demo", mode="slid")
    result = Predictor("demo")(np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(OptionError, match=r"formats=\['polygons'\]"):
        result.save("x", formats=["polygon"])
    with pytest.raises(OptionError, match="did you mean 'car'"):
        result.mask("Cra")


@pytest.mark.parametrize(
    "program", [["-m", "alignseg_infer"], ["-c", "from alignseg_infer.cli import main; main()"]]
)
def test_the_name_alone_prints_the_commands(program: list[str]) -> None:
    done = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: alignseg ")
    assert all(re.search(rf"\n    {name}\s", done.stdout) for name in COMMANDS)
    assert done.stderr == ""


COMPLETED = [
    ("pre", {"predict "}),
    ("predict --ru", {"--runtime "}),
    ("predict demo --runtime ", {"onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "tuned"}),
    ("predict demo a", {"a.png "}),
    ("export-onnx demo --precision ", {"fp32", "fp16", "int8"}),
]


@pytest.mark.parametrize(("line", "expected"), COMPLETED, ids=[line for line, _ in COMPLETED])
def test_bash_completes(line: str, expected: set[str], folder: Path) -> None:
    """As the README says how to switch it on."""
    pytest.importorskip("argcomplete", reason="needs pip install argcomplete")
    program = folder / "bin" / "alignseg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m alignseg_infer "$@"\n')
    program.chmod(0o755)
    register = f"{sys.executable} -m argcomplete.scripts.register_python_argcomplete alignseg"
    script = f"""
    eval "$({register})"
    COMP_LINE="alignseg {line}"
    COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9 COMP_WORDBREAKS=' :='
    _python_argcomplete alignseg
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.splitlines()) == expected


def test_completion_without_argcomplete_says_nothing() -> None:
    environment = {**os.environ, "_ARGCOMPLETE": "1"}
    code = "import sys; sys.modules['argcomplete'] = None; "
    code += "from alignseg_infer.cli import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
