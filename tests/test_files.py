"""Checks before reading, and writes that are complete or do not happen."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from alignseg_infer.errors import DatasetError, ImageError, OutputError
from alignseg_infer.files.reading import (
    HASH_BLOCK,
    find_files,
    read_text,
    require_file,
    require_readable,
    sha256_of,
)
from alignseg_infer.files.writing import (
    SYSTEM_TEMPORARY,
    require_no_pipe,
    require_writable_folder,
    temporary_folder,
    write_atomically,
)
from tests.support.processes import needs_fork, run_program
from tests.support.waiting import PATIENCE


def write_half(path: Path, error: BaseException) -> None:
    """Start writing two files, then fail."""
    with write_atomically(path) as temporary:
        temporary.write_text("half")
        temporary.with_name("second").write_text("half")
        raise error


def write_two(path: Path) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text("graph")
        temporary.with_name("weights").write_text("weights")


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


def test_link_to_a_file_that_does_not_exist_yet(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to("deep/real.txt")
    with write_atomically(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "deep" / "real.txt").read_text() == "new"


def read_in_thread(pipe: Path) -> tuple[threading.Thread, list[bytes]]:
    """Start to read a pipe; the list holds what came through it at the end."""
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    thread.start()
    return thread, read


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_stays_a_pipe(linked: bool, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = tmp_path / "link" if linked else pipe
    if linked:
        path.symlink_to(pipe)
    thread, read = read_in_thread(pipe)
    with write_atomically(path) as temporary:
        temporary.write_bytes(b"x" * 100_000)  # more than a pipe holds
    thread.join()
    assert read == [b"x" * 100_000]
    assert pipe.is_fifo()
    assert names_in(tmp_path) == (["link", "pipe"] if linked else ["pipe"])


def test_a_device_stays_a_device() -> None:
    null = Path(os.devnull)
    with write_atomically(null) as temporary:
        temporary.write_text("x")
    assert null.is_char_device()
    assert not list(null.parent.glob(".writing-*"))


def test_a_full_device() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("only Linux has this device")
    with pytest.raises(OutputError, match="No space left"), write_atomically(full) as temporary:
        temporary.write_bytes(b"x" * 100_000)
    assert full.is_char_device()


def test_a_pipe_takes_one_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="2 files have to be written"):
        write_two(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_an_error_writes_nothing_into_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="half"):
        write_half(tmp_path / "pipe", ValueError("half"))
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_is_needed_where_it_is_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    require_readable(tmp_path / "pipe", "an image", ImageError)
    with pytest.raises(ImageError, match="is a pipe"):
        require_file(tmp_path / "pipe", "an image", ImageError)


def test_devices_and_sockets_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        for path in (Path("socket"), Path(os.devnull), Path("/dev/zero")):
            with pytest.raises(ImageError, match="device or a socket"):
                require_file(path, "an image", ImageError)


@pytest.mark.parametrize(
    ("given", "problem", "fix"),
    [
        (
            "https://host/a/street.jpg",
            "https://host/a/street.jpg is an address",
            "curl -O https://",
        ),
        ("s3://bucket/a.png", "s3://bucket/a.png is an address", "download it"),
        ("file:///tmp/a.png", "file:///tmp/a.png is an address", "write /tmp/a.png"),
        ("C:/a.png", "C:/a.png does not exist", "check the path"),
        ("a:b/c.png", "a:b/c.png does not exist", "check the path"),
    ],
)
def test_addresses_are_no_files(given: str, problem: str, fix: str) -> None:
    with pytest.raises(ImageError, match=re.escape(problem)) as error:
        require_file(Path(given), "an image", ImageError)
    assert fix in error.value.fix


def test_a_file_may_be_named_like_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("https:/host").mkdir(parents=True)
    Path("https:/host/a.png").write_text("x")
    require_file(Path("https://host/a.png"), "an image", ImageError)


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path, *, deep: bool = True) -> list[str]:
    files = find_files(folder, (".png", ".JPG"), DatasetError, deep=deep)
    return [path.relative_to(folder).as_posix() for path in files]


def test_found_files_are_in_order(tmp_path: Path) -> None:
    make_files(tmp_path, "b/1.png", "a/2.JPG", "a.png", "c.jpg", "b.txt", "d.png.bak", "b/png")
    assert found(tmp_path) == ["a/2.JPG", "a.png", "b/1.png", "c.jpg"]
    assert found(tmp_path, deep=False) == ["a.png", "c.jpg"]
    assert found(tmp_path / "b") == ["1.png"]


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    """macOS writes ``._a.png`` beside ``a.png`` on disks of other systems."""
    make_files(tmp_path, "a.png", "._a.png", ".b.png", ".hidden/c.png", "d/._e.png", "d/e.png")
    assert found(tmp_path) == ["a.png", "d/e.png"]
    make_files(tmp_path / ".hidden", "f.png")
    assert found(tmp_path / ".hidden") == ["c.png", "f.png"]


def test_links_are_followed(tmp_path: Path) -> None:
    make_files(tmp_path, "data/a/1.png", "data/2.png", "elsewhere/b/3.png", "elsewhere/4.png")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere/b")
    (tmp_path / "data/b2").symlink_to("b")
    (tmp_path / "data/4.png").symlink_to(tmp_path / "elsewhere/4.png")
    assert found(tmp_path / "data") == ["2.png", "4.png", "a/1.png", "b/3.png", "b2/3.png"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    make_files(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "a/b").symlink_to("../b")
    (tmp_path / "b/a").symlink_to("../a")
    assert found(tmp_path) == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]


def test_a_link_without_its_target_is_found(tmp_path: Path) -> None:
    """Whoever reads it says that it is missing; it must not be left out in silence."""
    (tmp_path / "a.png").symlink_to("gone.png")
    assert found(tmp_path) == ["a.png"]
    with pytest.raises(ImageError, match="does not exist"):
        require_file(tmp_path / "a.png", "an image", ImageError)


def test_pipes_among_files_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    make_files(tmp_path, "b.png")
    assert found(tmp_path) == ["b.png"]


def test_folders_that_cannot_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path, "a/1.png", "b/2.png")
    listed = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match=r"b cannot be searched: Permission denied"):
        found(tmp_path)
    with pytest.raises(DatasetError, match="cannot be searched"):
        find_files(tmp_path / "missing", (".png",), DatasetError)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_temporary_folder_is_removed(error: type[BaseException] | None, tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), temporary_folder(tmp_path) as folder:
        (folder / "deep").mkdir()
        assert folder.parent == tmp_path
        assert folder.name.startswith(".writing-")
        if error:
            raise error
    assert names_in(tmp_path) == []


def test_a_temporary_folder_is_removed_when_python_ends(tmp_path: Path) -> None:
    """A thread that still writes does not get to the end of its block."""
    program = """
import pathlib, sys
from alignseg_infer.files.writing import temporary_folder
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
from alignseg_infer.files.writing import write_atomically
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


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder."""
    folder = tmp_path / "system"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write_temporarily(error: BaseException) -> None:
    with temporary_folder() as folder:
        (folder / "part").write_text("x")
        raise error


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EFBIG"])
def test_a_temporary_folder_without_room_is_named(name: str, system: Path) -> None:
    number = getattr(errno, name)
    with pytest.raises(OutputError, match=re.escape(os.strerror(number))) as caught:
        write_temporarily(OSError(number, os.strerror(number)))
    assert f"into the temporary folder {system}:" in caught.value.problem
    assert caught.value.fix.endswith("export TMPDIR=FOLDER")
    assert caught.value.fix.startswith(
        "ulimit -f unlimited, " if name == "EFBIG" else f"df -h {system}, "
    )
    assert names_in(system) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), FileNotFoundError("x"), ValueError()])
def test_other_errors_are_not_about_the_temporary_folder(error: Exception, system: Path) -> None:
    with pytest.raises(type(error)) as caught:
        write_temporarily(error)
    assert caught.value is error
    assert names_in(system) == []


def test_a_file_in_a_temporary_folder_has_no_output(system: Path) -> None:
    """The advice to choose another output would be of no use: nobody chose this one."""
    with temporary_folder() as folder, pytest.raises(OutputError, match="temporary") as caught:
        write_half(folder / "model.onnx", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert f"df -h {system}" in caught.value.fix
    assert " -o" not in caught.value.fix


def test_an_output_without_room_is_named(system: Path, tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with temporary_folder(), pytest.raises(OutputError) as caught:
        write_half(tmp_path / "out" / "file", full)
    assert caught.value.problem == f"cannot write {tmp_path}/out/file: {full.strerror}"
    assert caught.value.fix == f"df -h {tmp_path}/out, or choose another output with -o"


USE = """
import pathlib, sys
from alignseg_infer.files.writing import temporary_folder
with temporary_folder() as folder:
    (folder / "big").write_bytes(bytes(200_000))
    print(folder.parent)
"""


def use(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Use a temporary folder in a new process, which a shell starts; ``$USE`` is its program."""
    environment = {name: text for name, text in os.environ.items() if name not in ("TEMP", "TMP")}
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        ["sh", "-c", command],
        env={**environment, "USE": USE, "PY": sys.executable, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_folder_that_is_asked_for_is_used_or_refused(tmp_path: Path) -> None:
    """Python takes another folder in silence if TMPDIR cannot be used."""
    missing = tmp_path / "a" / "b"
    done = use('"$PY" -c "$USE"', TMPDIR=str(missing))
    assert f"cannot write into the temporary folder {missing}: No such file" in done.stderr
    advice = f"mkdir -p {missing}"
    assert f"try: {advice}, or" in done.stderr
    done = use(f'{advice}; "$PY" -c "$USE"', TMPDIR=str(missing))
    assert (done.returncode, done.stdout.strip()) == (0, str(missing))
    assert names_in(missing) == []


@pytest.mark.parametrize("asked", ["~/tmp", "/dev/null"])
def test_making_the_folder_is_advised_only_where_it_helps(asked: str, tmp_path: Path) -> None:
    done = use('"$PY" -c "$USE"', TMPDIR=asked)
    assert f"cannot write into the temporary folder {asked}" in done.stderr
    assert "try: name a folder on another disk: export TMPDIR=FOLDER" in done.stderr
    done = use(f'export TMPDIR={tmp_path}; "$PY" -c "$USE"', TMPDIR=asked)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path))


def test_an_application_may_choose_another_temporary_folder(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.parent == system


def test_a_limit_of_the_shell_is_named(tmp_path: Path) -> None:
    limited = "ulimit -S -f 100; "  # blocks of 512 or 1024 bytes
    done = use(f'{limited}"$PY" -c "$USE"', TMPDIR=str(tmp_path))
    assert f"into the temporary folder {tmp_path}: File too large" in done.stderr
    assert "try: ulimit -f unlimited, or" in done.stderr
    done = use(f'{limited}ulimit -f unlimited; "$PY" -c "$USE"', TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """A real one of 100 kB, which only this process sees."""
    full = tmp_path / "full"
    full.mkdir()
    mount = f"mount -t tmpfs -o size=100k none {full}"
    own = "unshare -m" if os.geteuid() == 0 else "unshare -rm"
    if not shutil.which("unshare") or use(f"{own} {mount}").returncode:
        pytest.skip("a disk can be mounted neither by this user nor for this process alone")
    done = use(f'{own} sh -c \'{mount} && "$PY" -c "$USE"\'', TMPDIR=str(full))
    assert f"into the temporary folder {full}: No space left on device" in done.stderr
    assert f"try: df -h {full}, or" in done.stderr


LEAVE = """
import os, signal
from alignseg_infer.files.writing import temporary_folder
with temporary_folder() as folder:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_in_the_temporary_folder_is_removed(system: Path) -> None:
    use('"$PY" -c "$USE"', USE=LEAVE, TMPDIR=str(system))
    assert [name[: len(SYSTEM_TEMPORARY)] for name in names_in(system)] == [SYSTEM_TEMPORARY]
    (system / "alignseg-results").mkdir()  # not ours
    (system / f"{SYSTEM_TEMPORARY}file").touch()
    with temporary_folder() as alive:
        done = use('"$PY" -c "$USE"', TMPDIR=str(system))
        assert done.returncode == 0, done.stderr
        kept = [alive.name, f"{SYSTEM_TEMPORARY}file", "alignseg-results"]
        assert names_in(system) == sorted(kept)


def test_a_temporary_folder_goes_even_if_its_removal_is_interrupted(system: Path) -> None:
    """A second signal comes while the first one is obeyed; the folder goes when Python ends."""
    program = """
import shutil
from alignseg_infer.files import writing
remove = shutil.rmtree
def interrupted(*arguments, **options):
    writing.shutil.rmtree = remove
    raise KeyboardInterrupt
writing.shutil.rmtree = interrupted
try:
    with writing.temporary_folder():
        pass
except KeyboardInterrupt:
    print("interrupted")
"""
    done = use('"$PY" -c "$USE"', USE=program, TMPDIR=str(system))
    assert done.stdout == "interrupted\n", done.stderr
    assert names_in(system) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a", "a"),
        (b"", ""),
        ("straße".encode(), "straße"),
        ("straße".encode("utf-8-sig"), "straße"),
        ("straße".encode("utf-16"), "straße"),
        (b"\xfe\xff\0a", "a"),
        (b"stra\xdfe", None),
        (b"a\0b", None),
        (b"\xff\xfea", None),
    ],
)
def test_text_that_a_user_wrote(content: bytes, text: str | None, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(content)
    if text is None:
        with pytest.raises(ValueError, match=r"0|decode"):
            read_text(tmp_path / "text")
    else:
        assert read_text(tmp_path / "text") == text
    if content == b"stra\xdfe":
        assert read_text(tmp_path / "text", "surrogateescape") == "stra\udcdfe"


def test_models_are_not_written_to_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.onnx")
    with pytest.raises(OutputError, match="is a pipe or a device") as caught:
        require_no_pipe(tmp_path / "a.onnx")
    assert caught.value.fix == "-o a-file.onnx"
    (tmp_path / "b.onnx").touch()
    for path in (tmp_path, tmp_path / "b.onnx", tmp_path / "new.onnx"):
        require_no_pipe(path)
