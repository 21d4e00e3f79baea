"""Leases in buckets: of several runs, whatever machines they are on, one goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from alignseg_infer import OutputError, Predictor, segment_files
from alignseg_infer.batch import leases
from alignseg_infer.batch.job import Shard
from alignseg_infer.batch.leases import Lease, hold_lease
from alignseg_infer.batch.stores import OWN_FOLDER
from alignseg_infer.datasets.addresses import open_address
from tests.support.batches import rows_of, write_images
from tests.support.buckets import new_bucket, running_s3
from tests.support.slow import all_slow

ONLY = Shard()
HOLD = """
import sys, time
from alignseg_infer.batch.job import Shard
from alignseg_infer.batch.leases import hold_lease
with hold_lease(sys.argv[1], Shard()):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("s3fs", reason="pip install s3fs")
    pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    with running_s3() as address:
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    return new_bucket(s3, monkeypatch, request)


@pytest.fixture
def memory() -> Iterator[str]:
    """A bucket in the memory of this process, which has times of a microsecond."""
    system = fsspec.filesystem("memory")
    system.pipe_file("/out/there.txt", b"x")
    yield "memory://out"
    system.rm("/out", recursive=True)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXPIRES", 2.0)
    monkeypatch.setattr(leases, "RENEWED", 0.3)
    monkeypatch.setattr(leases, "LOOKED", 0.05)


def files_of(address: str) -> list[str]:
    system, root = open_address(address)
    try:
        return [str(path) for path in system.ls(f"{root}/{OWN_FOLDER}/locks", detail=False)]
    except FileNotFoundError:  # a bucket has no empty folders
        return []


def test_a_run_at_work_is_named(memory: str) -> None:
    with hold_lease(memory, ONLY) as require_held:
        for shard in (ONLY, Shard(1, 2)):
            with (
                pytest.raises(OutputError, match="another run writes shard 1/1 into") as caught,
                hold_lease(memory, shard),
            ):
                pass
            assert f"process {os.getpid()} on " in caught.value.problem
            assert "for 2 s" in caught.value.problem
        require_held()
        assert len(files_of(memory)) == 1
    assert not files_of(memory)
    with hold_lease(memory, Shard(2, 2)):
        pass


def test_other_shards_of_as_many_run_at_once(memory: str) -> None:
    with hold_lease(memory, Shard(1, 2)), hold_lease(memory, Shard(2, 2)) as require_held:
        assert len(files_of(memory)) == 2
        require_held()
        with pytest.raises(OutputError, match=r"shard [12]/2 into"), hold_lease(memory, ONLY):
            pass


def test_files_of_others_are_no_leases(memory: str) -> None:
    system, root = open_address(memory)
    folder = f"{root}/{OWN_FOLDER}/locks"
    for name in ("notes.txt", "00001of00001.lease", "00001of00001-xyz.lease"):
        system.pipe_file(f"{folder}/{name}", b"x")
    with hold_lease(memory, ONLY):
        assert len(files_of(memory)) == 4
    system.pipe_file(f"{folder}/00001of00001-abc.lease", b"\xff no JSON")
    start = time.monotonic()
    with hold_lease(memory, ONLY):  # nobody renews it
        assert time.monotonic() - start >= leases.EXPIRES
        assert f"{folder}/00001of00001-abc.lease" not in files_of(memory)


@pytest.mark.parametrize("place", ["memory", *all_slow("bucket")])
def test_never_two_at_once(place: str, request: pytest.FixtureRequest) -> None:
    """Eight runs begin at once, again and again."""
    address = request.getfixturevalue(place)
    inside, most, entered, refused = 0, 0, 0, 0
    guard, start = threading.Lock(), threading.Barrier(8)

    def run() -> None:
        nonlocal inside, most, entered, refused
        start.wait()
        for _ in range(3):
            try:
                with hold_lease(address, ONLY) as require_held:
                    with guard:
                        inside, entered = inside + 1, entered + 1
                        most = max(most, inside)
                    time.sleep(0.1)
                    require_held()
                    with guard:
                        inside -= 1
            except OutputError as error:
                refused += "another run writes" in error.problem

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered >= 1
    assert entered + refused == 24
    assert not files_of(address)


def test_a_run_that_was_killed_delays_the_next_one(
    bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, bucket],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        other.send_signal(signal.SIGKILL)
    (left,) = files_of(bucket)
    start = time.monotonic()
    with hold_lease(bucket, ONLY):
        waited = time.monotonic() - start
        (own,) = files_of(bucket)
        assert own != left
    assert waited < leases.EXPIRES + 5
    assert f"belongs to another run (process {other.pid} on" in caplog.text


def test_a_run_that_slept_gives_way(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a machine that was suspended: another run has taken the shard."""
    monkeypatch.setattr(leases, "RENEWED", 600.0)
    asleep = Lease(memory, ONLY)
    asleep.acquire()
    time.sleep(3.2)
    with hold_lease(memory, ONLY) as require_held:
        asleep.require_held()  # it does not know yet
        asleep.renew()
        with pytest.raises(OutputError, match=r"did not answer for more than 2 s"):
            asleep.require_held()
        require_held()
    asleep.release()


def test_a_look_that_failed_is_repeated(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network comes back in the middle of it, after a machine was suspended."""
    monkeypatch.setattr(leases, "RENEWED", 600.0)
    asleep = Lease(memory, ONLY)
    asleep.acquire()
    time.sleep(3.2)
    with hold_lease(memory, ONLY):
        with monkeypatch.context() as patched:
            patched.setattr(type(fsspec.filesystem("memory")), "ls", _raise_timeout)
            with pytest.raises(TimeoutError):
                asleep.renew()
        asleep.renew()
        with pytest.raises(OutputError, match="did not answer"):
            asleep.require_held()
    asleep.release()


def test_a_run_that_slept_goes_on_if_nobody_came(memory: str) -> None:
    asleep = Lease(memory, ONLY)
    asleep.acquire()
    time.sleep(3.2)
    asleep.renew()
    asleep.require_held()
    asleep.release()
    assert not files_of(memory)


def test_a_network_that_fails_for_a_while(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    with hold_lease(memory, ONLY) as require_held:
        with monkeypatch.context() as patched:
            patched.setattr(type(system), "pipe_file", _raise_timeout)
            time.sleep(0.8)
        time.sleep(0.6)
        require_held()
        with pytest.raises(OutputError, match="another run"), hold_lease(memory, ONLY):
            pass


def _raise_timeout(*_: object, **__: object) -> None:
    raise TimeoutError("the network is gone")


def test_stores_without_times_have_no_lease(
    memory: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def modified(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "modified", modified)
    with hold_lease(memory, ONLY) as require_held:
        require_held()
        assert not files_of(memory)
    assert f"{memory} has no lock that other machines see" in caplog.text


def test_a_bucket_that_cannot_be_written_is_no_other_run(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", _raise_timeout)
    with (
        pytest.raises(OutputError, match="cannot be locked: the network is gone"),
        hold_lease(memory, ONLY),
    ):
        pass


def test_a_batch_into_a_bucket_holds_a_lease(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos", 3)
    seen: list[int] = []
    options = {"formats": ["labels"]}
    predictor = Predictor("demo", threads=1)
    out = f"{bucket}/out"
    summary = segment_files(
        predictor,
        tmp_path / "photos",
        out,
        formats=["labels"],
        progress=lambda *_: seen.append(len(files_of(out))),
    )
    assert (summary.done, set(seen), files_of(out)) == (3, {1}, [])
    other = Lease(out, ONLY)
    other.acquire()
    other.renew()
    monkeypatch.setattr(leases, "EXPIRES", 600.0)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(other, ended))
    renewing.start()
    try:
        with pytest.raises(OutputError, match="another run writes shard 1/1 into s3://"):
            segment_files(predictor, tmp_path / "photos", out, **options)  # type: ignore[arg-type]
    finally:
        ended.set()
        renewing.join()
        other.release()
    write_images(tmp_path / "photos", 6)

    def lost(self: Lease) -> None:
        raise OutputError("another run has it", "one run", "wait")

    monkeypatch.setattr(Lease, "require_held", lost)
    with pytest.raises(OutputError, match="another run has it"):
        segment_files(predictor, tmp_path / "photos", out, **options)  # type: ignore[arg-type]
    assert len(rows_of(out)) >= 3
    assert not files_of(out)


def _renew(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(1.0):  # S3 gives times in whole seconds
        lease.renew()
