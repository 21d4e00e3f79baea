"""Counts the pixels that two loaded models label alike, and leaves the judgement to `verify`."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Image, InputShape, Size
from alignseg_infer.backend import Backend
from alignseg_infer.errors import VerificationError
from alignseg_infer.pixels.network_output import returns_probabilities
from alignseg_infer.pixels.postprocess import remap_labels, scores_from_logits
from alignseg_infer.pixels.preprocess import network_input
from alignseg_infer.progress import Progress
from alignseg_infer.spec.remapping import RemapSpec
from alignseg_infer.spec.verification import VerifiedRow


def compare_labels(
    model: Backend,
    reference: Backend,
    images: Sequence[Image],
    shapes: Sequence[InputShape],
    progress: Progress | None = None,
) -> tuple[VerifiedRow, ...]:
    """Run both models at each of `shapes`; every image is in at least one batch at every size.

    Args:
        model: The model to check.
        reference: What to check it against; it runs one image at a time.
        images: One or more (H, W, 3) uint8 BGR images.
        shapes: Input shapes to run `model` at.
        progress: Called with the number of images compared and their total.

    Returns:
        One row for each of `shapes`.

    Raises:
        VerificationError: An output has the wrong shape, or is not finite.
    """
    by_size: dict[Size, list[int]] = {}
    for shape in shapes:
        by_size.setdefault((shape.height, shape.width), []).append(shape.batch)
    work = [
        (size, batch, group)
        for size, batches in by_size.items()
        for batch, group in _split_into_batches(_make_distinct(images, max(batches)), batches)
    ]
    total, done = sum(batch for _, batch, _ in work), 0
    pairs: dict[InputShape, list[_ImageAgreement]] = {}
    for size, batch, group in work:
        pairs.setdefault(InputShape(batch, *size), []).extend(
            _compare_batch(model, reference, group, size)
        )
        done += batch
        if progress:
            progress(done, total)
    return tuple(
        _summarise(shape, pairs[shape]) for shape in sorted(pairs, key=dataclasses.astuple)
    )


@dataclass(frozen=True)
class _ImageAgreement:
    """How far the two models agree on one image."""

    agreement: float
    logits_error: float | None


def _make_distinct(images: Sequence[Image], count: int) -> list[Image]:
    """Return the images; if they are fewer than `count`, add mirrored copies and crops.

    Equal images would hide a mix-up within a batch.
    """
    if len(images) >= count:
        return list(images)
    more: list[Image] = []
    for image in images:
        quarter = image.shape[1] // 4
        more += [image[:, ::-1], image[:, : 3 * quarter], image[:, quarter:]]
    return [*images, *more]


def _split_into_batches(
    images: Sequence[Image], batches: Sequence[int]
) -> Iterator[tuple[int, list[Image]]]:
    """Split images into batches of each size in turn, until every image and size was used."""
    endless = itertools.cycle(images)
    used = 0
    for turn, batch in enumerate(itertools.cycle(batches)):
        if used >= len(images) and turn >= len(batches):
            return
        yield batch, list(itertools.islice(endless, batch))
        used += batch


def _compare_batch(
    model: Backend, reference: Backend, images: list[Image], size: Size
) -> list[_ImageAgreement]:
    owned = [np.ascontiguousarray(image) for image in images]
    tensors = [network_input(image, size, model.spec) for image in owned]
    outputs = model.infer(np.concatenate(tensors))  # (N, K, h, w), or (N, H, W) labels
    if len(outputs) != len(images):
        raise _output_error(model, f"returns {len(outputs)} outputs for {len(images)} images")
    expected = [
        _infer_one(reference, network_input(image, size, reference.spec)) for image in owned
    ]
    return [
        _compare_outputs(model, reference, *both, size)
        for both in zip(outputs, expected, strict=True)
    ]


def _infer_one(backend: Backend, tensor: Floats) -> NDArray[np.generic]:
    """Return the output for one image, even if the model was exported for a larger batch."""
    fixed = (backend.spec.export and backend.spec.export.batch) or 1
    output: NDArray[np.generic] = backend.infer(np.repeat(tensor, fixed, axis=0))[0]
    return output


def _compare_outputs(
    model: Backend,
    reference: Backend,
    seen: NDArray[np.generic],
    expected: NDArray[np.generic],
    size: Size,
) -> _ImageAgreement:
    if not np.isfinite(np.asarray(seen, np.float32)).all():
        raise _output_error(model, "returns NaN or infinite logits")
    error = None
    soft = [returns_probabilities(one.spec) for one in (model, reference)]
    if seen.ndim == expected.ndim == 3 and not any(soft):  # logits, (K, h, w)
        if seen.shape != expected.shape:
            raise _output_error(model, f"returns logits {seen.shape} instead of {expected.shape}")
        exact = np.asarray(expected, np.float64)
        difference = np.asarray(seen, np.float64) - exact
        error = float(np.linalg.norm(difference) / np.linalg.norm(exact))
    if any(soft) and seen.shape == expected.shape:  # upsampled probabilities are not those of
        size = (seen.shape[1], seen.shape[2])  # upsampled logits, so compare before
    remaps = [_remap_to_match(*pair) for pair in ((model, reference), (reference, model))]
    labels = _find_labels(seen, size, remaps[0], are_probabilities=soft[0])
    truth = _find_labels(expected, size, remaps[1], are_probabilities=soft[1])
    if labels.shape != truth.shape:
        raise _output_error(model, f"returns labels {labels.shape} instead of {truth.shape}")
    return _ImageAgreement(float(np.mean(labels == truth)), error)


def _remap_to_match(one: Backend, other: Backend) -> RemapSpec | None:
    """Return what to do with the classes of `one`, if the graph of `other` remapped its own."""
    is_done = one.spec.remap is not None and one.spec.remap_to_apply is None
    return None if is_done or other.spec.remap_to_apply is not None else other.spec.remap


def _find_labels(
    output: NDArray[np.generic], size: Size, remap: RemapSpec | None, *, are_probabilities: bool
) -> NDArray[np.generic]:
    if output.ndim == 2:  # labels already, (H, W)
        return output if remap is None else remap_labels(output, remap)  # type: ignore[arg-type]
    floats = np.asarray(output, np.float32)
    return scores_from_logits(floats, size, are_probabilities=are_probabilities, remap=remap).labels


def _summarise(shape: InputShape, pairs: list[_ImageAgreement]) -> VerifiedRow:
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
    """Format the rows as a small text table."""
    lines = [f"  {'input':>14}  images  labels alike  worst image  logits, relative L2"]
    for row in rows:
        error = "-" if row.logits_error is None else f"{row.logits_error:.1e}"
        lines.append(
            f"  {row.shape!s:>14}  {row.images:6}  {row.agreement:12.3%}  "
            f"{row.worst_agreement:11.3%}  {error}"
        )
    return "\n".join(lines)


def _output_error(model: Backend, what: str) -> VerificationError:
    return VerificationError(
        f"the model ({model.name}) {what}",
        "what its reference returns",
        "build it again from that reference; if this stays, report it with the command you typed",
    )
