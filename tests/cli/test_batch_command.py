"""``alignseg batch``: what it prints, and its exit codes."""

from pathlib import Path

import pytest

from alignseg_infer.cli import main
from tests.support.batches import write_images


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    write_images(tmp_path / "photos", 5)
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    options = ["-o", str(tmp_path / "out"), "--formats", "labels"]
    return ["batch", "demo", str(tmp_path / "photos"), *options]


def test_summaries_and_exit_codes(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dry-run"]) == 0
    assert "6 images (6 missing)\n  nothing was segmented" in capsys.readouterr().out
    assert main(command) == 1
    said = capsys.readouterr()
    assert "5 segmented, 1 failed, in " in said.out
    assert "--retry-failed" in said.out
    assert "failed: bad.png: " in said.err
    assert main(command) == 0  # what failed is left
    assert "6 images (1 failed before, 5 up to date)" in capsys.readouterr().out
    assert main([*command, "--retry-failed"]) == 1
    assert main([*command, "--size", "64"]) == 1
    said = capsys.readouterr()
    assert "size=None (now 64)" in said.err.replace("--size None", "size=None")
    assert "--replace" in said.err
    assert main([*command, "--size", "64", "--replace", "--workers", "2"]) == 1
    assert "5 segmented, 1 failed" in capsys.readouterr().out


def test_shards_are_written_as_they_are_read(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--shard", "3/2"]) == 1
    assert "--shard 1/16" in capsys.readouterr().err
