"""Images to labels on the GPU: real kernels and launches, on a fake CUDA; see fake_tensorrt."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer import (
    CudaError,
    MissingDependencyError,
    ModelError,
    ModelFileError,
    OptionError,
    Predictor,
)
from alignseg_infer.arrays import Image, InputShape
from alignseg_infer.cuda import kernels
from alignseg_infer.cuda.base import Cuda
from alignseg_infer.spec.model import ChannelOrder, InputSpec, OutputKind
from alignseg_infer.trt.runtime import backend as tensorrt_backend
from alignseg_infer.trt.runtime.backend import TensorRTBackend
from tests.support.fake_tensorrt import (
    EXPORT,
    PROFILE,
    VERSION,
    FakeContext,
    FakeCuda,
    FakeTensorRT,
    plan_of,
    write_engine,
)
from tests.support.fetching import require_installable
from tests.support.models import SMALL_SPEC

INPUT = InputSpec(channel_order=ChannelOrder.RGB, mean=(90.0, 100.0, 110.0), std=(50.0, 60.0, 70.0))
SPEC = replace(SMALL_SPEC, input=INPUT, export=EXPORT)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    module = FakeTensorRT(cuda)

    def open_fake(index: int, package: str) -> Cuda:
        return cuda

    monkeypatch.setattr(tensorrt_backend, "open_cuda", open_fake)
    monkeypatch.setattr(tensorrt_backend, "load_tensorrt", lambda runtime: module.loaded(VERSION))
    return cuda


@pytest.fixture
def backend(cuda: FakeCuda, tmp_path: Path) -> Iterator[TensorRTBackend]:
    """An engine for 1 to 2 images of 32x32 to 64x96; its logits are its input's, times 1, 2, ..."""
    path = tmp_path / "a.engine"
    write_engine(path, spec=SPEC)
    with TensorRTBackend(path) as backend:
        yield backend


def picture(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(64, 96), (45, 77), (120, 33), (33, 300)])
def test_labels_are_those_of_the_host(backend: TensorRTBackend, size: tuple[int, int]) -> None:
    image = picture(*size)
    on_host = Predictor(backend, size=(48, 64), on_device=False)
    on_device = Predictor(backend, size=(48, 64))
    assert (on_host.on_device, on_device.on_device) == (False, True)
    expected, seen = (predictor(image, confidence=True) for predictor in (on_host, on_device))
    assert seen.labels.dtype == expected.labels.dtype
    assert np.mean(seen.labels == expected.labels) > 0.999
    assert seen.confidence is not None
    assert expected.confidence is not None
    # Half a grey level of the image, and 1/255 of the confidence itself.
    np.testing.assert_allclose(seen.confidence, expected.confidence, atol=0.01)
    np.testing.assert_array_equal(seen.image, image)


def test_a_batch_of_different_sizes(backend: TensorRTBackend, cuda: FakeCuda) -> None:
    images = [picture(40 + 7 * index, 50 + 30 * index, index) for index in range(5)]
    predictor = Predictor(backend, size=(64, 64), batch=2)
    before = cuda.counts["launch"]
    seen = predictor(images)
    assert cuda.counts["launch"] - before == 2 * len(images)
    expected = Predictor(backend, size=(64, 64), on_device=False)(images)
    for one, other, image in zip(seen, expected, images, strict=True):
        assert one.labels.shape == image.shape[:2]
        assert np.mean(one.labels == other.labels) > 0.999
        assert one.confidence is None
        assert min(one.times.preprocess, one.times.infer, one.times.postprocess) >= 0


def test_smaller_images_after_larger_ones_allocate_nothing(
    backend: TensorRTBackend, cuda: FakeCuda
) -> None:
    predictor = Predictor(backend, size=(32, 32))
    predictor(picture(100, 120))
    before = cuda.counts["allocate"], cuda.counts["allocate_pinned"]
    first = predictor(picture(50, 60, 1)).labels
    predictor(picture(90, 60, 2))
    assert (cuda.counts["allocate"], cuda.counts["allocate_pinned"]) == before
    expected = Predictor(backend, size=(32, 32), on_device=False)(picture(50, 60, 1)).labels
    np.testing.assert_array_equal(first, expected)  # the result is a copy


def test_an_engine_of_two_images_and_more_gets_one(cuda: FakeCuda, tmp_path: Path) -> None:
    path = tmp_path / "two.engine"
    profile = replace(PROFILE, minimum=InputShape(2, 32, 32), optimum=InputShape(2, 64, 64))
    shapes = [[2, 3, 32, 32], [2, 3, 64, 64], [2, 3, 64, 96]]
    write_engine(path, plan_of(profile=shapes), spec=SPEC, profile=profile)
    with TensorRTBackend(path) as backend:
        image = picture(64, 64)
        labels = Predictor(backend, size=(64, 64), batch=2)(image).labels
        expected = Predictor(backend, size=(64, 64), batch=2, on_device=False)(image).labels
    assert np.mean(labels == expected) > 0.999


def test_logits_that_are_not_finite(
    backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FakeContext._output

    def broken(name: str, image: NDArray[np.float32]) -> NDArray[np.float32]:
        output = real(name, image)
        output[0, 3, 5, 6] = np.inf
        return output

    predictor = Predictor(backend, size=(64, 64))
    predictor(picture(64, 64))
    monkeypatch.setattr(FakeContext, "_output", staticmethod(broken))
    with pytest.raises(ModelError, match="NaN or infinite"):
        predictor(picture(64, 64))
    monkeypatch.undo()


def test_only_the_first_logits_are_looked_at_on_the_host(
    backend: TensorRTBackend, cuda: FakeCuda
) -> None:
    predictor = Predictor(backend, size=(64, 64))
    copies = []
    for _ in range(3):
        before = cuda.counts["copy_to_host"]
        predictor(picture(64, 64))
        copies.append(cuda.counts["copy_to_host"] - before)
    assert copies == [2, 1, 1]  # the results, and before them the logits


def test_probabilities_on_the_gpu_are_refused(
    backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def softmax(name: str, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full((len(image), 19, 16, 16), 1 / 19, np.float32)

    monkeypatch.setattr(FakeContext, "_output", staticmethod(softmax))
    predictor = Predictor(backend, size=(64, 64))
    assert predictor.on_device
    with pytest.raises(ModelFileError, match="returned probabilities"):
        predictor(picture(64, 64))


@pytest.mark.parametrize(("taken", "given"), [("HALF", "FLOAT"), ("HALF", "HALF")])
def test_the_gpu_prepares_float16_images(
    cuda: FakeCuda, tmp_path: Path, taken: str, given: str
) -> None:
    path = tmp_path / "half.engine"
    tensors = [["image", "INPUT", taken], ["logits", "OUTPUT", given]]
    write_engine(path, plan_of(tensors=tensors), spec=SPEC)
    with TensorRTBackend(path) as backend:
        image = picture(64, 96)
        on_host = Predictor(backend, size=(48, 64), on_device=False)(image)
        on_device = Predictor(backend, size=(48, 64), on_device=True)(image)
        assert np.mean(on_device.labels == on_host.labels) > 0.999


def test_probabilities_are_made_by_the_host(backend: TensorRTBackend, cuda: FakeCuda) -> None:
    predictor = Predictor(backend, size=(32, 32))
    assert predictor.on_device
    before = cuda.counts["launch"]
    assert predictor(picture(32, 32), probabilities=True).probabilities is not None
    assert cuda.counts["launch"] == before


@pytest.mark.parametrize("arguments", [{"mode": "slide", "tile": 48}, {"flip": True}])
def test_averaging_happens_on_the_host(backend: TensorRTBackend, arguments: dict[str, Any]) -> None:
    assert not Predictor(backend, **arguments).on_device
    with pytest.raises(OptionError, match="logits are averaged"):
        Predictor(backend, on_device=True, **arguments)


def test_an_engine_that_returns_labels(cuda: FakeCuda, tmp_path: Path) -> None:
    path = tmp_path / "labels.engine"
    spec = replace(SPEC, export=replace(EXPORT, output=OutputKind.LABELS))
    write_engine(path, plan_of("labels", "UINT8"), spec=spec)
    with TensorRTBackend(path) as backend:
        assert not Predictor(backend).on_device
        with pytest.raises(OptionError, match="returns or takes something else"):
            Predictor(backend, on_device=True)


def test_without_nvrtc_the_host_does_it(
    backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*sources: str) -> None:
        raise MissingDependencyError("no NVRTC", "NVRTC", "pip install nvidia-cuda-nvrtc")

    monkeypatch.setattr(backend._kernels, "load", missing)
    assert not Predictor(backend).on_device
    assert "pip install nvidia-cuda-nvrtc" in caplog.text
    with pytest.raises(MissingDependencyError):
        Predictor(backend, on_device=True)


@pytest.mark.parametrize(
    ("driver", "advice"),
    [
        ((12, 6), "pip install 'cuda-python<13' nvidia-cuda-nvrtc-cu12"),
        ((99, 0), "update the driver; or pass on_device=False"),
        (None, "update the driver; or pass on_device=False"),
    ],
)
def test_kernels_that_the_driver_does_not_load(
    driver: tuple[int, int] | None,
    advice: str,
    backend: TensorRTBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cubin of NVRTC 13 needs a driver of release 580 or newer."""
    monkeypatch.setattr(kernels, "driver_cuda_version", lambda: driver)
    cuda = backend._gpu
    assert isinstance(cuda, FakeCuda)
    cuda.failing.add("load_module")
    assert not Predictor(backend).on_device
    (message,) = [record.getMessage() for record in caplog.records]
    assert "the CPU prepares images and labels pixels, which is slower" in message
    assert advice in message
    with pytest.raises(MissingDependencyError, match="does not load the kernels that NVRTC"):
        Predictor(backend, on_device=True)
    if "pip" in advice:
        require_installable(message)
    cuda.failing.clear()
    assert Predictor(backend).on_device


@pytest.mark.parametrize("wrong", ["mean", "labels"])
def test_kernels_that_are_wrong_here_are_not_used(
    backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    real = FakeCuda._run_kernel

    def run(self: FakeCuda, kernel: str, params: Any, blocks: int, threads: int) -> None:
        if kernel.startswith("preprocess") and wrong == "mean":
            params["mean"] += 0.6
        elif kernel.startswith("upsample") and wrong == "labels":
            params["width"] -= 1
        real(self, kernel, params, blocks, threads)

    monkeypatch.setattr(FakeCuda, "_run_kernel", run)
    for wanted in (True, None):
        with pytest.raises(CudaError, match=r"images differ .* grey levels, and .* labels agree"):
            Predictor(backend, on_device=wanted)
    assert not Predictor(backend, on_device=False).on_device


def test_on_the_cpu_it_is_an_error(small_checkpoint: Path, small_onnx: Path) -> None:
    for model in (small_checkpoint, small_onnx):
        assert not Predictor(model).on_device
        with pytest.raises(OptionError, match=r"on_device=True was asked for|runs on the CPU"):
            Predictor(model, on_device=True)
