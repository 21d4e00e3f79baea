"""What goes wrong in a batch: workers that crash, kills, full disks, very many failures."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from alignseg_infer import OutputError, Predictor, ProcessError, segment_files
from alignseg_infer.batch.job import Job, Saving
from alignseg_infer.batch.manifest import PartWriter, read_manifest
from alignseg_infer.batch.processes import AHEAD, TRIES
from alignseg_infer.batch.run import BatchOptions, segment_source
from alignseg_infer.batch.stores import OWN_FOLDER, Folder
from alignseg_infer.batch.worker import failed_row, new_row
from alignseg_infer.cli import main
from alignseg_infer.cli.commands.batch import _print_failures, summary_text
from alignseg_infer.datasets.sources import SourceImage
from tests.support.batches import files_in, results_of, rows_of, write_images
from tests.support.waiting import PATIENCE, eventually

CRASHING_DECODER = """
import os, signal
import cv2
decode = cv2.imdecode
def imdecode(data, *rest):
    if b"CRASH" in data.tobytes():
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode(data, *rest)
cv2.imdecode = imdecode
"""
HANGING_DECODER = """
import pathlib, time
import cv2
def imdecode(data, *rest):
    pathlib.Path(pathlib.os.environ["BATCH_MARK"], "hangs").touch()
    time.sleep(600)
cv2.imdecode = imdecode
"""
CRASHING_FIRST_WRITE = """
import os, signal
replace = os.replace
def crash_once(source, target):
    try:
        os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return replace(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = crash_once
"""
BREAK = "raise RuntimeError('the device is lost')"
CRASHING_START = """
import os, signal, sys
if "batch.child" in " ".join(sys.orig_argv):
    os.kill(os.getpid(), signal.SIGKILL)
"""
RUN = """
import sys
from alignseg_infer import Predictor, segment_files
segment_files(Predictor("demo", threads=1), *sys.argv[1:3], formats=["labels", "polygons"],
              workers=int(sys.argv[3]))
"""


@pytest.fixture
def customized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes each new Python run a program first."""

    def customize(program: str) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return customize


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_crashes_its_worker_costs_that_image_only(
    workers: int, customized: Callable[[str], None], tmp_path: Path
) -> None:
    customized(CRASHING_DECODER)
    names = write_images(tmp_path / "photos", 30)
    for name in ("a/bad.png", "c/bad.png"):
        good = (tmp_path / "photos" / names[0]).read_bytes()
        (tmp_path / "photos" / name).write_bytes(good + b"CRASH")
    summary = segment_files(
        Predictor("demo", threads=1),
        tmp_path / "photos",
        tmp_path / "out",
        formats=["labels"],
        workers=workers,
    )
    assert (summary.done, summary.failed) == (30, 2)
    assert files_in(tmp_path / "out") == results_of(names, "_labels.png")
    rows = rows_of(tmp_path / "out")
    failed = [name for name, row in rows.items() if row["status"] == "failed"]
    assert failed == ["a/bad.png", "c/bad.png"]
    assert rows["a/bad.png"]["error"] == (
        f"the worker process ended by signal 11 (SIGSEGV), {TRIES} times with this image"
    )


def test_a_worker_that_dies_while_it_writes_leaves_no_file(
    customized: Callable[[str], None], tmp_path: Path
) -> None:
    customized(CRASHING_FIRST_WRITE.format(mark=str(tmp_path / "crashed")))
    names = write_images(tmp_path / "photos", 6)
    summary = segment_files("demo", tmp_path / "photos", tmp_path / "out", formats=["labels"])
    assert (tmp_path / "crashed").exists()
    assert (summary.done, summary.failed) == (6, 0)
    assert files_in(tmp_path / "out") == results_of(names, "_labels.png")


@pytest.mark.parametrize(("number", "named"), [("signal.SIGKILL", r"9 \(SIGKILL\)"), ("40", "40")])
def test_a_worker_that_dies_at_its_start_ends_the_run(
    number: str, named: str, customized: Callable[[str], None], tmp_path: Path
) -> None:
    """Of a signal without a name, too."""
    customized(CRASHING_START.replace("signal.SIGKILL", number))
    write_images(tmp_path / "photos", 3)
    with pytest.raises(ProcessError, match=f"ended by signal {named} while it opened the model"):
        segment_files("demo", tmp_path / "photos", tmp_path / "out")


class Killer:
    """Runs batches in processes of their own and kills them. Their children are found by a mark."""

    def __init__(self, folder: Path, *command: str) -> None:
        self._command = [sys.executable, *command]
        self._mark = f"BATCH_MARK={folder}"

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        name, _, value = self._mark.partition("=")
        with subprocess.Popen(
            self._command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), name: value},
        ) as process:
            try:
                yield process
            finally:
                process.kill()
                process.wait()
                assert eventually(lambda: not self.children())

    def children(self) -> list[int]:
        """Processes of the batch that are still there."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def kill_one(self, process: subprocess.Popen[bytes], chance: random.Random) -> None:
        """Kill the run, or sometimes one of its workers first."""
        workers = [pid for pid in self.children() if pid != process.pid]
        if workers and chance.random() < 0.3:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
            time.sleep(chance.uniform(0, 1))
        process.kill()


def test_a_worker_ends_with_its_run_though_it_has_its_last_image(
    customized: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customized(HANGING_DECODER)
    monkeypatch.syspath_prepend(tmp_path / "site")
    write_images(tmp_path / "photos", 1)
    killer = Killer(tmp_path, "-c", RUN, str(tmp_path / "photos"), str(tmp_path / "out"), "1")
    with killer.running() as process:
        assert eventually((tmp_path / "hangs").exists)
        assert len(killer.children()) == 2
        process.kill()
        assert eventually(lambda: not killer.children())


@pytest.mark.parametrize(
    ("kills", "count"), [(2, 40), pytest.param(50, 600, marks=pytest.mark.slow)]
)
def test_kills_at_random_moments_leave_nothing_half_done(
    kills: int, count: int, tmp_path: Path
) -> None:
    names, out = write_images(tmp_path / "photos", count), tmp_path / "out"
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    places = [str(tmp_path / "photos"), str(out)]
    killer, chance = Killer(tmp_path, "-c", RUN, *places, "2"), random.Random(7)
    killed, seen = 0, set()
    while killed < kills:
        with killer.running() as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.5, 4 if kills > 2 else 3))
            if process.poll() is None:
                killed += 1
                killer.kill_one(process, chance)
        seen.add(len(read_manifest(str(out)).column("name")))
        if len(seen) > 1 and max(seen) == count + 1:  # all done: begin again
            for part in (out / "manifest").glob("*.parquet"):
                part.unlink()
    with killer.running() as process:
        assert process.wait(PATIENCE * 3) == 0
    undisturbed = tmp_path / "undisturbed"
    segment_files(
        Predictor("demo", threads=1),
        tmp_path / "photos",
        undisturbed,
        formats=["labels", "polygons"],
    )
    assert rows_of(out) == rows_of(undisturbed)
    assert files_in(out) == results_of(names, "_labels.png", "_polygons.json")
    for name in files_in(out):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()


def test_sigterm_keeps_the_rows_and_leaves_no_process(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 1500)
    out = tmp_path / "out"
    arguments = ["batch", "demo", str(tmp_path / "photos"), "-o", str(out), "--formats=labels"]
    killer = Killer(tmp_path, "-m", "alignseg_infer", *arguments)
    with killer.running() as process:
        assert eventually(lambda: any((out / "manifest").glob("*.parquet")))
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert eventually(lambda: not killer.children())
    rows = rows_of(out)
    assert 0 < len(rows) < 1500
    assert set(results_of(rows, "_labels.png")) <= set(files_in(out))
    assert len(files_in(out)) <= len(rows) + 2 * AHEAD  # those at work


def test_what_breaks_the_model_is_tried_again_and_named(
    customized: Callable[[str], None], tmp_path: Path
) -> None:
    """Such as a lost device, which a new process may find again."""
    customized(CRASHING_DECODER.replace("os.kill(os.getpid(), signal.SIGSEGV)", BREAK))
    names = write_images(tmp_path / "photos", 6)
    with (tmp_path / "photos" / names[2]).open("ab") as file:
        file.write(b"CRASH")
    summary = segment_files("demo", tmp_path / "photos", tmp_path / "out", formats=["labels"])
    assert (summary.done, summary.failed) == (5, 1)
    problem = f"RuntimeError: the device is lost, {TRIES} times with this image"
    assert summary.failures == ((names[2], problem),)


def test_an_interrupted_run_ends_its_workers_and_goes_on(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 12)
    seen = []

    def interrupt(done: int, total: int, failed: int) -> None:
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_files(
            "demo", tmp_path / "photos", tmp_path / "out", formats=["labels"], progress=interrupt
        )
    assert len(rows_of(tmp_path / "out")) == 3
    assert not list((tmp_path / "out" / OWN_FOLDER).glob("writing-*"))
    summary = segment_files("demo", tmp_path / "photos", tmp_path / "out", formats=["labels"])
    assert (summary.done, summary.up_to_date) == (9, 3)


def test_a_full_disk_ends_the_run_and_not_each_image(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    write_images(tmp_path / "photos", 12, size=(128, 256))
    arguments = ["demo", str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "--formats=color"]
    command = [sys.executable, "-m", "alignseg_infer", "batch", *arguments]
    limited = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 1
    assert limited.stderr.count("error:") == 1
    assert "_color.png: File too large" in limited.stderr
    assert "ulimit -f unlimited" in limited.stderr
    assert files_in(tmp_path / "out") == []
    assert main(["batch", *arguments]) == 0
    assert len(files_in(tmp_path / "out")) == 12


def test_a_destination_that_cannot_be_written(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3)
    (tmp_path / "out").write_text("a file")
    assert segment_files("demo", tmp_path / "photos", tmp_path / "out", dry_run=True).missing == 3
    with pytest.raises(OutputError, match=r"cannot write into .*: it is not a folder"):
        segment_files("demo", tmp_path / "photos", tmp_path / "out")
    made_with = tmp_path / "other" / "manifest" / "made-with.json"
    made_with.mkdir(parents=True)
    with pytest.raises(OutputError, match=r"made-with\.json cannot be read: Is a directory"):
        segment_files("demo", tmp_path / "photos", tmp_path / "other")


@pytest.mark.slow
def test_very_many_failures_stay_calm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 100,000 images, as a cluster without images would return them."""
    count = 100_000
    (tmp_path / "list.txt").write_text("\n".join(f"{i:06}.png" for i in range(count)))
    opening = Predictor("demo").opening
    memory: list[int] = []

    def fail_all(job: Job, plan: Any) -> Iterator[Any]:
        for number, image in enumerate(plan.images):
            if number % 5000 == 0:
                memory.append(psutil.Process().memory_info().rss)
            yield failed_row(new_row(job, image), "it is " + "gone " * 200)

    summary = segment_source(
        opening,
        str(tmp_path / "list.txt"),
        str(tmp_path / "out"),
        saving=Saving(),
        options=BatchOptions(),
        run_images=fail_all,
    )
    assert summary.failed == count
    assert len(summary.failures) == 20
    assert max(memory) - memory[0] < 150e6  # the rows of one part
    assert len(rows_of(tmp_path / "out")) == count

    _print_failures(summary)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 6
    assert printed[-1] == "and 99995 more, which the manifest names"
    assert f"0 segmented, {count} failed" in summary_text(summary)
    assert max(map(len, printed)) < 600


def test_parts_come_late_in_long_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("alignseg_infer.batch.manifest.time.monotonic", lambda: now)
    store = Folder(tmp_path, "writing")
    store.prepare()
    opening = Predictor("demo").opening
    job = Job(opening.model, opening.options, "0" * 64, str(tmp_path), "writing", Saving())
    writer, last = PartWriter(store, "00001of00001"), 0.0
    waits: list[float] = []
    for second in range(3600):
        now = float(second)
        writer.add(new_row(job, SourceImage(f"{second}.png", "x", 1, "")))
        parts = len(list((tmp_path / "manifest").glob("*.parquet")))
        if parts > len(waits):
            waits.append(now - last)
            last = now
    writer.flush()
    assert waits[0] == 1
    assert max(waits) == 60
    assert len(waits) < 120
    assert read_manifest(str(tmp_path)).num_rows == 3600
