"""Runs two models on the same images and counts the pixels that they label alike."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, InputShape, Size
from alignseg_infer.backend import Backend
from alignseg_infer.errors import VerificationError
from alignseg_infer.pixels.postprocess import Floats, scores_from_logits
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.progress import Progress
from alignseg_infer.spec.verification import VerifiedRow


def compare(
    model: Backend,
    reference: Backend,
    images: Sequence[Image],
    shapes: Sequence[InputShape],
    progress: Progress | None = None,
) -> tuple[VerifiedRow, ...]:
    """Runs both at each of `shapes`; each image goes into one batch or more of every size.

    Args:
        model: What is checked.
        reference: What it is checked against; runs one image at a time.
        images: One or more (H, W, 3) uint8 BGR images.
        shapes: Input shapes.
        progress: Called with the number of images compared and their total.

    Raises:
        VerificationError: An output has another shape, or is not finite.
    """
    by_size: dict[Size, list[int]] = {}
    for shape in shapes:
        by_size.setdefault((shape.height, shape.width), []).append(shape.batch)
    work = [
        (size, batch, group)
        for size, batches in by_size.items()
        for batch, group in _groups(_distinct(images, max(batches)), batches)
    ]
    total, done = sum(batch for _, batch, _ in work), 0
    pairs: dict[InputShape, list[_Pair]] = {}
    for size, batch, group in work:
        pairs.setdefault(InputShape(batch, *size), []).extend(_pairs(model, reference, group, size))
        done += batch
        if progress:
            progress(done, total)
    return tuple(_row(shape, pairs[shape]) for shape in sorted(pairs, key=dataclasses.astuple))


@dataclass(frozen=True)
class _Pair:
    """How one image came out."""

    agreement: float
    logits_error: float | None


def _distinct(images: Sequence[Image], count: int) -> list[Image]:
    """The images, and where they are fewer than `count` mirrored ones and parts of them.

    Equal images would hide a mix-up within a batch.
    """
    if len(images) >= count:
        return list(images)
    more: list[Image] = []
    for image in images:
        quarter = image.shape[1] // 4
        more += [image[:, ::-1], image[:, : 3 * quarter], image[:, quarter:]]
    return [*images, *more]


def _groups(images: Sequence[Image], batches: Sequence[int]) -> Iterator[tuple[int, list[Image]]]:
    """Splits images into batches of all the sizes by turns, until all of both occurred."""
    endless = itertools.cycle(images)
    used = 0
    for turn, batch in enumerate(itertools.cycle(batches)):
        if used >= len(images) and turn >= len(batches):
            return
        yield batch, list(itertools.islice(endless, batch))
        used += batch


def _pairs(model: Backend, reference: Backend, images: list[Image], size: Size) -> list[_Pair]:
    tensors = [preprocess(np.ascontiguousarray(image), size, model.spec.input) for image in images]
    outputs = model.infer(np.concatenate(tensors))
    if len(outputs) != len(images):
        raise _differs(model, f"returns {len(outputs)} outputs for {len(images)} images")
    expected = [_infer_one(reference, tensor) for tensor in tensors]
    return [_pair(model, *both, size) for both in zip(outputs, expected, strict=True)]


def _infer_one(backend: Backend, tensor: Floats) -> NDArray[np.generic]:
    """The output for one image, also where the model was exported for a batch of several."""
    fixed = (backend.spec.export and backend.spec.export.batch) or 1
    output: NDArray[np.generic] = backend.infer(np.repeat(tensor, fixed, axis=0))[0]
    return output


def _pair(
    model: Backend, seen: NDArray[np.generic], expected: NDArray[np.generic], size: Size
) -> _Pair:
    if not np.isfinite(np.asarray(seen, np.float32)).all():
        raise _differs(model, "returns NaN or infinite logits")
    error = None
    if seen.ndim == expected.ndim == 3:
        if seen.shape != expected.shape:
            raise _differs(model, f"returns logits {seen.shape} instead of {expected.shape}")
        exact = np.asarray(expected, np.float64)
        difference = np.asarray(seen, np.float64) - exact
        error = float(np.linalg.norm(difference) / np.linalg.norm(exact))
    labels, truth = _labels(seen, size), _labels(expected, size)
    if labels.shape != truth.shape:
        raise _differs(model, f"returns labels {labels.shape} instead of {truth.shape}")
    return _Pair(float(np.mean(labels == truth)), error)


def _labels(output: NDArray[np.generic], size: Size) -> NDArray[np.generic]:
    if output.ndim == 2:
        return output
    return scores_from_logits(np.asarray(output, np.float32), size).labels


def _row(shape: InputShape, pairs: list[_Pair]) -> VerifiedRow:
    agreements = [pair.agreement for pair in pairs]
    errors = [pair.logits_error for pair in pairs if pair.logits_error is not None]
    return VerifiedRow(
        shape=shape,
        images=len(pairs),
        agreement=float(np.mean(agreements)),
        worst_agreement=min(agreements),
        logits_error=max(errors) if errors else None,
    )


def format_rows(rows: Sequence[VerifiedRow]) -> str:
    """The rows as a small table for people."""
    lines = [f"  {'input':>14}  images  labels alike  worst image  logits, relative L2"]
    for row in rows:
        error = "-" if row.logits_error is None else f"{row.logits_error:.1e}"
        lines.append(
            f"  {row.shape!s:>14}  {row.images:6}  {row.agreement:12.3%}  "
            f"{row.worst_agreement:11.3%}  {error}"
        )
    return "\n".join(lines)


def _differs(model: Backend, what: str) -> VerificationError:
    return VerificationError(
        f"the model ({model.name}) {what}",
        "what its reference returns",
        "build it again from that reference; if it stays so, report it with the command you typed",
    )
