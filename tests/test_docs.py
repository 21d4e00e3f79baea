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

from alignseg_infer.demo.streets import Street
from alignseg_infer.export.verification.parity import probe_image
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


def write_one_cityscapes_image(root: Path) -> None:
    """A street and its labelIds, of which sky is 23 and road 7."""
    image = root / "leftImg8bit" / "val" / "town" / "town_0_0_leftImg8bit.png"
    labels = root / "gtFine" / "val" / "town" / "town_0_0_gtFine_labelIds.png"
    scene = Street(0).scene(size=(64, 128))
    for path, pixels in ((image, scene.image), (labels, np.where(scene.labels == 10, 23, 7))):
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), pixels.astype(np.uint8))


def readme_commands() -> list[str]:
    """In an order in which each finds what it needs; the lines that install are left out.

    They are run by .ci/run and by hand. The shell example stands before the export that makes
    its model.
    """
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert sum(line.startswith("pip install") for line in lines) == 2
    lines = [line.removeprefix("pip install . && ") for line in lines]
    commands = [line for line in lines if not line.startswith("pip install")]
    return sorted(commands, key=lambda line: "alignseg.onnx" in line and "to_onnx" not in line)


def test_readme_commands_run(small_checkpoint: Path, tmp_path: Path) -> None:
    """In a folder with the files they name."""
    torch.save(load_checkpoint(small_checkpoint).state, tmp_path / "CS_scenes.pth")
    cv2.imwrite(str(tmp_path / "street.jpg"), probe_image((120, 200), 0))
    write_one_cityscapes_image(tmp_path / "DATA")
    for folder in ("export", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    commands = readme_commands()
    assert len(commands) == 18
    for command in commands:
        done = run(shlex.split(command), tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout
    assert (tmp_path / "out" / "street_overlay.jpg").exists()
    assert (tmp_path / "out" / "evaluation.md").exists()
    assert (tmp_path / "offsets.png").exists()
    assert (tmp_path / "sensitivity" / "sensitivity.png").exists()
    assert (tmp_path / "demo.engine.json").exists()
    assert (tmp_path / "bench" / "benchmark.json").exists()
    for name in ("drive.mp4", "out.mp4"):
        assert cv2.VideoCapture(str(tmp_path / name)).read()[0]

    (tmp_path / "out" / "street_overlay.jpg").unlink()
    printed = []
    for program in blocks("python"):
        done = run([sys.executable, "-c", program], tmp_path)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "Segmentation(120x200" in printed[0]
    assert (tmp_path / "out" / "street_overlay.jpg").exists()
    assert "road" in printed[1]
    assert (tmp_path / "out" / "drawn_polygons.json").exists()
    assert len(printed[2].splitlines()) == 10


def test_readme_and_ci_run_the_same_tests() -> None:
    (command,) = [
        line for block in blocks("bash") for line in block.splitlines() if "pytest" in line
    ]
    assert command in (ROOT / ".ci" / "run").read_text()


def test_readme_names_files_that_exist() -> None:
    for name in re.findall(r"`((?:tests|examples|export|docs|alignseg_infer)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name


def test_quickstart(tmp_path: Path) -> None:
    """On a street of its own."""
    done = run([sys.executable, str(ROOT / "examples/quickstart.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    (street,) = (tmp_path / "quickstart-output" / "images").iterdir()
    truth = cv2.imread(str(street.parents[1] / "labels" / street.name), -1)
    labels = cv2.imread(str(street.parents[1] / f"{street.stem}_labels.png"), -1)
    assert truth is not None
    assert labels is not None
    assert (truth == labels).mean() > 0.9


@pytest.mark.parametrize("name", ["nowhere.jpg", "."])
def test_quickstart_reports_a_bad_picture(tmp_path: Path, name: str) -> None:
    done = run([sys.executable, str(ROOT / "examples/quickstart.py"), name], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
