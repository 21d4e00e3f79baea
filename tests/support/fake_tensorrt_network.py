"""A fake of ``tensorrt`` that builds engines and runs them, in ONNX Runtime on memory of NumPy.

It shows everything around a build: what an engine computes is what the graph computes.
"""

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.cuda.base import Cuda, Gpu
from tests.support.fake_tensorrt import (
    ADA,
    VERSION,
    FakeContext,
    FakeCuda,
    FakeEngine,
    FakeRuntime,
)
from tests.support.fake_tensorrt_build import (
    FakeBuildConfig,
    FakeBuilder,
    FakeNetwork,
    FakeParser,
    FakeTensorRTBuild,
)


class FakeTensorRTNetwork(FakeTensorRTBuild):
    """A fake of the module ``tensorrt`` that builds and runs.

    Attributes:
        version: Version of TensorRT.
        gpus: The machine's GPUs.
        driver: Version of their driver.
        builds: Number of engines that were built.
        wrong: Whether engines compute something else than their graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.version: tuple[int, ...] = VERSION
        self.gpus: list[Gpu] = [ADA]
        self.driver = "580.95.05"
        self.builds = 0
        self.wrong = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the fake in the place of TensorRT, CUDA and the driver."""
        package = "alignseg_infer"
        for name in (
            *("trt.builder.config", "trt.builder.engine", "trt.runtime.backend"),
            "backends.cached_engine",
        ):
            monkeypatch.setattr(
                f"{package}.{name}.load_tensorrt", lambda flavour: self.loaded(self.version)
            )
        for name in ("trt.builder.engine", "export.verification.verify"):
            monkeypatch.setattr(f"{package}.{name}.current_gpu", lambda: self.gpus[0])
        monkeypatch.setattr(f"{package}.trt.runtime.backend.open_cuda", self.open_cuda)
        monkeypatch.setattr(
            f"{package}.backends.cached_engine.open_cuda", lambda index: FakeCuda(self.gpus[index])
        )
        monkeypatch.setattr(f"{package}.trt.cache.needs.driver_version", lambda: self.driver)

    def open_cuda(self, index: int, package: str) -> Cuda:
        self.cuda = FakeCuda(self.gpus[index])  # of the engine that is opened next
        return self.cuda

    def Builder(self, logger: Any) -> FakeBuilder:
        return _Builder(self, logger)

    def OnnxParser(self, network: FakeNetwork, logger: Any) -> FakeParser:
        return _Parser(self, network)

    def Runtime(self, log: Any) -> FakeRuntime:
        return _Runtime(self, log)


class _Parser(FakeParser):
    def parse_from_file(self, path: str) -> bool:
        self._network.file = Path(path).read_bytes()  # type: ignore[attr-defined]
        return super().parse_from_file(path)


class _Config(FakeBuildConfig):
    shapes: tuple[tuple[int, ...], ...] = ()

    def add_optimization_profile(self, profile: Any) -> int:
        self.shapes = profile.shapes
        return 0


class _Builder(FakeBuilder):
    module: FakeTensorRTNetwork

    def create_builder_config(self) -> FakeBuildConfig:
        return _Config()

    def create_optimization_profile(self) -> Any:
        profile = SimpleNamespace(shapes=())
        profile.set_shape = lambda name, *shapes: setattr(profile, "shapes", shapes)
        return profile

    def build_serialized_network(self, network: FakeNetwork, config: FakeBuildConfig) -> bytes:
        self.module.builds += 1
        assert isinstance(config, _Config)
        plan = {
            "tensors": [["image", "INPUT", "FLOAT"], [network.outputs[0], "OUTPUT", "FLOAT"]],
            "profile": config.shapes,
            "shapes": {"image": [-1, 3, -1, -1], network.outputs[0]: [-1, 19, -1, -1]},
            "network": base64.b64encode(network.file).decode(),  # type: ignore[attr-defined]
            "wrong": self.module.wrong,
        }
        return json.dumps(plan).encode()


class _Runtime(FakeRuntime):
    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        if super().deserialize_cuda_engine(plan) is None:
            return None
        return _Engine(self._module, self._log, json.loads(plan))


class _Engine(FakeEngine):
    def __init__(self, module: Any, log: Any, plan: dict[str, Any]) -> None:
        import onnxruntime

        super().__init__(module, log, plan)
        self.cuda = module.cuda
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        content = base64.b64decode(plan["network"])
        self.network = onnxruntime.InferenceSession(content, options)

    def create_execution_context(self, config: Any = None) -> FakeContext | None:
        return _Context(self) if super().create_execution_context(config) else None


class _Context(FakeContext):
    def __init__(self, engine: _Engine) -> None:
        super().__init__(engine)
        self._cuda = engine.cuda

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, _, height, width = self._shape
        return (batch, 19, _quarter(height), _quarter(width))

    def _output(self, name: str, image: NDArray[np.float32]) -> NDArray[np.float32]:  # type: ignore[override]
        engine = self._engine
        assert isinstance(engine, _Engine)
        (output,) = engine.network.run([name], {"image": image})
        logits: NDArray[np.float32] = output
        return -logits if engine.plan["wrong"] else logits


def _quarter(side: int) -> int:
    """Return what the stem leaves of a side: a convolution of stride 2, and a ceil-mode pool."""
    return -(-(-(-side // 2) - 1) // 2) + 1
