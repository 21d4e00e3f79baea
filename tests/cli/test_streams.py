"""Images that fail, names that cannot be printed, and streams that are missing or closed."""

import ast
import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from alignseg_infer import cli
from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets.folder import write_streets

LONG = "x" * 244 + ".png"  # a valid name, but not with _labels in it
MAIN = "import sys; from alignseg_infer.cli import main; sys.exit(main())"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_images(*names: str) -> list[str]:
    for name in names:
        done, data = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))
        assert done
        Path(name).write_bytes(data.tobytes())
    return list(names)


def run(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``alignseg`` by a shell, in which ``$ALIGNSEG`` is the command."""
    program = f"{sys.executable} -c '{MAIN}'"
    environment = {**os.environ, **variables}
    return subprocess.run(
        command.replace("$ALIGNSEG", program),
        shell=True,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def test_results_that_cannot_be_written_do_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(LONG, "z.png")
    (folder / "small.png").write_bytes(b"no image")
    assert main(["predict", "demo", *images, "small.png", "-o", "out"]) == 1
    assert (folder / "out" / "z_labels.png").exists()
    errors = capsys.readouterr().err
    assert "File name too long" in errors
    assert "small.png cannot be decoded" in errors
    assert "2 of 3 images failed" in errors


def test_one_image_that_fails_is_the_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "demo", *write_images(LONG), "-o", str(folder / "out")]) == 1
    assert "images failed" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_cannot_be_printed(encoding: str, folder: Path) -> None:
    images = write_images("straße-東京.png", "z.png")
    done = run(f"$ALIGNSEG predict demo {' '.join(images)} -o out", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "out").iterdir())) == 6
    assert "z.png: " in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_missing(closed: str, folder: Path) -> None:
    done = run(f"$ALIGNSEG predict demo {' '.join(write_images('a.png'))} -o out {closed}")
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "out").iterdir())) == 3
    assert run(f"$ALIGNSEG predict demo nothing.png -o out {closed}").returncode == 1
    assert run(f"$ALIGNSEG --help {closed}").returncode == 0


def test_a_closed_pipe_does_not_stop_the_work(folder: Path) -> None:
    images = write_images(*(f"{number}.png" for number in range(4)))
    command = f"($ALIGNSEG predict demo {' '.join(images)} -o out; echo code $? >&2) | true"
    done = run(command)
    assert len(list((folder / "out").iterdir())) == 12
    assert done.stderr.splitlines()[-1] == "code 1"
    assert "Traceback" not in done.stderr


ODD = "a\x1b]0;pwned\x07\nerror: forged\r\x9b1m"  # a file may be called so


@pytest.mark.parametrize(
    "typed",
    [
        ["predict", "demo", f"{ODD}.png", "-o", f"out{ODD}"],
        ["predict", "demo", f"{ODD}.png", f"{ODD}.gone.png", "-o", "out"],
        ["predict", f"{ODD}.onnx", f"{ODD}.png", "-o", "out"],
        ["predict", f"{ODD}.png", "demo", "-o", "out"],
        ["predict", "demo", "a.png", "-o", "out", f"--{ODD}", ODD],
        ["predict", "demo", f"{ODD}.png", "-o", "out", "--device", ODD],
        [f"--{ODD}"],
        [ODD],
        ["offsets", f"{ODD}.pth", f"{ODD}.png", "-o", f"{ODD}.png2"],
        ["inspect", f"{ODD}.onnx"],
        ["inspect", f"{ODD}/none.onnx"],
        ["eval", f"{ODD}.onnx", "--dataset", "folder", "--root", f"streets{ODD}", "-o", f"o{ODD}"],
        ["bench", f"{ODD}.onnx", f"{ODD}@openvino", "--images", f"{ODD}.png"],
        ["bench", f"{ODD}.onnx", "--images", f"streets{ODD}", "--rounds", "5", "--size", "64x64"],
        ["video", "demo", f"{ODD}.mp4", "-o", "out.mp4"],
        ["video", "demo", "streets", "-o", f"{ODD}.mp4", "--max-frames", "1", "--size", "64x64"],
    ],
    ids=lambda typed: " ".join(typed).replace(ODD, "ODD"),
)
def test_names_are_shown_and_not_obeyed(
    typed: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_images(f"{ODD}.png")
    list(write_streets(folder / f"streets{ODD}", 1, 1, (64, 64)))
    shutil.copy(model_path("demo"), f"{ODD}.onnx")
    with contextlib.suppress(SystemExit):
        main(typed)
    captured = capfd.readouterr()
    said = captured.out + captured.err
    reports = [path.read_text() for path in folder.glob("o*/*.md")]
    for text in (said, *reports):
        assert re.findall(r"[^\n\x20-\x7e\u00a0-\U0010ffff]", text) == []
        assert re.findall("^error: forged", text, re.MULTILINE) == []
    assert r"a\x1b]0;pwned" in said or any(r"\x1b]0;pwned" in report for report in reports)


def test_nothing_else_prints() -> None:
    """What commands print goes through functions that escape names."""
    for path in Path(cli.__file__).parent.rglob("*.py"):
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        printing = [call for call in calls if getattr(call.func, "id", "") == "print"]
        assert not printing or path.name == "streams.py", path


BAR = r"""
from alignseg_infer.cli.progress import phase_bars, progress_bar
from alignseg_infer.trt.builder.progress import Phase
with progress_bar("\x1b]0;pwned\x07 [red]images[/red]") as progress:
    progress(1, 2)
with phase_bars() as show:
    show(Phase("\x1b]0;pwned\x07[link=x]", 1, 0, 2))
"""


def test_bars_show_names(folder: Path) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", BAR]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run(command, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert r"\x1b]0;pwned\x07 [red]images[/red]" in seen
    assert r"\x1b]0;pwned\x07[link=x]" in seen
    assert "\x1b]0;" not in seen


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
@pytest.mark.parametrize("command", ["inspect demo", "cache list", "inspect --help"])
def test_standard_output_on_a_full_disk(command: str, folder: Path) -> None:
    done = run(f"$ALIGNSEG {command} > /dev/full")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "--help" not in command:  # argparse ignores that it cannot print
        assert done.returncode == 1
        assert "standard output cannot be written: No space left on device" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_a_log_on_a_full_disk_does_not_end_the_work(folder: Path) -> None:
    done = run(f"$ALIGNSEG offsets demo {write_images('a.png')[0]} -o out.png 2> /dev/full")
    assert done.returncode == 0
    assert (folder / "out.png").exists()
