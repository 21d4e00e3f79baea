"""``--until``, by which `.ci/run` ends in time on a slow machine."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("left", "outcome"), [(600, "1 passed"), (-1, "1 skipped")])
def test_no_test_starts_later(left: int, outcome: str) -> None:
    test = "tests/test_rooms.py::test_every_room_has_a_floor"
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        [*command, f"--until={time.time() + left}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome in done.stdout
    assert ("too slow for all tests" in done.stdout) is (left < 0)
