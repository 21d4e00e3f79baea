"""A folder appears whole, or not at all."""

from pathlib import Path

import pytest

from alignseg_infer.deploy.folder import write_folder
from alignseg_infer.errors import OutputError


def test_writes_text_bytes_and_copies(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"\x00copy")
    made = write_folder(tmp_path / "a/b", {"text": "é\n", "inner/bytes": b"\xff", "copy": source})
    found = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert found == {"text", "inner/bytes", "copy"}
    assert (made / "text").read_text(encoding="utf-8") == "é\n"
    assert (made / "inner/bytes").read_bytes() == b"\xff"
    assert (made / "copy").read_bytes() == b"\x00copy"


def test_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert write_folder(tmp_path / "new", {"a": "1"}) == tmp_path / "new"
    assert (tmp_path / "new/a").read_text() == "1"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    kept = there if kind == "file" else there / "kept"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        write_folder(there, {"kept": "new"})
    assert kept.read_text() == "mine"


def test_nothing_is_left_of_what_fails(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_folder(tmp_path / "new", {"a": "1", "b": tmp_path / "missing"})
    assert list(tmp_path.iterdir()) == []
