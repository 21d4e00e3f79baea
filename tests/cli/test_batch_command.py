"""``alignseg batch``: what it prints, and its exit codes."""

import itertools
from pathlib import Path

import pytest

from alignseg_infer.cli import main
from alignseg_infer.cli.progress import images_bar
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


def test_progress_says_rate_rest_and_failures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = map(float, itertools.count())
    monkeypatch.setattr("alignseg_infer.cli.progress.time.monotonic", lambda: next(times))
    with images_bar() as progress:
        for done in range(1, 13):
            progress(done, 100, done // 2)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "5 of 100 images, 1.0 images/s, about 95 s left, 2 failed"
    assert second.startswith("10 of 100 images")


def test_a_terminal_shows_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with images_bar() as progress:
        for done in range(1, 13):
            progress(done, 12, done // 4)
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "images/s" in shown
    assert "3 failed" in shown


def test_shards_are_written_as_they_are_read(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--shard", "3/2"]) == 1
    assert "--shard 1/16" in capsys.readouterr().err
