"""Compares an exported ONNX file with its PyTorch network, value by value, at export time.

The other checks compare two files; this one shows that the first file is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alignseg_infer.arrays import Size
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.errors import ParityError
from alignseg_infer.export.verification.probes import list_cases, probe_images
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.decoder import upsample
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.forms import label_dtype
from alignseg_infer.spec.model import OutputKind

LOGITS_TOLERANCE = 1e-4  # relative L2
LABELS_TOLERANCE = 1e-3  # share of pixels; float32 rounding may break ties differently


@dataclass(frozen=True)
class Comparison:
    """The errors of one run of both, PyTorch and ONNX Runtime.

    Attributes:
        batch: Number of images.
        height: Input height.
        width: Input width.
        error: Relative L2 error of the logits; for labels, the share of pixels that differ.
        offset_error: Largest relative L2 error of an offset field; None if none is exported.
    """

    batch: int
    height: int
    width: int
    error: float
    offset_error: float | None = None


def compare_with_pytorch(path: Path, model: AlignSeg) -> list[Comparison]:
    """Compare the file at `path`, run in ONNX Runtime on the CPU, with the PyTorch `model`.

    Plugin nodes run as the standard nodes that `plugin_nodes` writes for them. This checks what
    goes into the plugins and what happens to their results, but not the plugins themselves.

    A model that takes any size runs at three sizes other than the traced one, with one and two
    images; a model of fixed size runs three times.

    Raises:
        ModelFileError: ONNX Runtime cannot load the file.
        ParityError: Shapes differ, or an error is above the tolerance.
    """
    # Needs the package onnx_ir, which machines that only run the GPU tests may not have.
    from alignseg_infer.export.graph.plugin_nodes import runnable_onnx  # noqa: PLC0415

    with runnable_onnx(path) as file:
        backend = OnnxRuntimeBackend(file)
    export = backend.spec.export
    assert export is not None
    rows = [_compare(backend, model, batch, size, seed) for seed, batch, size in list_cases(export)]
    output = export.output
    tolerance = LOGITS_TOLERANCE if output is OutputKind.LOGITS else LABELS_TOLERANCE
    for row in rows:
        _require_close(row, output, row.error, tolerance)
        _require_close(row, "offsets", row.offset_error or 0.0, LOGITS_TOLERANCE)
    return rows


def _require_close(row: Comparison, what: str, error: float, tolerance: float) -> None:
    if not error <= tolerance:  # also when it is NaN
        raise ParityError(
            f"the exported {what} differ from PyTorch's by {error:.2g} at "
            f"{row.batch}x3x{row.height}x{row.width}",
            f"at most {tolerance:g}",
            "try another sampler= or opset=, or rewrites=False; nothing was written",
        )


def format_comparisons(rows: Sequence[Comparison], output: OutputKind) -> str:
    """Format the rows as a small text table; `output` is what PyTorch's graph returned."""
    title = "relative L2 error" if output is OutputKind.LOGITS else "share of labels that differ"
    lines = [f"  {'input':>16}  {title}"]
    for row in rows:
        offsets = "" if row.offset_error is None else f"  offsets {row.offset_error:.2e}"
        size = f"{row.batch}x3x{row.height}x{row.width}"
        lines.append(f"  {size:>16}  {row.error:.2e}{offsets}")
    return "\n".join(lines)


def _compare(
    backend: OnnxRuntimeBackend, model: AlignSeg, batch: int, size: Size, seed: int
) -> Comparison:
    images = probe_images(size, seed, batch)
    tensor = np.concatenate([preprocess(image, size, backend.spec.input) for image in images])
    exported = backend.infer(tensor)
    with torch.inference_mode():
        outputs, offsets = model.forward_with_offsets(torch.from_numpy(tensor))
        expected = outputs.logits.numpy()  # (N, K, H/4, W/4)
        if exported.ndim == 3:
            labels = upsample(outputs.logits, size).argmax(1).numpy()  # (N, H, W)
            expected = labels.astype(label_dtype(model.spec.num_classes))
    error = _measure_difference(exported, expected)
    if not backend.has_offsets:
        return Comparison(batch, *size, error)
    seen = backend.offsets(tensor)
    errors = [_measure_difference(seen[field], offset.numpy()) for field, offset in offsets.items()]
    return Comparison(batch, *size, error, float(np.max(errors)))  # NaN if any error is


def _measure_difference(seen: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    if seen.shape != expected.shape or seen.dtype != expected.dtype:
        raise ParityError(
            f"the exported model returns {seen.dtype} {seen.shape}",
            f"{expected.dtype} {expected.shape}",
            "report this with the command you typed; nothing was written",
        )
    if seen.ndim == 3:  # labels
        return float(np.mean(seen != expected))
    reference = np.asarray(expected, np.float64)
    error = float(np.linalg.norm(np.asarray(seen, np.float64) - reference))
    length = float(np.linalg.norm(reference))
    if length == 0:  # as with offsets that training has left at their initial 0
        return 0.0 if error == 0 else float("inf")
    return error / length
