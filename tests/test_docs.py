"""What the README and the examples say is run here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from alignseg_infer.export.verify import probe_image
from alignseg_infer.models.checkpoint import load_checkpoint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_readme_commands_run_in_order(small_checkpoint: Path, tmp_path: Path) -> None:
    """In a folder with the files they name; the two that install are run by .ci/run and by hand."""
    torch.save(load_checkpoint(small_checkpoint).state, tmp_path / "CS_scenes.pth")
    cv2.imwrite(str(tmp_path / "street.jpg"), probe_image((120, 200), 0))
    (tmp_path / "export").symlink_to(ROOT / "export")
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line for line in lines if not line.startswith("pip install")]
    # The shell example stands before the export that makes its model.
    commands.sort(key=lambda line: "predict" in line)
    assert len(lines) - len(commands) == 2
    assert len(commands) == 4
    for command in commands:
        done = run(shlex.split(command), tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout
    assert (tmp_path / "out" / "street_overlay.jpg").exists()

    (tmp_path / "out" / "street_overlay.jpg").unlink()
    (program,) = blocks("python")
    done = run([sys.executable, "-c", program], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Segmentation(120x200" in done.stdout
    assert (tmp_path / "out" / "street_overlay.jpg").exists()


def test_readme_and_ci_run_the_same_tests() -> None:
    (command,) = [
        line for block in blocks("bash") for line in block.splitlines() if "pytest" in line
    ]
    assert command in (ROOT / ".ci" / "run").read_text()


def test_readme_names_files_that_exist() -> None:
    for name in re.findall(r"`((?:tests|examples|export|docs|alignseg_infer)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name


def test_quickstart(tmp_path: Path) -> None:
    """On its own picture, which pip fetches."""
    done = run([sys.executable, str(ROOT / "examples/quickstart.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not trained" in done.stdout
    out = tmp_path / "quickstart-output"
    picture = cv2.imread(str(out / "street.png"))
    overlay = cv2.imread(str(out / "street_overlay.jpg"))
    labels = cv2.imread(str(out / "street_labels.png"), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert overlay is not None
    assert picture.shape == overlay.shape == (272, 640, 3)
    assert len(np.unique(np.asarray(labels))) > 5


@pytest.mark.parametrize("name", ["nowhere.jpg", "."])
def test_quickstart_reports_a_bad_picture(tmp_path: Path, name: str) -> None:
    done = run([sys.executable, str(ROOT / "examples/quickstart.py"), name], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
