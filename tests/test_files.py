"""Checks before reading, and writes that are complete or do not happen."""

import contextlib
import errno
import hashlib
import os
from pathlib import Path

import pytest

from alignseg_infer.errors import ImageError, OutputError
from alignseg_infer.files import (
    HASH_BLOCK,
    require_file,
    require_writable_folder,
    sha256_of,
    temporary_folder,
    write_atomically,
)
from tests.support.processes import needs_fork, run_program


def write_half(path: Path, error: BaseException) -> None:
    """Start writing two files, then fail."""
    with write_atomically(path) as temporary:
        temporary.write_text("half")
        temporary.with_name("second").write_text("half")
        raise error


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [0, 3, HASH_BLOCK, HASH_BLOCK + 1, 2 * HASH_BLOCK + 5])
def test_sha256(size: int, tmp_path: Path) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "data"
    path.write_bytes(data[:size])
    assert sha256_of(path) == hashlib.sha256(data[:size]).hexdigest()


def test_sha256_by_hand(tmp_path: Path) -> None:
    """The example "abc" of FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_required_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    require_file(path, "a file", ImageError)
    (tmp_path / "empty").touch()
    for bad in (tmp_path, tmp_path / "empty", tmp_path / "missing", path / "below"):
        with pytest.raises(ImageError):
            require_file(bad, "a file", ImageError)


@pytest.mark.parametrize("name", ["new.bin", "deep/er/new.bin"])
def test_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names_in(path.parent) == [path.name]


def test_existing_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("a longer old text")
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "a longer old text"
    assert path.read_text() == "new"


def test_second_file_comes_along(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    (tmp_path / "model.onnx.data").write_text("old weights")
    with write_atomically(path) as temporary:
        temporary.with_name("model.onnx.data").write_text("weights")
        temporary.write_text("graph")
    assert names_in(tmp_path) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").read_text() == "weights"
    assert path.read_text() == "graph"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_error_leaves_everything_as_it_was(
    error: type[BaseException], before: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if before:
        path.write_text(before)
    with pytest.raises(error):
        write_half(path, error())
    assert names_in(tmp_path) == (["file"] if before else [])
    assert not before or path.read_text() == before


def test_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_half(tmp_path / "file", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert names_in(tmp_path) == []


def test_directory_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(OutputError), write_atomically(tmp_path):
        pytest.fail("the block must not run")


def test_target_below_a_file(tmp_path: Path) -> None:
    """Nobody can create this folder, not even root."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError), write_atomically(tmp_path / "file" / "below" / "new"):
        pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("length", [240, 255])
def test_long_name(length: int, tmp_path: Path) -> None:
    """Linux file systems accept names of 255 bytes."""
    path = tmp_path / ("n" * length)
    with write_atomically(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_too_long_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError), write_atomically(tmp_path / ("n" * 256)):
        pytest.fail("the block must not run")


def test_writable_folder(tmp_path: Path) -> None:
    require_writable_folder(tmp_path / "a" / "b")
    assert names_in(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError):
            require_writable_folder(bad)


def test_second_file_arrives_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that finds the model must also find its weights."""
    moved: list[str] = []
    replace = os.replace

    def recording(source: Path, target: Path) -> None:
        moved.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", recording)
    with write_atomically(tmp_path / "model.onnx") as temporary:
        temporary.write_text("graph")
        (temporary.parent / "model.onnx.data").write_text("weights")
        (temporary.parent / "a.data").write_text("more")
    assert moved[-1] == "model.onnx"
    assert sorted(moved) == ["a.data", "model.onnx", "model.onnx.data"]


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with write_atomically(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_temporary_folder_is_removed(error: type[BaseException] | None, tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), temporary_folder(tmp_path, "work-") as folder:
        (folder / "deep").mkdir()
        assert folder.parent == tmp_path
        assert folder.name.startswith("work-")
        if error:
            raise error
    assert names_in(tmp_path) == []


def test_a_temporary_folder_is_removed_when_python_ends(tmp_path: Path) -> None:
    """A thread that still writes does not get to the end of its block."""
    program = """
import pathlib, sys
from alignseg_infer.files import temporary_folder
open_block = temporary_folder(pathlib.Path(sys.argv[1]))
open_block.__enter__()
"""
    (tmp_path / "folders").mkdir()
    run_program(program, tmp_path, tmp_path / "folders")
    assert names_in(tmp_path / "folders") == []


@needs_fork
def test_a_forked_process_leaves_what_is_being_written(tmp_path: Path) -> None:
    program = """
import os, pathlib, sys
from alignseg_infer.files import write_atomically
with write_atomically(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("whole")
    child = os.fork()
    if not child:
        sys.exit()  # leaves the block, and runs what is to run when Python ends
    os.waitpid(child, 0)
"""
    run_program(program, tmp_path, tmp_path / "new" / "file")
    assert names_in(tmp_path / "new") == ["file"]
    assert (tmp_path / "new" / "file").read_text() == "whole"
