"""Compares an exported model with the PyTorch network it was made from, by running both."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from alignseg_infer.backends import Backend
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.errors import ParityError
from alignseg_infer.images import Image
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.decoder import upsample
from alignseg_infer.postprocess import label_dtype
from alignseg_infer.preprocess import Size, preprocess
from alignseg_infer.spec import OutputKind

LOGITS_TOLERANCE = 1e-4  # relative L2
LABELS_TOLERANCE = 1e-3  # share of pixels; float32 rounding decides ties differently
# None of them is the traced size: odd, indivisible by 4, portrait.
PROBE_SIZES: tuple[Size, ...] = ((97, 161), (150, 262), (190, 101))
PROBE_BATCHES = (1, 2)


@dataclass(frozen=True)
class Comparison:
    """One run of both.

    Attributes:
        batch: Images.
        height: Input height.
        width: Input width.
        error: Relative L2 error of the logits; for labels, the share of pixels that differ.
    """

    batch: int
    height: int
    width: int
    error: float


def compare_with_model(path: Path, model: AlignSeg) -> list[Comparison]:
    """Runs the file at `path` in ONNX Runtime on the CPU, against `model`.

    A model of any size runs at three sizes it was not traced at, with one and two images; a model
    of fixed size runs three times.

    Raises:
        ModelFileError: ONNX Runtime cannot load the file.
        ParityError: Shapes differ, or an error is above the tolerance.
    """
    backend = OnnxRuntimeBackend(path)
    rows = [_compare(backend, model, batch, size, seed) for seed, (batch, size) in _cases(backend)]
    output = OutputKind.LOGITS if backend.spec.export is None else backend.spec.export.output
    tolerance = LOGITS_TOLERANCE if output is OutputKind.LOGITS else LABELS_TOLERANCE
    worst = max(rows, key=lambda row: row.error)
    if not worst.error <= tolerance:  # also when it is NaN
        raise ParityError(
            f"the exported {output} differ from PyTorch's by {worst.error:.2g} at "
            f"{worst.batch}x3x{worst.height}x{worst.width}",
            f"at most {tolerance:g}",
            "another --sampler or --opset, or --no-rewrites; nothing was written",
        )
    return rows


def format_comparisons(rows: list[Comparison], output: OutputKind) -> str:
    """The rows as a small table for people."""
    title = "relative L2 error" if output is OutputKind.LOGITS else "share of labels that differ"
    lines = [f"  {'input':>16}  {title}"]
    lines += [f"  {f'{r.batch}x3x{r.height}x{r.width}':>16}  {r.error:.2e}" for r in rows]
    return "\n".join(lines)


def _cases(backend: Backend) -> Iterator[tuple[int, tuple[int, Size]]]:
    export = backend.spec.export
    assert export is not None
    sizes = [export.size] * len(PROBE_SIZES) if export.size else list(PROBE_SIZES)
    batches = [export.batch] if export.batch else list(PROBE_BATCHES)
    return enumerate((batch, size) for size in sizes for batch in batches)


def _compare(backend: Backend, model: AlignSeg, batch: int, size: Size, seed: int) -> Comparison:
    images = [probe_image(size, seed * 16 + index) for index in range(batch)]
    tensor = np.concatenate([preprocess(image, size, backend.spec.input) for image in images])
    exported = backend.infer(tensor)
    with torch.inference_mode():
        logits = model(torch.from_numpy(tensor)).logits
        if exported.ndim == 3:
            labels = upsample(logits, size).argmax(1).numpy()
            expected = labels.astype(label_dtype(model.spec.num_classes))
        else:
            expected = logits.numpy()
    if exported.shape != expected.shape or exported.dtype != expected.dtype:
        raise ParityError(
            f"the exported model returns {exported.dtype} {exported.shape} for {tensor.shape}",
            f"{expected.dtype} {expected.shape}",
            "report this with the command you typed; nothing was written",
        )
    return Comparison(batch, *size, _difference(exported, expected))


def _difference(seen: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    if seen.ndim == 3:
        return float(np.mean(seen != expected))
    error = np.asarray(seen, np.float64) - np.asarray(expected, np.float64)
    return float(np.linalg.norm(error) / np.linalg.norm(np.asarray(expected, np.float64)))


def probe_image(size: Size, seed: int) -> Image:
    """A colourful image of smooth blobs and some noise: (H, W, 3) uint8, BGR."""
    draw = np.random.default_rng(seed)
    blobs = draw.uniform(0, 255, (6, 8, 3)).astype(np.float32)
    smooth = cv2.resize(blobs, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(smooth + draw.normal(0, 8, smooth.shape), 0, 255)
    return np.asarray(noisy, np.uint8)
