"""A predictor in other processes than its own: spawned, forked and from a fork server."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from alignseg_infer import ModelFileError, Predictor, ProcessError, Segmentation
from alignseg_infer.backends.opening import open_again
from alignseg_infer.demo import model_path
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.pixels.images import write_image
from tests.support.models import FakeBackend
from tests.support.processes import exit_code_of_fork, needs_fork, run_program

IMAGE = probe_image((70, 90), 1)
SENT = """
import multiprocessing, pickle, sys
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    method, predictors, image = sys.argv[1:]
    context = multiprocessing.get_context(method)
    with open(predictors, "rb") as file, ProcessPoolExecutor(1, context) as pool:
        for predictor in pickle.load(file):
            one, other = pool.map(predictor, [image, image])
            print(one.backend, one.labels.sum(), other.source == image)
"""
LOADED = """
import sys
from alignseg_infer import Predictor
from torch.utils.data import DataLoader

class Labels:
    def __init__(self, predictor, image):
        self.predictor, self.image = predictor, image

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return int(self.predictor(self.image).labels.sum())

if __name__ == "__main__":
    labels = Labels(Predictor(sys.argv[1]), sys.argv[2])
    try:
        list(DataLoader(labels, num_workers=1, multiprocessing_context="fork"))
    except Exception as error:
        print("ProcessError" if "ProcessError" in str(error) else error)
    for total in DataLoader(labels, num_workers=1, multiprocessing_context="spawn"):
        print(int(total))
"""
FORKED = """
import gc, os, sys, time
from alignseg_infer import Predictor, ProcessError

model, runtime, image, how = sys.argv[1:]
options = {"threads": 4} if runtime != "torch" else {}
if runtime == "openvino":
    options["runtime"] = runtime
predictor = Predictor(model, **options)
expected = predictor(image).labels
if how == "use":  # its threads would keep the model
    stream = predictor.stream([image] * 3)
    next(stream)
child = os.fork()
if child:
    deadline = time.monotonic() + 60
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    print(os.waitstatus_to_exitcode(done[1]) if done[0] else "hangs")
    sys.exit()
if how == "use":
    uses = [lambda: predictor(image), lambda: predictor.stream([image]), lambda: next(stream)]
    for use in uses:
        try:
            use()
        except ProcessError as error:
            assert 'get_context("spawn")' in str(error)
        else:
            sys.exit("no error")
elif how == "drop":
    del predictor
    gc.collect()
elif how == "make":
    assert (Predictor(model, **options)(image).labels == expected).all()
sys.exit()
"""


@pytest.fixture
def models(small_onnx: Path, small_checkpoint: Path) -> dict[str, Path]:
    return {"onnxruntime": small_onnx, "openvino": small_onnx, "torch": small_checkpoint}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    write_image(path, IMAGE)
    return path


@pytest.mark.parametrize(
    "method", ["spawn", pytest.param("forkserver", marks=[pytest.mark.slow, needs_fork])]
)
def test_a_predictor_can_be_sent(
    method: str, models: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    predictors = [
        Predictor(models["onnxruntime"], size=(64, 64)),
        Predictor(models["openvino"], runtime="openvino", threads=1),
        Predictor(models["torch"]),
    ]
    sent = tmp_path / "predictors"
    sent.write_bytes(pickle.dumps(predictors))
    printed = run_program(SENT, tmp_path, method, sent, picture)
    labels = [one(picture).labels for one in predictors]
    assert printed.splitlines() == [
        f"{one.backend} {found.sum()} True" for one, found in zip(predictors, labels, strict=True)
    ]


@needs_fork
@pytest.mark.slow
def test_a_data_loader(small_checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    """With the argument that the error of `OwnProcess` names; PyTorch's default is to fork."""
    printed = run_program(LOADED, tmp_path, small_checkpoint, picture)
    labels = Predictor(small_checkpoint)(picture).labels
    assert printed.splitlines() == ["ProcessError", str(labels.sum()), str(labels.sum())]


@needs_fork
@pytest.mark.parametrize(
    ("runtime", "how"),
    [
        ("onnxruntime", "use"),
        ("onnxruntime", "drop"),
        ("openvino", "use"),
        ("openvino", "drop"),
        ("torch", "use"),
    ],
)
def test_a_forked_process_ends(
    runtime: str, how: str, models: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    """Without care it hangs (PyTorch, OpenVINO) or ends with SIGSEGV (ONNX Runtime)."""
    printed = run_program(FORKED, tmp_path, models[runtime], runtime, picture, how)
    assert printed.splitlines()[-1] == "0"


@needs_fork
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_forked_process_may_make_its_own(
    runtime: str, models: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    """As the error of `OwnProcess` advises."""
    printed = run_program(FORKED, tmp_path, models[runtime], runtime, picture, "make")
    assert printed.splitlines()[-1] == "0"


@needs_fork
def test_pytorch_in_a_forked_process_has_one_thread(small_checkpoint: Path) -> None:
    """Its own predictor would hang too, except with the advice of the error, threads=1."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = Predictor(small_checkpoint)(IMAGE).labels

        def work() -> None:
            with pytest.raises(ProcessError, match="threads=1"):
                Predictor(small_checkpoint)
            labels = Predictor(small_checkpoint, threads=1)(IMAGE).labels
            np.testing.assert_array_equal(labels, expected)

        assert exit_code_of_fork(work) == 0
    finally:
        torch.set_num_threads(threads)


@needs_fork
def test_what_was_unpickled_before_a_fork_is_opened_in_each_process(small_onnx: Path) -> None:
    twin = pickle.loads(pickle.dumps(Predictor(small_onnx)))
    assert exit_code_of_fork(lambda: twin(IMAGE)) == 0
    expected = twin(IMAGE).labels

    def work() -> None:
        with pytest.raises(ProcessError, match="forked"):
            twin(IMAGE)
        again = pickle.loads(pickle.dumps(twin))
        np.testing.assert_array_equal(again(IMAGE).labels, expected)

    assert exit_code_of_fork(work) == 0


def test_all_options_are_sent(small_onnx: Path) -> None:
    options = {"tile": [64, 64], "overlap": np.float64(0.5), "scales": [1, 0.8], "batch": 3}
    predictor = Predictor(small_onnx, mode="slide", flip=True, **options)  # type: ignore[arg-type]
    twin = pickle.loads(pickle.dumps(predictor))
    assert (twin.batch, twin.spec, repr(twin)) == (3, predictor.spec, repr(predictor))
    np.testing.assert_array_equal(twin(IMAGE).labels, predictor(IMAGE).labels)


def test_paths_are_sent_in_full(small_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts its workers in another folder."""
    monkeypatch.chdir(small_onnx.parent)
    sent = pickle.dumps([Predictor(small_onnx.name), Predictor("demo")])
    monkeypatch.chdir(os.sep)
    for twin in pickle.loads(sent):
        twin(IMAGE)
    assert str(Path.cwd() / "demo").encode() not in sent


def test_tasks_share_one_opened_file(small_onnx: Path) -> None:
    """A pool sends the predictor with each task."""
    sent = pickle.dumps(Predictor(small_onnx))
    before = open_again.cache_info().misses
    for _ in range(3):
        pickle.loads(sent)(IMAGE)
    assert open_again.cache_info().misses == before + 1


def test_a_file_that_changed_is_noticed(small_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_onnx.read_bytes())
    twins = [pickle.loads(pickle.dumps(Predictor(path))) for _ in range(2)]
    path.write_bytes(model_path("demo").read_bytes())
    with pytest.raises(ModelFileError, match="not the file that the pickled predictor"):
        twins[0](IMAGE)
    path.unlink()  # found out at the first use: a pool's worker would not survive it before
    with pytest.raises(ModelFileError, match="does not exist"):
        twins[1](IMAGE)


def test_a_model_in_memory_cannot_be_sent() -> None:
    predictor = Predictor(FakeBackend())
    with pytest.raises(ProcessError, match="a predictor of a file"):
        pickle.dumps(predictor)
    with predictor.stream([]) as stream, pytest.raises(ProcessError, match=r"predictor\.stream"):
        pickle.dumps(stream)


def test_results_can_be_sent(small_onnx: Path) -> None:
    result = Predictor(small_onnx)(IMAGE, confidence=True)
    twin: Segmentation = pickle.loads(pickle.dumps(result))
    assert repr(twin) == repr(result)
    np.testing.assert_array_equal(twin.overlay(), result.overlay())
