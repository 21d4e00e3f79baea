"""Examples whose reader, such as head, has closed the pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.batches import write_images

ROOT = Path(__file__).parents[2]
COMMANDS = [
    ["batch.py", "photos", "out"],
    pytest.param(["quickstart.py"], marks=pytest.mark.slow),
    pytest.param(["video_demo.py", "--source", "photos/a"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_closed_pipe_is_no_traceback(words: list[str], tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 2)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / words[0]), *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_every_example_that_prints_is_prepared() -> None:
    paths = sorted((ROOT / "examples").glob("*.py"))
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    printing = {name for name, text in texts.items() if "print(" in text}
    assert printing >= {"batch.py", "quickstart.py", "train_demo.py", "video_demo.py"}
    assert {name for name, text in texts.items() if "except BrokenPipeError:" in text} == printing
