"""A batch on a Ray cluster of three nodes on this machine, each of one CPU."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignseg_infer import (
    DatasetError,
    MissingDependencyError,
    ModelFileError,
    OptionError,
    OutputError,
    Predictor,
    ProcessError,
    segment_files,
)
from alignseg_infer.batch.job import Job
from alignseg_infer.batch.manifest import read_manifest
from alignseg_infer.batch.processes import TRIES
from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.errors import INSTALL_RAY
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.version import __version__
from tests.support.batches import files_in, results_of, rows_of
from tests.support.fetching import require_installable

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a test must not report
ray = pytest.importorskip("ray", reason="ray is not installed; pip install 'ray[data]'")

from ray.cluster_utils import Cluster  # noqa: E402

from alignseg_infer.batch import on_ray, ray_cluster  # noqa: E402

ROOT = Path(__file__).parents[2]
MEMORY = 80 << 20  # of a node's object store; Ray takes no less than 75 MiB
# In worker processes: notes what is decoded, takes its time, and crashes where it is told to.
DECODER = """
import hashlib, os, signal, sys, time
if "batch.child" in " ".join(sys.orig_argv):
    import cv2
    decode = cv2.imdecode
    def imdecode(data, *rest):
        content = data.tobytes()
        with open(os.environ["DECODED"], "a") as file:
            file.write(hashlib.sha256(content).hexdigest() + "\\n")
        time.sleep(0.02)
        if b"CRASH" in content:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"KILLED" in content:  # as Ray's memory monitor does
            parent = os.getppid()  # the worker; if that has gone, perhaps Ray itself
            with open(f"/proc/{parent}/cmdline", "rb") as file:
                if file.read().startswith(b"ray::"):
                    os.kill(parent, signal.SIGKILL)
        return decode(data, *rest)
    cv2.imdecode = imdecode
"""
NO_PACKAGE = "raise ModuleNotFoundError(\"No module named 'alignseg_infer'\")"


def write_noise(folder: Path, count: int) -> list[str]:
    """Write different images; one has a name that is hard to pass on."""
    generator = np.random.default_rng(0)
    names = [f"{'ab'[number % 2]}/{number:03}.png" for number in range(count - 1)]
    names.append(os.fsdecode(b"a/odd\n\xff.png"))
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (32, 48, 3), np.uint8)
        path.write_bytes(encode_image(pixels, ".png"))
    return sorted(names)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which workers note what they decode."""
    return tmp_path_factory.mktemp("ray") / "decoded.txt"


@pytest.fixture(scope="module")
def cluster(decoded: Path) -> Iterator[Cluster]:
    folder = decoded.parent / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DECODER)
    with pytest.MonkeyPatch.context() as patch:
        paths = (str(folder), str(ROOT), os.environ.get("PYTHONPATH", ""))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("DECODED", str(decoded))
        patch.setenv("ALIGNSEG_CACHE", str(decoded.parent / "cache"))
        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()


@pytest.mark.slow
def test_results_are_those_of_one_process(
    cluster: Cluster, decoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a model that the nodes get through Ray only, since its file is gone when they begin."""
    names = write_noise(tmp_path / "photos", 25)
    (tmp_path / "photos" / "b" / "bad.png").write_text("no image")
    model = tmp_path / "model.onnx"
    shutil.copy(model_path("demo"), model)
    formats = ("labels", "polygons")
    plain = segment_files(
        Predictor(model, threads=1), tmp_path / "photos", tmp_path / "plain", formats=formats
    )
    take_files = on_ray.model_files

    def take_and_remove(path: str) -> dict[str, bytes]:
        files = take_files(path)
        model.unlink()
        return files

    monkeypatch.setattr(on_ray, "model_files", take_and_remove)
    words = ["batch", str(model), str(tmp_path / "photos"), "-o", str(tmp_path / "out")]
    assert main([*words, "--formats", ",".join(formats), "--ray", cluster.address]) == 1
    assert not ray.is_initialized()
    assert (plain.done, plain.failed) == (25, 1)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "plain")
    files = files_in(tmp_path / "out")
    assert files == results_of(names, "_labels.png", "_polygons.json")
    for file in files:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    shutil.copy(model_path("demo"), model)
    again = segment_files(
        model, tmp_path / "photos", tmp_path / "out", formats=formats, ray=cluster.address
    )
    assert (again.done, again.up_to_date, again.failed_before) == (0, 25, 1)


@pytest.mark.slow
def test_a_crash_costs_one_image_and_a_program_stays_connected(
    cluster: Cluster, tmp_path: Path
) -> None:
    names = write_noise(tmp_path / "photos", 30)
    good = (tmp_path / "photos" / names[0]).read_bytes()
    (tmp_path / "photos" / "b" / "bad.png").write_bytes(good + b"CRASH")
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        summary = segment_files(
            "demo", tmp_path / "photos", tmp_path / "out", formats=["labels"], ray="auto"
        )
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert (summary.done, summary.failed) == (30, 1)
    ((name, error),) = summary.failures
    assert name == "b/bad.png"
    assert "SIGSEGV" in error
    assert f"{TRIES} times with this image" in error
    assert files_in(tmp_path / "out") == results_of(names, "_labels.png")


@pytest.mark.slow
def test_a_worker_that_is_killed_each_time_ends_the_batch(
    cluster: Cluster, decoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would do the block again for ever, unless it is told a limit."""
    monkeypatch.setattr(on_ray, "MOST_DEATHS", 2)
    (name, *_) = write_noise(tmp_path / "photos", 2)
    fatal = (tmp_path / "photos" / name).read_bytes() + b"KILLED"
    (tmp_path / "photos" / name).write_bytes(fatal)
    photos, out = tmp_path / "photos", tmp_path / "out"
    with pytest.raises(ProcessError, match="the Ray cluster does not go on") as caught:
        segment_files("demo", photos, out, formats=["labels"], ray=cluster.address)
    assert "with memory for a worker" in caught.value.expected
    digest = hashlib.sha256(fatal).hexdigest()
    assert decoded.read_text().split().count(digest) == 3
    (tmp_path / "photos" / name).write_bytes(fatal.removesuffix(b"KILLED"))
    again = segment_files("demo", photos, out, formats=["labels"], ray=cluster.address)
    assert (again.done + again.up_to_date, again.failed) == (2, 0)


@pytest.mark.slow
def test_a_node_that_dies_loses_nothing(cluster: Cluster, decoded: Path, tmp_path: Path) -> None:
    """What was in flight is done again: a block of the node, and the images of blocks unread."""
    names = write_noise(tmp_path / "photos", 160)
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    cluster.wait_for_nodes()
    decoded.write_text("")
    killed: list[int] = []

    def kill(done: int, total: int, failed: int) -> None:
        if done >= total // 3 and not killed:
            killed.append(done)
            cluster.remove_node(node, allow_graceful=False)

    summary = segment_files(
        Predictor("demo", threads=1),
        tmp_path / "photos",
        tmp_path / "out",
        formats=["labels"],
        ray=cluster.address,
        progress=kill,
    )
    assert killed
    assert (summary.done, summary.failed) == (160, 0)
    assert files_in(tmp_path / "out") == results_of(names, "_labels.png")
    assert len(read_manifest(str(tmp_path / "out"))) == 160
    times = Counter(decoded.read_text().split())
    block = len(names) // (4 * on_ray.BLOCKS_PER_WORKER)
    contents = [(tmp_path / "photos" / name).read_bytes() for name in names]
    assert set(times) == {hashlib.sha256(content).hexdigest() for content in contents}
    assert max(times.values()) <= 2
    assert sum(times.values()) - 160 <= 2 * block


@pytest.mark.slow
def test_a_node_without_the_package_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # nodes import from the folder that the driver is in, too
    folder = tmp_path / "site" / "alignseg_infer"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(NO_PACKAGE)
    write_noise(tmp_path / "photos", 2)
    paths = os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")])
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY, env_vars={"PYTHONPATH": paths})
    cluster.wait_for_nodes()
    try:
        with pytest.raises(MissingDependencyError) as caught:
            segment_files("demo", tmp_path / "photos", tmp_path / "out", ray=cluster.address)
    finally:
        cluster.remove_node(node)
        cluster.wait_for_nodes()  # until it is gone
    said = str(caught.value)
    assert "1 of 4 nodes" in said
    assert "No module named 'alignseg_infer'" in said
    assert f"alignseg-infer {__version__}" in said
    assert "pip install '.[cpu,ray]'" in said
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.slow
def test_the_error_of_a_worker_reaches_the_caller(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_noise(tmp_path / "photos", 4)
    model = tmp_path / "other.onnx"
    data = model_path("demo").read_bytes()
    model.write_bytes(data + b"\x82\x7d\x00")  # an unknown field, which makes it another file
    shorter = {"other.onnx": data}
    monkeypatch.setattr(on_ray, "model_files", lambda path: shorter)
    with pytest.raises(ModelFileError, match="is not the model that the batch was started with"):
        segment_files(model, tmp_path / "photos", tmp_path / "out", ray=cluster.address)


@pytest.mark.slow
def test_a_worker_without_room_is_an_error(cluster: Cluster, tmp_path: Path) -> None:
    write_noise(tmp_path / "photos", 2)
    predictor = Predictor("demo", threads=7)
    with pytest.raises(OptionError, match="room for a worker with 7 CPUs"):
        segment_files(predictor, tmp_path / "photos", tmp_path / "out", ray=cluster.address)


# Without a cluster


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that segments two images on the cluster with an address."""
    write_noise(tmp_path / "photos", 2)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "no-ray"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def segment(address: str) -> None:
        segment_files("demo", tmp_path / "photos", tmp_path / "out", ray=address)

    return segment


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize("address", ["nonsense", "ray://", "127.0.0.1:", "127.0.0.1:99999"])
def test_an_address_that_is_none(address: str, nothing: Callable[[str], None]) -> None:
    with pytest.raises(OptionError, match="there is no cluster") as caught:
        nothing(address)
    assert caught.value.fix == "ray start --head"


def test_an_address_at_which_nobody_listens(nothing: Callable[[str], None]) -> None:
    with pytest.raises(OptionError, match="refused"):
        nothing(f"127.0.0.1:{closed_port()}")


def test_a_server_that_is_no_ray(
    nothing: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "CONNECTED_WITHIN", 5.0)
    said = pytest.raises(OptionError, match="within 5 s")
    with socket.create_server(("127.0.0.1", 0)) as server, said:
        nothing(f"127.0.0.1:{server.getsockname()[1]}")
    assert not ray.is_initialized()


def test_a_machine_without_a_cluster(
    nothing: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")  # of one that has ended
    monkeypatch.setattr(ray_cluster, "CONNECTED_WITHIN", 8.0)
    with pytest.raises(OptionError, match=r"ray='auto': there is no cluster"):
        nothing("auto")


def test_a_dry_run_needs_no_cluster(tmp_path: Path) -> None:
    write_noise(tmp_path / "photos", 2)
    summary = segment_files(
        "demo", tmp_path / "photos", tmp_path / "out", ray="nonsense", dry_run=True
    )
    assert (summary.missing, summary.done) == (2, 0)


def job_of(destination: Path, **options: Any) -> Job:
    from alignseg_infer.batch.job import Saving
    from alignseg_infer.batch.run import BatchOptions, make_job

    opening = Predictor("demo", threads=1).opening
    changed = {**vars(opening.options), **options}
    opening = opening._replace(options=type(opening.options)(**changed))
    return make_job(opening, str(destination), Saving(), BatchOptions())


NODES = [{"NodeID": "0", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 8.0, "GPU": 2.0}}]


@pytest.mark.parametrize(
    ("options", "cpus", "gpus", "room"),
    [
        ({}, 1, 0, 8),
        ({"threads": None}, 1, 0, 8),
        ({"threads": 3}, 3, 0, 2),
        ({"device": "cuda"}, 1, 1, 2),
        ({"device": "cpu", "threads": 8}, 8, 0, 1),
        ({"runtime": "tensorrt"}, 1, 1, 2),
        ({"runtime": "openvino"}, 1, 0, 8),
    ],
)
def test_what_a_worker_takes(
    options: dict[str, Any], cpus: int, gpus: int, room: int, tmp_path: Path
) -> None:
    share = on_ray._share_of(job_of(tmp_path, **options))
    assert (share.cpus, share.gpus) == (cpus, gpus)
    assert on_ray._room_of(NODES, share) == room


def test_a_certain_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Ray gives each worker a GPU"):
        on_ray._share_of(job_of(tmp_path, device="cuda:1"))


@pytest.mark.parametrize(
    ("sees", "error"),
    [((False, True), OutputError), ((True, False), DatasetError), ((True, True), None)],
)
def test_folders_that_a_node_does_not_have(
    sees: tuple[bool, ...],
    error: type[Exception] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from alignseg_infer.batch.stores import OWN_FOLDER
    from alignseg_infer.datasets.sources import SourceImage

    write_noise(tmp_path / "photos", 2)
    job = job_of(tmp_path / "out")
    (tmp_path / "out" / OWN_FOLDER / job.room).mkdir(parents=True)
    image = SourceImage("a/000.png", str(tmp_path / "photos/a/000.png"), None, "")
    seen = [
        ray_cluster.Node("10.0.0.1", "", __version__, (True, True)),
        ray_cluster.Node("10.0.0.2", "", __version__, sees),
    ]
    monkeypatch.setattr(ray_cluster, "_ask", lambda nodes, paths: seen)
    if error is None:
        ray_cluster.require_ready(NODES, job, image)
        return
    with pytest.raises(error, match=r"is not on 10\.0\.0\.2"):
        ray_cluster.require_ready(NODES, job, image)


def test_another_version_on_a_node_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignseg_infer.datasets.sources import SourceImage

    old = ray_cluster.Node("10.0.0.2", "", "0.0.1", ())
    monkeypatch.setattr(ray_cluster, "_ask", lambda nodes, paths: [old])
    job = replace(job_of(tmp_path), destination="memory://out")
    image = SourceImage("a.png", "s3://b/a.png", 1, "")
    with pytest.raises(MissingDependencyError, match=r"it has alignseg-infer 0\.0\.1"):
        ray_cluster.require_ready(NODES, job, image)


def test_all_files_of_a_model_are_sent(tmp_path: Path) -> None:
    assert on_ray.model_files("demo") == {}
    engine = tmp_path / "a.engine"
    engine.write_bytes(b"plan")
    assert on_ray.model_files(str(engine)) == {"a.engine": b"plan"}
    (tmp_path / "a.engine.json").write_text("facts")
    assert list(on_ray.model_files(str(engine))) == ["a.engine", "a.engine.json"]


def test_without_ray_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("on_ray", "ray_cluster", "ray_node"):
        monkeypatch.delitem(sys.modules, f"alignseg_infer.batch.{name}")
    write_noise(tmp_path / "photos", 2)
    with pytest.raises(MissingDependencyError, match="ray") as caught:
        segment_files("demo", tmp_path / "photos", tmp_path / "out", ray="auto")
    assert "pip install 'ray[data]'" in str(caught.value)


@pytest.mark.slow
def test_what_the_errors_advise_can_be_typed() -> None:
    require_installable(INSTALL_RAY)
    program = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
    options = subprocess.run(
        [*program, "start", "--help"], capture_output=True, text=True, check=True
    )
    assert "--head" in options.stdout
    commands = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True)
    assert re.search(r"^  status ", commands.stdout, re.MULTILINE)
