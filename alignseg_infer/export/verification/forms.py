"""Compares a graph in another form with the plain graph that it was made of."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Size
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.errors import ParityError
from alignseg_infer.export.graph.plugin_nodes import runnable_onnx
from alignseg_infer.export.verification.probes import list_cases, probe_images
from alignseg_infer.pixels.postprocess import remap_labels, scores_from_logits
from alignseg_infer.pixels.preprocess import network_input
from alignseg_infer.spec.model import ExportSpec, OutputKind, OutputSize
from alignseg_infer.spec.remapping import RemapSpec

LOGITS_TOLERANCE = 1e-4  # relative L2
PROBABILITY_TOLERANCE = 1e-3  # largest difference
LABELS_TOLERANCE = 1e-3  # share of pixels; float32 rounding may break ties differently


def compare_form(path: Path, plain: Path) -> None:
    """Compare the file at `path` with `plain`, which returns logits or labels, on the CPU.

    The expected output is made of the plain one by `pixels.postprocess`. Plugin nodes run as the
    standard nodes that `plugin_nodes` writes for them. Sizes and batches are those of `probes`.

    Raises:
        ParityError: They differ by more than float32 rounding.
    """
    with runnable_onnx(path) as file, runnable_onnx(plain) as other:
        seen, expected = OnnxRuntimeBackend(file), OnnxRuntimeBackend(other)
    export = seen.spec.export
    assert export is not None
    for seed, batch, size in list_cases(export):
        images = probe_images(size, seed, batch)
        given, usual = (
            np.concatenate([network_input(image, size, backend.spec) for image in images])
            for backend in (seen, expected)
        )
        remap = seen.spec.remap if expected.spec.remap is None else expected.spec.remap_to_apply
        wanted = _wanted_output(export, remap, expected.infer(usual), size)
        _require_close(export, seen.infer(given), wanted, (batch, *size))


def _wanted_output(
    export: ExportSpec, remap: RemapSpec | None, plain: NDArray[np.generic], size: Size
) -> NDArray[np.generic]:
    """Return what the form should return where the plain graph returns `plain`."""
    if export.output is OutputKind.LOGITS:
        return plain
    if plain.ndim == 3:
        return plain if remap is None else remap_labels(plain, remap)  # type: ignore[arg-type]
    if export.output is OutputKind.LABELS:
        scores = [scores_from_logits(_floats(one), size, remap=remap) for one in plain]
        return np.stack([one.labels for one in scores])
    if export.output_size is OutputSize.QUARTER:
        size = (plain.shape[2], plain.shape[3])
    scores = [scores_from_logits(_floats(one), size, probabilities=True) for one in plain]
    return np.stack([one.probabilities for one in scores if one.probabilities is not None])


def _floats(logits: NDArray[np.generic]) -> NDArray[np.float32]:
    return logits.astype(np.float32, copy=False)


def _require_close(
    export: ExportSpec,
    seen: NDArray[np.generic],
    wanted: NDArray[np.generic],
    shape: tuple[int, int, int],
) -> None:
    if seen.shape != wanted.shape:
        raise _differs(export, shape, f"have the shape {seen.shape} instead of {wanted.shape}")
    if export.output is OutputKind.LABELS:
        error, tolerance = float(np.mean(seen != wanted)), LABELS_TOLERANCE
    else:
        exact = np.asarray(wanted, np.float64)
        difference = np.abs(np.asarray(seen, np.float64) - exact)
        if export.output is OutputKind.PROBABILITIES:
            error, tolerance = float(difference.max()), PROBABILITY_TOLERANCE
        else:
            error = float(np.linalg.norm(difference) / np.linalg.norm(exact))
            tolerance = LOGITS_TOLERANCE
    if not error <= tolerance:  # also when it is NaN
        raise _differs(export, shape, f"differ by {error:.2g}, more than {tolerance:g}")


def _differs(export: ExportSpec, shape: tuple[int, int, int], how: str) -> ParityError:
    batch, height, width = shape
    return ParityError(
        f"the {export.output} of the graph in its new form {how}, at {batch}x3x{height}x{width}",
        "what its plain form returns",
        "another opset=, or another version of ONNX Runtime; nothing was written",
    )
