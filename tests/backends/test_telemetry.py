"""Nothing that this package loads writes about its user, or looks anybody up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alignseg_infer.backends.telemetry import ONNXRUNTIME_SWITCH, OPENVINO_CONSENT

PREDICT = """
import numpy as np
from alignseg_infer import Predictor
Predictor("demo", runtime={runtime!r})(np.zeros((64, 64, 3), np.uint8))
"""
IMPORTS = "import alignseg_infer.{module}"
PROGRAMS = {
    "onnxruntime": PREDICT.format(runtime="onnxruntime"),
    "openvino": PREDICT.format(runtime="openvino"),
    "calibration": IMPORTS.format(module="export.int8.calibration"),
    "quantize": IMPORTS.format(module="export.int8.quantize"),
}
IMPORT_OPENVINO = """
import sys
import alignseg_infer.backends.openvino_backend
print("openvino_telemetry" in sys.modules)
"""


def run(program: str, home: Path, *before: str, **variables: str) -> str:
    """Run a program in a child whose home, cache and temporary folders are `home`."""
    unwanted = ("CI", "XDG_CACHE_HOME", ONNXRUNTIME_SWITCH)  # the first switches telemetry off too
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"HOME": str(home), "TMPDIR": str(home), **variables}
    command = [*before, sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_nothing_is_written(program: str, tmp_path: Path) -> None:
    run(program, tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_nobody_is_looked_up(program: str, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace, which lists the network calls of a process, is not installed")
    home = tmp_path / "home"
    home.mkdir()
    calls = tmp_path / "calls"
    # The filter lets all other calls run at full speed; OpenVINO makes very many.
    run(
        program,
        home,
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-e",
        "trace=connect,sendto",
        "-o",
        str(calls),
    )
    seen = [line for line in calls.read_text(errors="replace").splitlines() if "AF_INET" in line]
    assert seen == []


def test_the_switch_of_the_user_stays(tmp_path: Path) -> None:
    program = f"import os, alignseg_infer; print(os.environ[{ONNXRUNTIME_SWITCH!r}])"
    assert run(program, tmp_path) == "1\n"
    assert run(program, tmp_path, **{ONNXRUNTIME_SWITCH: "0"}) == "0\n"


@pytest.mark.parametrize("answered", [False, True])
def test_openvino_follows_the_answer_of_the_user(answered: bool, tmp_path: Path) -> None:
    if answered:
        (tmp_path / OPENVINO_CONSENT).parent.mkdir()
        (tmp_path / OPENVINO_CONSENT).write_text("0")  # declined, so that this test sends nothing
    assert run(IMPORT_OPENVINO, tmp_path) == f"{answered}\n"


def test_others_can_still_import_what_was_hidden(tmp_path: Path) -> None:
    program = IMPORT_OPENVINO + "import openvino_telemetry; print(openvino_telemetry.__name__)"
    assert run(program, tmp_path).endswith("openvino_telemetry\n")
