"""Images that fail, names that cannot be printed, and streams that are missing or closed."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from alignseg_infer.cli import main

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
