"""A real tritonserver serves what ``alignseg deploy triton`` writes."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer import Predictor, export_onnx
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.deploy.triton.repository import write_repository
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.results.segmentation import Segmentation
from tests.support.fake_tensorrt import write_engine
from tests.support.triton_server import ROOT, Address, Installed, ask, infer, install, serve
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
SIZES = ((64, 96), (64, 64))
STREETS = [Street(FIRST_HELD_OUT + seed).scene(size=SIZES[seed % 2]).image for seed in range(4)]
FILES = [encode_image(image, ".png") for image in STREETS]


ENSEMBLES: dict[str, dict[str, Any]] = {
    "plain": {"size": (64, 128)},
    "camera": {"input": "uint8-rgb", "output": "probabilities", "layout": "nhwc"},
    "few": {
        "output": "labels",
        "label_type": "int64",
        "layout": "nchw",
        "remap": Remapping(
            dataset="new", names={"road": "way", "sky": None, "*": "rest"}, threshold=0.9
        ),
    },
}
NETWORK = """
import onnxruntime
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, args):
        folder = f"{args['model_repository']}/{args['model_version']}"
        self.session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
        self.name = self.session.get_outputs()[0].name

    def execute(self, requests):
        return [self.run(utils.get_input_tensor_by_name(one, "image")) for one in requests]

    def run(self, image):
        [output] = self.session.run([self.name], {"image": image.as_numpy()})
        return utils.InferenceResponse([utils.Tensor(self.name, output)])
"""


def replace_network(folder: Path) -> None:
    """Let the Python backend run the network, since the wheel has no backend of ONNX Runtime."""
    file = folder / "config.pbtxt"
    text = file.read_text()
    assert 'backend: "onnxruntime"\ndefault_model_filename: "model.onnx"\n' in text
    text = text.replace('backend: "onnxruntime"\n', 'backend: "python"\n')
    file.write_text(text.replace('"model.onnx"', '"model.py"'))
    (folder / "1/model.py").write_text(NETWORK)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "repository"
    write_repository(["demo"], folder)
    write_repository(["demo"], folder, name="split", backend="onnxruntime")
    write_repository(["demo"], folder, name="vino", backend="openvino")
    for name, options in ENSEMBLES.items():
        file = folder.parent / f"{name}.onnx"
        export_onnx(model_path("demo"), file, **options)
        write_repository([file], folder, backend="onnxruntime")
        replace_network(folder / f"{name}_network")
    engine = folder.parent / "built.engine"
    write_engine(engine)
    write_repository([engine], folder)
    return folder


@pytest.fixture(scope="module")
def server(
    installed: Installed, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    wanted = ("demo", "split_before", "split_after", *ENSEMBLES)
    options = ["--model-control-mode=explicit", *(f"--load-model={name}" for name in wanted)]
    with serve(installed, repository, log, *options) as address:
        yield address


@pytest.fixture(scope="module")
def expected(installed: Installed) -> list[Segmentation]:
    """What a `Predictor` finds, with its confidence, in the server's own environment."""
    return Predictor("demo")(STREETS, confidence=True)


def test_labels_equal_those_of_a_predictor(server: Address, expected: list[Segmentation]) -> None:
    for file, image, result in zip(FILES, STREETS, expected, strict=True):
        for sent in (file, image[np.newaxis]):
            reply = infer(server.http, sent, "labels", "confidence")
            assert reply.status == 200, reply.facts
            np.testing.assert_array_equal(reply.outputs["labels"], result.labels[np.newaxis])
            assert result.confidence is not None
            difference = np.abs(reply.outputs["confidence"][0] - result.confidence).max()
            assert difference < 1e-5  # another NumPy


@pytest.mark.parametrize("options", [["http"], ["grpc"], ["http", "-m"], ["grpc", "-m"]])
def test_client(
    options: list[str],
    installed: Installed,
    server: Address,
    expected: list[Segmentation],
    tmp_path: Path,
) -> None:
    """The example, over both protocols and through shared memory."""
    protocol, *memory = options
    (tmp_path / "street.png").write_bytes(FILES[0])
    command = [str(installed.python), str(ROOT / "examples/triton_client.py"), "street.png"]
    command += ["--protocol", protocol, "--url", f"127.0.0.1:{getattr(server, protocol)}"]
    command += ["-o", "out", *(["--shared-memory"] if memory else [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name, share = next(iter(expected[0].class_share().items()))
    assert done.stdout.startswith(f"street.png: {name} {share:.0%}, ")
    labels = cv2.imread(str(tmp_path / "out/street.labels.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, expected[0].labels)
    assert (tmp_path / "out/street.overlay.jpg").stat().st_size > 1000


def test_metadata(server: Address) -> None:
    facts = ask(server.http, "GET", "/v2/models/demo").facts
    assert facts["platform"] == "python"
    assert facts["versions"] == ["1"]
    inputs = {one["name"]: (one["datatype"], one["shape"]) for one in facts["inputs"]}
    assert inputs == {"image": ("UINT8", [-1, -1, -1, 3]), "file": ("BYTES", [-1, 1])}
    outputs = {one["name"]: (one["datatype"], one["shape"]) for one in facts["outputs"]}
    assert outputs == {"labels": ("UINT8", [-1, -1, -1]), "confidence": ("FP32", [-1, -1, -1])}
    configuration = ask(server.http, "GET", "/v2/models/demo/config").facts
    classes = json.loads(configuration["parameters"]["classes"]["string_value"])
    assert tuple(classes["names"]) == Predictor("demo").spec.classes.names


def test_many_requests_at_once(server: Address, expected: list[Segmentation]) -> None:
    """200 requests of two sizes, of which some are no image; batches are formed."""
    before = ask(server.http, "GET", "/v2/models/demo/stats").facts["model_stats"][0]

    def send(index: int) -> None:
        if index % 20 == 7:
            reply = infer(server.http, b"no image")
            assert reply.status >= 400
            assert "try:" in reply.facts["error"]
            return
        reply = infer(server.http, FILES[index % 4])
        assert reply.status == 200, reply.facts
        np.testing.assert_array_equal(reply.outputs["labels"][0], expected[index % 4].labels)

    with ThreadPoolExecutor(200) as pool:
        list(pool.map(send, range(200)))
    after = ask(server.http, "GET", "/v2/models/demo/stats").facts["model_stats"][0]
    images = after["inference_count"] - before["inference_count"]
    calls = after["execution_count"] - before["execution_count"]
    assert images == 200
    assert calls < 200 / 2
    assert max(row["batch_size"] for row in after["batch_stats"]) == 4


def test_wrong_requests_get_an_error(server: Address) -> None:
    two = np.concatenate([STREETS[0][np.newaxis], STREETS[0][np.newaxis]])
    assert infer(server.http, two).outputs["labels"].shape == (2, *SIZES[0])
    small = infer(server.http, np.zeros((1, 8, 8, 3), np.uint8))
    assert small.status >= 400
    assert "32 to" in small.facts["error"]
    empty = {"inputs": [], "outputs": [{"name": "labels"}]}
    reply = ask(server.http, "POST", "/v2/models/demo/infer", json.dumps(empty).encode())
    assert reply.status >= 400
    assert infer(server.http, FILES[0]).status == 200


def test_a_new_version_under_traffic(
    server: Address, repository: Path, expected: list[Segmentation]
) -> None:
    """Requests are answered all the time, first by the old version and then by the new one."""
    versions, ended = [], threading.Event()

    def send(index: int) -> None:
        while not ended.is_set():
            reply = infer(server.http, FILES[index])
            assert reply.status == 200, reply.facts
            np.testing.assert_array_equal(reply.outputs["labels"][0], expected[index].labels)
            versions.append(reply.facts["model_version"])

    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(send, index) for index in range(4)]
        try:
            [deployed] = write_repository(["demo"], repository)
            assert deployed.version == 2
            assert ask(server.http, "POST", "/v2/repository/models/demo/load").status == 200
            count = len(versions)
            eventually(lambda: len(versions) > count + 20 or any(one.done() for one in sent))
        finally:
            ended.set()
        for one in sent:
            one.result()
    assert versions[0] == "1"
    assert versions[-1] == "2"
    assert versions[-8:] == ["2"] * 8


def test_the_parts_of_an_ensemble(server: Address, expected: list[Segmentation]) -> None:
    """What comes before and after the network, which runs in the test."""
    before = infer(server.http, FILES[0], "image", "size", model="split_before")
    assert before.status == 200, before.facts
    network = OnnxRuntimeBackend(model_path("demo"))
    output = network.infer(before.outputs["image"].astype(np.float32))
    given = {"output": output, "size": before.outputs["size"]}
    after = infer(server.http, given, model="split_after")
    assert after.status == 200, after.facts
    np.testing.assert_array_equal(after.outputs["labels"][0], expected[0].labels)
    bad = infer(server.http, b"no image", "image", model="split_before")
    assert bad.status >= 400
    assert "try:" in bad.facts["error"]


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles(name: str, server: Address, repository: Path) -> None:
    """From the bytes of image files to labels, with many requests at once."""
    expected = [one.labels for one in Predictor(repository.parent / f"{name}.onnx")(FILES)]

    def send(index: int) -> None:
        if index % 10 == 7:
            reply = infer(server.http, b"no image", model=name)
            assert reply.status >= 400
            assert "try:" in reply.facts["error"]
            return
        reply = infer(server.http, FILES[index % 4], model=name)
        assert reply.status == 200, reply.facts
        np.testing.assert_array_equal(reply.outputs["labels"][0], expected[index % 4])

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(send, range(40)))


def test_an_image_is_sent_by_curl(server: Address, repository: Path, tmp_path: Path) -> None:
    """The command of docs/deploy.md, whose body is the file."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "street.png").write_bytes(FILES[0])
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    [command] = [line for line in page.splitlines() if "--data-binary" in line]
    command = command.replace("NAME", "plain").replace("localhost:8000", f"127.0.0.1:{server.http}")
    done = subprocess.run(
        shlex.split(command), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    headers = dict(re.findall(r"([\w-]+): (\S+)", (tmp_path / "headers").read_text().lower()))
    length = int(headers["inference-header-content-length"])
    reply = (tmp_path / "reply").read_bytes()
    [told] = json.loads(reply[:length])["outputs"]
    expected = Predictor(repository.parent / "plain.onnx")(FILES[0]).labels
    assert (told["datatype"], told["shape"]) == ("UINT8", [1, *expected.shape])
    assert reply[length:] == expected.tobytes()


@pytest.mark.parametrize(
    ("model", "backend"),
    [("split", "onnxruntime"), ("vino", "openvino"), ("built", "tensorrt")],
)
def test_only_the_backend_of_the_network_is_missing(
    model: str, backend: str, server: Address
) -> None:
    """The server reads the configurations; the wheel has the Python backend only."""
    reply = ask(server.http, "POST", f"/v2/repository/models/{model}_network/load")
    assert reply.status >= 400
    index: Any = ask(server.http, "POST", "/v2/repository/index").facts
    rows = {
        row["name"]: row.get("reason", "") for row in index if row["name"] == f"{model}_network"
    }
    reason = rows[f"{model}_network"]
    assert f"unable to find backend library for backend '{backend}'" in reason


def test_numpy_of_another_major_version_is_refused(
    installed: Installed, repository: Path, tmp_path: Path
) -> None:
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("needs NumPy 2 in the environment of the tests")
    log = tmp_path / "server.log"
    options = ["--model-control-mode=explicit", "--load-model=demo"]
    with serve(installed, repository, log, *options, python=Path(sys.executable)):
        pass
    said = log.read_text()
    assert f"does not read arrays of NumPy {np.__version__}" in said
    assert "pip install 'numpy<2'" in said
