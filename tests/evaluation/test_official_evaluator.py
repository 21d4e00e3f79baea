"""The files and scores of the commands, against the evaluator of cityscapesScripts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignseg_infer.cli import main
from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.datasets.labelled import cityscapes_ids
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets.street import Street
from alignseg_infer.pixels.images import write_image
from tests.support.fetching import fetched

IGNORED_IDS = (0, 3, 4, 6, 10, 15)  # licence plates, parking and such, which are not scored
# The first brings the module `typing` of Python 2 when it is installed with what it asks for.
PACKAGES = ("cityscapesscripts==2.2.4", "pyquaternion==0.9.9")
EVALUATE = """
import json
import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official

official.args.evalInstLevelScore = False  # there are no files of instances
official.args.quiet = True
official.main()
"""


def write_town(root: Path, streets: int) -> list[Path]:
    """Write drawn streets as a validation split, with columns of ids that are not scored."""
    images = []
    for place in range(streets):
        scene = Street(FIRST_HELD_OUT + place).scene(size=(128, 256))
        ids = cityscapes_ids(scene.labels, CITYSCAPES)
        for column, label_id in enumerate(IGNORED_IDS):
            ids[:, 40 * column : 40 * column + 5] = label_id
        town = ("ulm", "bonn")[place % 2]
        stem = f"val/{town}/{town}_{place:06}_000019"
        images.append(root / f"leftImg8bit/{stem}_leftImg8bit.png")
        truth = root / f"gtFine/{stem}_gtFine_labelIds.png"
        for path, pixels in ((images[-1], scene.image), (truth, ids)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, pixels)
    return images


def official_scores(root: Path, predictions: Path, packages: Path) -> dict[str, Any]:
    folders = {
        "CITYSCAPES_DATASET": root,
        "CITYSCAPES_RESULTS": predictions,
        "PYTHONPATH": packages,
    }
    environment = {**os.environ, **{name: str(path) for name, path in folders.items()}}
    command = [sys.executable, "-c", EVALUATE]
    subprocess.run(command, env=environment, check=True, timeout=120, capture_output=True)
    report = root / "evaluationResults/resultPixelLevelSemanticLabeling.json"
    scores: dict[str, Any] = json.loads(report.read_text())
    return scores


def test_the_official_evaluator_gives_our_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_town(tmp_path / "data", streets=3)
    written = ["-o", str(tmp_path / "out"), "--formats", "label-ids"]
    assert main(["predict", "demo", *map(str, images), *written]) == 0
    packages = fetched(tmp_path / "packages", *PACKAGES)
    theirs = official_scores(tmp_path / "data", tmp_path / "out", packages)

    command = ["eval", "demo", "--dataset", "cityscapes", "--root", str(tmp_path / "data")]
    assert main([*command, "-o", str(tmp_path / "scores")]) == 0
    report = json.loads((tmp_path / "scores/evaluation.json").read_text())
    (ours,) = report["models"]
    assert 0.3 < ours["mean_iou"] < 1
    assert ours["mean_iou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-12)
    for name, scores in ours["classes"].items():
        score, expected = scores["iou"], theirs["classScores"][name]
        assert (score is None and np.isnan(expected)) or score == pytest.approx(expected, abs=1e-12)
