"""Engines on a GPU, with each TensorRT that is installed: ``python3 -m pytest -m gpu``."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from alignseg_infer import EngineError, MissingDependencyError, Predictor, SizeError
from alignseg_infer.cuda.base import CudaPackage
from alignseg_infer.cuda.opening import open_cuda
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.errors import CudaError, DeviceError
from alignseg_infer.spec.model import OutputKind, Precision
from alignseg_infer.trt.engine_file import read_facts
from alignseg_infer.trt.flavours import Flavour, TensorRT, captures_graphs_itself, load_tensorrt
from alignseg_infer.trt.plugin_library import find_plugin_library
from alignseg_infer.trt.runtime.backend import TensorRTBackend
from alignseg_infer.trt.runtime.runtime_cache import cache_path
from tests.support.fake_tensorrt import image_of
from tests.support.tiny_engine import build_tiny_engine, expected_logits

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=list(Flavour))
def tensorrt(request: pytest.FixtureRequest) -> TensorRT:
    try:
        return load_tensorrt(request.param)
    except MissingDependencyError as error:
        pytest.skip(error.problem)


@pytest.fixture(scope="module")
def engine(tensorrt: TensorRT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    try:
        cuda = open_cuda()
    except CudaError:  # there is a GPU, but our call is wrong
        raise
    except (DeviceError, MissingDependencyError) as error:
        pytest.skip(error.problem)
    gpu = cuda.gpu
    cuda.close()
    build_tiny_engine(path, tensorrt, gpu)
    return path


@pytest.fixture(params=[CudaPackage.CUDA_PYTHON, CudaPackage.PYCUDA])
def backend(request: pytest.FixtureRequest, engine: Path) -> Iterator[TensorRTBackend]:
    try:
        made = TensorRTBackend(engine, cuda=request.param)
    except MissingDependencyError as error:
        pytest.skip(error.problem)
    with made:
        yield made


def check(backend: TensorRTBackend, shape: tuple[int, ...], seed: int = 0) -> None:
    batch = image_of(shape, seed)
    output = np.asarray(backend.infer(batch))
    assert output.dtype == np.float32
    np.testing.assert_allclose(
        output.astype(np.float64), expected_logits(batch), rtol=1e-3, atol=1e-3
    )


def test_shapes_and_batches(backend: TensorRTBackend) -> None:
    shapes = [(1, 3, 64, 64), (2, 3, 64, 96), (1, 3, 32, 32), (2, 3, 40, 60), (1, 3, 64, 64)]
    for seed, shape in enumerate(shapes):
        check(backend, shape, seed)


def test_a_graph_gives_what_the_plain_call_gave(backend: TensorRTBackend) -> None:
    batch = image_of((2, 3, 64, 96))
    plain = np.asarray(backend.infer(batch), np.float32)
    for seed in range(4):
        check(backend, batch.shape, seed)
        np.testing.assert_allclose(
            np.asarray(backend.infer(batch), np.float32), plain, rtol=1e-4, atol=1e-4
        )


def test_a_graph_is_captured(backend: TensorRTBackend, tensorrt: TensorRT) -> None:
    cuda = backend._pool._idle[0]._cuda
    if not cuda.can_capture or captures_graphs_itself(tensorrt):
        pytest.skip(f"not by us with {cuda.name} and {tensorrt.flavour}")
    for _ in range(2):
        check(backend, (1, 3, 64, 64))
    (runner,) = backend._pool._idle
    assert runner._graph is not None
    check(backend, (1, 3, 32, 32))
    assert runner._graph is None


def test_outside_the_profile(backend: TensorRTBackend) -> None:
    for shape in ((3, 3, 64, 64), (1, 3, 64, 100), (1, 3, 28, 64)):
        with pytest.raises(SizeError):
            backend.infer(image_of(shape))
    check(backend, (1, 3, 64, 64))


def test_threads(backend: TensorRTBackend) -> None:
    shapes = [(1 + seed % 2, 3, 32 + 4 * (seed % 9), 64) for seed in range(64)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(check, [backend] * 64, shapes, range(64)))


def test_close(backend: TensorRTBackend) -> None:
    check(backend, (1, 3, 64, 64))
    backend.close()
    backend.close()
    with pytest.raises(EngineError, match="was closed"):
        backend.infer(image_of((1, 3, 64, 64)))


def test_memory_comes_back(engine: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    torch.zeros(1, device="cuda")  # keeps the context alive
    free = []
    for _ in range(4):
        with TensorRTBackend(engine) as backend:
            for _ in range(3):
                check(backend, (2, 3, 64, 96))
        free.append(torch.cuda.mem_get_info()[0])
    assert free[1] - free[-1] < 4 << 20  # the first load keeps kernels and libraries


def test_pytorch_and_an_engine_take_turns(backend: TensorRTBackend) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    values = torch.arange(1000, device="cuda", dtype=torch.float64)
    for seed in range(3):
        check(backend, (1, 3, 64, 64), seed)
        values = values + 1
    assert float(values.sum()) == 999 * 500 + 3000


def test_predictor(engine: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    predictor = Predictor(engine, batch=2)
    single = predictor(image)
    pair = predictor([image, image[::-1].copy()])
    assert single.labels.shape == (64, 96)
    np.testing.assert_array_equal(single.labels, pair[0].labels)


def test_rtx_keeps_its_kernels(engine: Path, tensorrt: TensorRT) -> None:
    if tensorrt.flavour is not Flavour.TENSORRT_RTX:
        pytest.skip("classic TensorRT compiles when it builds")
    for _ in range(2):
        with TensorRTBackend(engine) as backend:
            check(backend, (1, 3, 64, 64))
        assert cache_path(engine).stat().st_size > 0


@pytest.mark.parametrize("output", list(OutputKind))
def test_plugins_label_streets_alike(
    engine: Path, tensorrt: TensorRT, output: OutputKind, tmp_path: Path
) -> None:
    """The demo's checkpoint with its sampling in plugins, in float16, verified like any engine."""
    from alignseg_infer.cli import main

    if tensorrt.flavour is not Flavour.TENSORRT:
        pytest.skip("TensorRT for RTX has no plugins")
    try:
        find_plugin_library(None, "this test", EngineError)
    except EngineError as error:
        pytest.skip(f"{error.problem}; {error.fix}")
    list(write_streets(tmp_path, FIRST_HELD_OUT, 4, size=(128, 256)))
    path, checkpoint = tmp_path / "demo.engine", model_path("demo").with_suffix(".pth")
    command = f"export-trt {checkpoint} -o {path} --sampler plugin --precision fp16"
    command += (
        f" --output {output} --min-shape 1x64x128 --opt-shape 1x128x256 --max-shape 3x128x256"
    )
    assert main([*command.split(), "--verification", str(tmp_path / "images")]) == 0
    facts = read_facts(path)
    assert facts.verification is not None
    assert {"AlignedAdd/1", "OffsetGridSample/1"} <= set(facts.plugins)


@pytest.mark.parametrize("precision", list(Precision))
def test_the_demo_labels_streets_alike(
    engine: Path, tensorrt: TensorRT, precision: Precision, tmp_path: Path
) -> None:
    """The engine is built in each precision, and verified at the corners of its profile."""
    from alignseg_infer.cli import main

    list(write_streets(tmp_path, FIRST_HELD_OUT, 4, size=(128, 256)))
    path = tmp_path / "demo.engine"
    command = f"export-trt demo -o {path} --flavour {tensorrt.flavour} --precision {precision}"
    if precision is Precision.INT8:
        command += f" --calibration {tmp_path}/images --max-calibration-images 4"
    command += " --min-shape 1x64x128 --opt-shape 1x128x256 --max-shape 3x128x256"
    assert main(command.split()) == 0
    found = read_facts(path).verification
    assert found is not None
    assert len(found.rows) == 6
    assert main(["inspect", str(path), "--layers"]) == 0
