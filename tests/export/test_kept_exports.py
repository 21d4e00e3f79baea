"""Exports that tests share: made once, and never by other code than today's."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer.export.graph.options import ExportOptions
from tests.support import kept_exports
from tests.support.kept_exports import (
    EXPORTER,
    KEPT_VERSIONS,
    ROOT,
    KeptExports,
    hash_of_code,
    imported_files,
)

# The package's door is an empty one, so that what is loaded is what the export itself imports.
LOADED = """
import sys, types
sys.modules["alignseg_infer"] = door = types.ModuleType("alignseg_infer")
door.__path__, door.__version__ = [sys.argv[1]], "0"
import alignseg_infer.export.to_onnx
for name, module in sys.modules.items():
    if name.startswith("alignseg_infer."):
        print(module.__file__)
"""


def test_all_that_an_export_loads_is_hashed() -> None:
    command = [sys.executable, "-c", LOADED, str(ROOT / "alignseg_infer")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {Path(line) for line in done.stdout.splitlines()}
    assert EXPORTER in loaded
    assert len(loaded) > 10
    assert loaded <= imported_files(EXPORTER)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is exported by code which is two lines long."""
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "room" / "__init__.py").write_text("")
    (package / "room" / "far.py").write_text("1")
    (package / "near.py").write_text("def f():\n    from package.room import far\n")
    (package / "start.py").write_text("import package.near, os")
    monkeypatch.setattr(kept_exports, "ROOT", tmp_path)
    monkeypatch.setattr(kept_exports, "EXPORTER", package / "start.py")
    imported_files.cache_clear()
    path = tmp_path / "small.pth"
    path.write_text("weights")
    return path


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the file name of each export."""
    made: list[str] = []

    def export(checkpoint: Path, path: Path, options: Any) -> None:
        made.append(path.name)
        path.write_text(f"{checkpoint.read_text()} {options.size}")

    monkeypatch.setattr(kept_exports, "export", export)
    return made


def test_each_is_made_once(checkpoint: Path, exports: list[str], tmp_path: Path) -> None:
    copies = [tmp_path / f"{index}.onnx" for index in range(3)]
    for copy in copies[:2]:  # as two workers do, and two runs
        KeptExports(tmp_path / "kept", checkpoint).copy_to(copy, ExportOptions(size=(64, 96)))
        assert copy.read_text() == "weights (64, 96)"
        copy.write_text("a test has changed its own")
    KeptExports(tmp_path / "kept", checkpoint).copy_to(copies[2], ExportOptions())
    assert copies[2].read_text() == "weights None"
    assert len(exports) == len(set(exports)) == 2


@pytest.mark.parametrize("change", ["package/room/far.py", "package/room/__init__.py", "small.pth"])
def test_other_code_or_weights_make_others(
    change: str, checkpoint: Path, exports: list[str], tmp_path: Path
) -> None:
    for content in ("2", "3"):
        (tmp_path / change).write_text(content)
        KeptExports(tmp_path / "kept", checkpoint).copy_to(tmp_path / "a.onnx", ExportOptions())
    assert len(exports) == 2


def test_another_torch_makes_others(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_of_code(checkpoint)
    monkeypatch.setattr(kept_exports, "version", lambda package: f"{package} of tomorrow")
    assert hash_of_code(checkpoint) != before


def test_what_old_code_made_is_removed(
    checkpoint: Path, exports: list[str], tmp_path: Path
) -> None:
    seen = []
    for index in range(KEPT_VERSIONS + 1):
        checkpoint.write_text(str(index))
        kept = KeptExports(tmp_path / "kept", checkpoint)
        os.utime(kept.folder, (index, index))
        seen.append(kept.folder)
    assert [folder.exists() for folder in seen] == [False, *[True] * KEPT_VERSIONS]
