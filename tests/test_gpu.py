"""What needs a CUDA device: ``python3 -m pytest -m gpu``."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from alignseg_infer import Predictor
from alignseg_infer.export.parity import probe_image

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]


@pytest.mark.parametrize("size", [(97, 161), (128, 256)])
def test_torch_on_cuda_agrees_with_cpu(small_checkpoint: Path, size: tuple[int, int]) -> None:
    image = probe_image(size, 0)
    on_cpu = Predictor(small_checkpoint)(image, probabilities=True)
    on_cuda = Predictor(small_checkpoint, device="cuda")(image, probabilities=True)
    assert on_cuda.backend == "torch (cuda:0)"
    assert on_cpu.probabilities is not None
    assert on_cuda.probabilities is not None
    # Convolutions may run in TF32 there: ten bits of mantissa.
    np.testing.assert_allclose(on_cuda.probabilities, on_cpu.probabilities, atol=2e-2)
    assert np.mean(on_cuda.labels == on_cpu.labels) >= 0.99


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime was built without CUDA",
)
def test_onnxruntime_on_cuda_agrees_with_cpu(small_onnx: Path) -> None:
    image = probe_image((97, 161), 0)
    on_cpu = Predictor(small_onnx)(image)
    on_cuda = Predictor(small_onnx, device="cuda")(image)
    assert on_cuda.backend == "onnxruntime (CUDAExecutionProvider)"
    assert np.mean(on_cuda.labels == on_cpu.labels) >= 0.99
