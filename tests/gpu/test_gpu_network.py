"""The network on a CUDA device: ``python3 -m pytest -m gpu``."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from alignseg_infer import Predictor
from alignseg_infer.backends.torch_backend import TorchBackend
from alignseg_infer.demo.streets import Street
from alignseg_infer.errors import DeviceError
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.models.decoder import upsample
from alignseg_infer.models.rewrites import rewrite_for_inference
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import Upsampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]

needs_cuda_provider = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime was built without CUDA",
)


@pytest.mark.parametrize("size", [(97, 161), (128, 256)])
def test_torch_on_cuda_agrees_with_cpu(small_checkpoint: Path, size: tuple[int, int]) -> None:
    image = probe_image(size, 0)
    on_cpu = Predictor(small_checkpoint)(image, probabilities=True)
    on_cuda = Predictor(small_checkpoint, device="cuda")(image, probabilities=True)
    assert on_cuda.backend == "torch (cuda:0)"
    assert on_cpu.probabilities is not None
    assert on_cuda.probabilities is not None
    # Convolutions may run in TF32 there: ten bits of mantissa. On an H100 one value of 600 thousand
    # was off by 0.0202.
    np.testing.assert_allclose(on_cuda.probabilities, on_cpu.probabilities, atol=4e-2)
    assert np.mean(on_cuda.labels == on_cpu.labels) >= 0.99


def test_offsets_on_cuda_agree_with_cpu(small_checkpoint: Path) -> None:
    """A GPU runs the rewritten network, which computes its offsets differently."""
    spec = load_checkpoint(small_checkpoint).spec
    batch = preprocess(probe_image((97, 161), 0), (97, 161), spec.input)
    seen, expected = (
        TorchBackend(small_checkpoint, device=device).offsets(batch) for device in ("cuda", "cpu")
    )
    assert list(seen) == list(expected)
    for field, offsets in expected.items():
        error = np.linalg.norm(seen[field] - offsets) / np.linalg.norm(offsets)
        assert error <= 2e-2, field  # TF32


@pytest.mark.parametrize("upsampling", Upsampling)
@pytest.mark.parametrize("size", [(32, 32), (33, 250), (97, 161), (128, 256)])
def test_rewritten_network_on_cuda(
    small_checkpoint: Path, size: tuple[int, int], upsampling: Upsampling
) -> None:
    """In float64, which no tensor core rounds, it must be as close as in test_models.py."""
    model = load_checkpoint(small_checkpoint).model().double()
    image = torch.randn(2, 3, *size, dtype=torch.float64) * 60
    with torch.inference_mode():
        expected = model(image).logits
        seen = rewrite_for_inference(model, upsampling).cuda()(image.cuda()).logits.cpu()
    assert torch.linalg.norm(seen - expected) <= 1e-9 * torch.linalg.norm(expected)
    labels = (upsample(logits, size).argmax(1) for logits in (seen, expected))
    assert torch.equal(*labels)


@needs_cuda_provider
@pytest.mark.parametrize("size", [(128, 256), (131, 257)])
def test_onnxruntime_on_cuda_agrees_with_cpu(size: tuple[int, int]) -> None:
    image = Street(0).scene(size=size).image
    on_cpu = Predictor("demo")(image, probabilities=True)
    on_cuda = Predictor("demo", device="cuda")(image, probabilities=True)
    assert on_cuda.backend == "onnxruntime (CUDAExecutionProvider)"
    assert np.mean(on_cuda.labels == on_cpu.labels) >= 0.999
    assert on_cpu.probabilities is not None
    assert on_cuda.probabilities is not None
    np.testing.assert_allclose(on_cuda.probabilities, on_cpu.probabilities, atol=2e-2)  # TF32


@needs_cuda_provider
def test_onnxruntime_names_the_gpu_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match=r"cuda:99.*fell back to CPU.*Invalid device ID: 99"):
        Predictor("demo", device="cuda:99")
    assert capfd.readouterr().out == ""
