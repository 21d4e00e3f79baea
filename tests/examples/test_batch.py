"""The example of a batch, run as its first lines say."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.batches import files_in, results_of, write_images

ROOT = Path(__file__).parents[2]


def run_example(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples/batch.py"), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_batch_its_shares_and_its_second_run(tmp_path: Path) -> None:
    names = write_images(tmp_path / "photos", 4)
    (tmp_path / "photos" / "a" / "bad.png").write_text("no image")
    done = run_example(tmp_path, "photos", "out", "--workers", "2")
    assert done.returncode == 1, done.stderr
    assert "4 segmented, 1 failed, 0 left as they are" in done.stdout
    assert "a/bad.png: " in done.stdout
    assert "road" in done.stdout
    assert "5 of 5, 1 failed" in done.stderr
    assert files_in(tmp_path / "out") == results_of(names, "_labels.png")
    again = run_example(tmp_path, "photos", "out")
    assert again.returncode == 0, again.stderr
    assert "0 segmented, 0 failed, 4 left as they are" in again.stdout


def test_a_batch_without_images_is_our_error(tmp_path: Path) -> None:
    done = run_example(tmp_path, "nowhere", "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
