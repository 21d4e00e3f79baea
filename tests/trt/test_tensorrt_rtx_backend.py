"""The differences when TensorRT for RTX runs an engine, and its real bindings without a GPU."""

import importlib
import logging
from pathlib import Path

import pytest

from alignseg_infer import DeviceError, EngineError, Predictor
from alignseg_infer.cuda.base import Cuda
from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.trt.flavours import Flavour, TensorRT, load_tensorrt
from alignseg_infer.trt.log import new_log
from alignseg_infer.trt.runtime import backend as tensorrt_backend
from alignseg_infer.trt.runtime.backend import TensorRTBackend
from alignseg_infer.trt.runtime.runtime_cache import cache_path
from tests.support.fake_tensorrt import (
    FakeCuda,
    FakeTensorRTRTX,
    expected_logits,
    image_of,
    write_engine,
)
from tests.support.tiny_engine import build_tiny_engine


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()

    def open_fake(index: int, package: str) -> Cuda:
        return fake

    monkeypatch.setattr(tensorrt_backend, "open_cuda", open_fake)
    return fake


@pytest.fixture
def rtx(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRTRTX:
    module = FakeTensorRTRTX(cuda)
    monkeypatch.setattr(tensorrt_backend, "load_tensorrt", lambda runtime: module.loaded())
    return module


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    write_engine(tmp_path / "a.engine", flavour=Flavour.TENSORRT_RTX, gpu=None)
    return tmp_path / "a.engine"


def test_it_makes_its_own_graphs(rtx: FakeTensorRTRTX, cuda: FakeCuda, engine: Path) -> None:
    batch = image_of((1, 3, 64, 64))
    with TensorRTBackend(engine) as backend:
        assert backend.name == "tensorrt-rtx 11.4.0.106 (NVIDIA L4)"
        for _ in range(4):
            assert (backend.infer(batch) == expected_logits(batch)).all()
    (config,) = rtx.configs
    assert config is not None
    assert config.cuda_graph_strategy == "whole"
    assert cuda.counts["begin_capture"] == 0


def test_before_it_made_graphs_we_do(
    rtx: FakeTensorRTRTX, cuda: FakeCuda, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FakeTensorRTRTX, "CudaGraphStrategy")  # 1.0 and 1.1
    with TensorRTBackend(engine) as backend:
        for _ in range(2):
            backend.infer(image_of((1, 3, 64, 64)))
    assert cuda.counts["launch_graph"] == 1


def test_kernels_are_kept_for_the_next_run(
    rtx: FakeTensorRTRTX, engine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cache_path(engine)
    with TensorRTBackend(engine):
        assert not cache.exists()
    assert cache.read_bytes() == b"ours+kernel"
    TensorRTBackend(engine).close()
    assert cache.read_bytes() == b"ours+kernel+kernel"
    for foreign in (b"theirs", b""):
        cache.write_bytes(foreign)
        TensorRTBackend(engine).close()
        assert cache.read_bytes() == b"ours+kernel"
    assert {file.name for file in engine.parent.iterdir()} == {
        *("a.engine", "a.engine.json", "a.engine.cache")
    }
    backend = TensorRTBackend(engine)
    cache.unlink()
    cache.mkdir()
    with caplog.at_level(logging.WARNING, "alignseg_infer"):
        backend.close()
    assert "cannot be kept for the next run" in caplog.text


def test_contexts_share_one_cache(rtx: FakeTensorRTRTX, engine: Path) -> None:
    with TensorRTBackend(engine) as backend:
        batch = image_of((1, 3, 64, 64))
        with backend._pool.borrow(batch.shape), backend._pool.borrow(batch.shape):
            pass
    caches = [config.cache for config in rtx.configs if config]
    assert len(caches) == 2
    assert caches[0] is caches[1] is not None


# The real TensorRT for RTX. It builds and logs without a GPU, but runs only on one.


@pytest.fixture(scope="module")
def real() -> TensorRT:
    try:
        return load_tensorrt(Flavour.TENSORRT_RTX)
    except MissingDependencyError as error:
        pytest.skip(error.problem)


@pytest.fixture
def real_engine(real: TensorRT, tmp_path: Path) -> Path:
    build_tiny_engine(tmp_path / "tiny.engine", real, None)
    return tmp_path / "tiny.engine"


def no_driver() -> bool:
    try:
        driver = importlib.import_module("cuda.bindings.driver")
        return bool(driver.cuInit(0)[0])
    except (ImportError, RuntimeError):
        return True


needs_no_driver = pytest.mark.skipif(not no_driver(), reason="this machine has an NVIDIA driver")


@needs_no_driver
def test_real_engine_without_a_driver(real_engine: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")
    for device in (None, "cuda", "auto"):
        with pytest.raises(DeviceError, match="no working NVIDIA driver"):
            Predictor(real_engine, device=device)


@needs_no_driver
def test_real_messages_reach_the_error(cuda: FakeCuda, real_engine: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot be loaded: .*CUDA driver version is insuff"):
        TensorRTBackend(real_engine)
    assert cuda.events == ["cuda closed"]


def test_real_log_takes_errors_once(real: TensorRT) -> None:
    log = new_log(real)
    runtime = real.module.Runtime(log)
    assert runtime.deserialize_cuda_engine(b"this is no plan" * 20) is None
    assert "erializ" in log.take_errors()
    assert log.take_errors() == "TensorRT gives no reason"


USED = {
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
    "ICudaEngine": (
        *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype"),
        *("get_tensor_profile_shape", "create_execution_context", "create_runtime_config"),
        "device_memory_size_v2",
    ),
    "IExecutionContext": (
        *("set_input_shape", "infer_shapes", "get_tensor_shape", "get_max_output_size"),
        *("set_tensor_address", "execute_async_v3"),
    ),
    "IRuntimeConfig": ("create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy"),
    "IRuntimeCache": ("serialize", "deserialize"),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "DataType": ("FLOAT", "HALF", "INT32", "INT64", "UINT8"),
}


@pytest.mark.parametrize("kind", USED)
def test_real_names(real: TensorRT, kind: str) -> None:
    """Those of classic TensorRT are the same, but for the runtime config; see its API reference."""
    missing = [name for name in USED[kind] if not hasattr(getattr(real.module, kind), name)]
    assert missing == []
