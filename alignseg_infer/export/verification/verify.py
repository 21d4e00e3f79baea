"""Decides whether a model labels images well enough like the float32 ONNX file it came from.

This module sets the thresholds and passes or refuses; `agreement` does the counting. ONNX files and
TensorRT engines get the same check. It covers every corner of an engine's profile and every batch
size up to four, since some engines were wrong for batches only (NVIDIA/TensorRT#4853). The
reference runs one image at a time.
"""

import dataclasses
import logging
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from alignseg_infer.arrays import Image, InputShape, Size
from alignseg_infer.backend import Backend, LimitedBackend
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.choices import choose
from alignseg_infer.cuda.opening import current_gpu
from alignseg_infer.datasets.labelled import LabelledImages
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.errors import (
    MissingDependencyError,
    ModelError,
    OptionError,
    SizeError,
    VerificationError,
)
from alignseg_infer.evaluation.evaluate import evaluate
from alignseg_infer.export.verification.agreement import compare_labels, format_rows
from alignseg_infer.export.verification.opening import (
    Running,
    open_as,
    open_at_sizes,
    open_exact,
    precision_of,
)
from alignseg_infer.pixels.preprocess import SizePolicy, require_input_size
from alignseg_infer.predictor import Predictor
from alignseg_infer.progress import Progress
from alignseg_infer.spec.model import ModelSpec, Precision
from alignseg_infer.spec.onnx_weights import sha256_with_weights
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT, Verification
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, EngineFacts, Profile, read_facts
from alignseg_infer.trt.flavours import Flavour
from alignseg_infer.trt.runtime.checks import wanted_gpu

logger = logging.getLogger(__name__)

ALLOWED_MIOU_DROP = 0.5  # percentage points
LARGEST_BATCH = 4
# Share of pixels with the same label by what a runtime computes a float32 file in.
REQUIRED_IN = {
    None: 1.0,
    RunPrecision.FP32: REQUIRED_AGREEMENT[Precision.FP32],
    RunPrecision.FP16: REQUIRED_AGREEMENT[Precision.FP16],
    RunPrecision.BF16: 0.995,
}
DRAWN_STREETS = 6
DRAWN_SIZE = (256, 512)
LONGEST_SIDE = 1024


def verify(
    model: str | Path,
    against: str | Path | None,
    images: Sequence[Image] | None = None,
    *,
    device: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    sizes: Sequence[Size] = (),
    data: LabelledImages | None = None,
    against_sha256: str | None = None,
    min_agreement: float | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check that `model` labels images as `against` does.

    Float16 and int8 ONNX models on the CPU round as a GPU would; see `half_rounding`. With a
    runtime, they run in it as they are.

    Args:
        model: An ``.onnx`` file or an engine.
        against: The float32 ``.onnx`` that `model` was made from. It runs in ONNX Runtime on the
            CPU. None for `model` itself, which is then compared in another runtime.
        images: BGR images (H, W, 3) uint8; they are resized to each size. None for streets drawn
            by `alignseg_infer.demo.streets`.
        device: Where `model` runs; None for what the model or `runtime` implies.
        runtime: What runs an ``.onnx``, as `Predictor` takes it.
        precision: What `runtime` computes in, as `Predictor` takes it.
        sizes: Input sizes (height, width) for an ONNX model that takes any size. One image at a
            time runs as in a `Predictor` with this ``size``, for which OpenVINO compiles a graph of
            its own. The default is the size of the first image, scaled to at most 1024 pixels, in
            a model that is opened for any. Engines run at the corners of their profile.
        data: Labelled images, to compare mean IoU as well.
        against_sha256: SHA-256 of the file `against`, if it is already known.
        min_agreement: Share of pixels that must get the same label, 0..1; None for the value of
            `REQUIRED_AGREEMENT`.
        progress: Called with the number of images compared and their total.

    Returns:
        What was compared. All of it met the thresholds.

    Raises:
        VerificationError: Labels differ in too many pixels, or mean IoU drops too far.
        ModelError: The two have different classes or prepare images differently.
        OptionError: `images` is empty, or `min_agreement` is not from 0 to 1.
    """
    path = model_path(model)
    if against is None and runtime is None:
        raise OptionError(
            f"{model} has nothing to be compared with",
            "the float32 .onnx that it was made from, or a runtime, in which a float32 .onnx is "
            "compared with itself in ONNX Runtime",
            "against='alignseg.onnx', or runtime='openvino'",
        )
    reference = path if against is None else model_path(against)
    wanted = None if precision is None else choose(RunPrecision, precision, "precision")
    how = Running(device, runtime, wanted)
    seen, expected = _open_both(path, reference, images, how)
    found = _compare(
        *(path, reference, seen, expected),
        how=how,
        images=images,
        sizes=sizes,
        against_sha256=against_sha256,
        min_agreement=min_agreement,
        progress=progress,
    )
    require_agreement(path, found)
    return _add_miou(path, found, seen, expected, data) if data else found


def compare(
    model: Path,
    against: Path,
    images: Sequence[Image] | None = None,
    *,
    against_sha256: str | None = None,
    min_agreement: float | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare two models as `verify` does, but return the result whether it passes or not."""
    seen, expected = _open_both(model, against, images, Running())
    return _compare(
        *(model, against, seen, expected),
        how=Running(),
        images=images,
        sizes=(),
        against_sha256=against_sha256,
        min_agreement=min_agreement,
        progress=progress,
    )


def _open_both(
    path: Path, reference: Path, images: Sequence[Image] | None, how: Running
) -> tuple[Backend, Backend]:
    if images is not None and not len(images):
        raise OptionError("images= holds no image", "one image or more", "images=FOLDER")
    expected = open_exact(reference)
    seen = open_as(path, how)
    _require_same_task(seen, expected)
    return seen, expected


def _compare(
    path: Path,
    reference: Path,
    seen: Backend,
    expected: Backend,
    *,
    how: Running,
    images: Sequence[Image] | None,
    sizes: Sequence[Size],
    against_sha256: str | None,
    min_agreement: float | None,
    progress: Progress | None,
) -> Verification:
    shapes = _list_shapes(path, seen, expected, images, sizes)
    seen = open_at_sizes(path, how, seen, sizes)
    rows = compare_labels(
        seen,
        expected,
        draw_streets(shapes) if images is None else images,
        shapes,
        progress,
    )
    usual = min(REQUIRED_AGREEMENT[precision_of(seen)], REQUIRED_IN[how.precision])
    gate = usual if min_agreement is None else min_agreement
    return Verification(
        reference=reference.name,
        reference_sha256=against_sha256 or sha256_with_weights(reference),
        backend=seen.name,
        images="drawn streets" if images is None else count_text(len(images), "image"),
        required_agreement=gate,
        rows=rows,
    )


def verify_where_possible(
    engine: Path,
    against: Path,
    images: Sequence[Image] | None = None,
    progress: Progress | None = None,
    *,
    command: str,
    against_sha256: str | None = None,
    min_agreement: float | None = None,
) -> Verification | None:
    """Run `verify` if this machine can run the engine; else log why not and return None.

    The message tells the user the `command` that verifies the engine where it can run.

    Raises:
        VerificationError, ModelError, OptionError: As `verify` does.
    """
    reason = _why_not_here(read_facts(engine))
    if reason is None and precision_of(open_exact(against)) is not Precision.FP32:
        reason = f"{against.name} is not float32"
    if reason is None:
        return verify(
            *(engine, against, images),
            against_sha256=against_sha256,
            min_agreement=min_agreement,
            progress=progress,
        )
    logger.warning(
        "built, not verified (%s); on the machine that will run it, type: %s", reason, command
    )
    return None


def _why_not_here(facts: EngineFacts) -> str | None:
    """Return why an engine with these facts cannot run here, or None."""
    try:
        gpu = current_gpu()
    except MissingDependencyError as error:
        return error.problem
    if gpu is None:
        return "this machine has no GPU"
    if facts.flavour is Flavour.TENSORRT_RTX and not wanted_gpu(facts).accepts(gpu):
        return f"this machine's {gpu.name} has compute capability {gpu.compute_capability}"
    return None


def count_text(number: int, what: str) -> str:
    """Write a number with its noun: ``1 image``, ``2 images``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def draw_streets(shapes: Sequence[InputShape]) -> list[Image]:
    """Draw streets at the largest of the sizes; the demo model was trained on none of them."""
    size = max((min(shape.height, 4096), min(shape.width, 4096)) for shape in shapes)
    return [Street(FIRST_HELD_OUT + seed).scene(size=size).image for seed in range(DRAWN_STREETS)]


def require_agreement(model: Path, found: Verification, kept: Path | None = None) -> None:
    """Raise VerificationError if a row of `found` is below the threshold.

    Args:
        model: The model that was compared.
        found: How it compares.
        kept: Where the model is kept if it is not taken, for the message.
    """
    if found.passed:
        return
    where = (
        "" if kept is None else f"\n  kept for a look: alignseg inspect {shlex.quote(str(kept))}"
    )
    raise VerificationError(
        f"{model.name} labels too many pixels differently from {found.reference} "
        f"({found.backend}, {found.images}):\n{format_rows(found.rows)}{where}",
        f"the same label for at least {found.required_agreement:.1%} of the pixels in each "
        f"row, and {found.required_of_images:.1%} in each image",
        "verify with images of the kind the model is for; for int8, more calibration images, "
        "int8_budget=0.5 or precision='fp16'; for engines, another TensorRT or "
        f"sampler='gather'{_advise_lower_gate(found)}",
    )


def _advise_lower_gate(found: Verification) -> str:
    """Return advice with the largest gate, in hundredths, that the model passes."""
    shares = [min(row.agreement, (1 + row.worst_agreement) / 2) for row in found.rows]
    if not all(map(math.isfinite, shares)):
        return ""
    return f"; or take it as it is: min_agreement={math.floor(100 * min(shares)) / 100}"


def _add_miou(
    path: Path, found: Verification, seen: Backend, expected: Backend, data: LabelledImages
) -> Verification:
    """Add the drop of mean IoU to `found`."""
    size = _size_for_data(path, seen)
    predictors = {
        name: Predictor(backend, size=size, max_pixels=data.max_pixels)
        for name, backend in (("reference", expected), ("model", seen))
    }
    scores = evaluate(predictors, data).models
    before, after = (model.confusion.mean_iou for model in scores)
    drop = 100 * float(before - after)
    if not drop <= ALLOWED_MIOU_DROP:
        raise VerificationError(
            f"mean IoU on {data.name} drops from {before:.2%} to {after:.2%} with {path.name}",
            f"a drop of at most {ALLOWED_MIOU_DROP} percentage points",
            "more calibration images, int8_budget=0.5, or precision='fp16'",
        )
    return dataclasses.replace(found, miou_drop=drop)


def _size_for_data(path: Path, seen: Backend) -> Size | None:
    """Return the size to score at: an engine's best, a model's fixed size, or None for native."""
    if path.suffix.lower() in ENGINE_SUFFIXES:
        best = read_facts(path).profile.optimum
        return best.height, best.width
    return seen.spec.export.size if seen.spec.export else None


def _list_shapes(
    path: Path,
    seen: Backend,
    expected: Backend,
    images: Sequence[Image] | None,
    sizes: Sequence[Size],
) -> list[InputShape]:
    """Return the input shapes to compare at.

    Raises:
        SizeError: A model does not take a size.
        OptionError: Sizes were given for an engine.
    """
    export = seen.spec.export
    fixed = [spec.export.size for spec in (seen.spec, expected.spec) if spec.export]
    if path.suffix.lower() in ENGINE_SUFFIXES:
        if sizes:
            raise OptionError(
                f"size= was given for {path.name}, which runs at the corners of its profile",
                "no size for an engine",
                "leave size= out",
            )
        shapes = profile_shapes(read_facts(path).profile)
    else:
        sizes = sizes or [next(filter(None, fixed), None) or _choose_size(images)]
        batches = [export.batch] if export and export.batch else _batches_of(seen)
        shapes = [InputShape(batch, *size) for size in sizes for batch in batches]
    for shape in shapes:
        size = (shape.height, shape.width)
        require_input_size(size)
        if any(taken not in (None, size) for taken in fixed):
            raise SizeError(
                f"input size {size[0]}x{size[1]}, but model and reference accept "
                f"{' and '.join(_size_text(taken) for taken in fixed)}",
                "a size that both accept",
                "leave size= out, or give a reference that accepts any size",
            )
    return shapes


def _batches_of(seen: Backend) -> range:
    """Return the batch sizes to compare with."""
    least, most = seen.batch_limits if isinstance(seen, LimitedBackend) else (1, LARGEST_BATCH)
    return range(least, max(least, min(most, LARGEST_BATCH)) + 1)


def _size_text(size: Size | None) -> str:
    return "any size" if size is None else f"{size[0]}x{size[1]} only"


def _origin(spec: ModelSpec) -> str:
    network, source = spec.network, "?"
    if spec.source:
        source = f"{spec.source.name} ({spec.source.sha256[:8]}){spec.source.choices}"
    return f"{source}, {network.backbone}, {network.convention}"


def _choose_size(images: Sequence[Image] | None) -> Size:
    """Return the first image's size, at most `LONGEST_SIDE` pixels, since batches cost memory."""
    if images is None:
        return DRAWN_SIZE
    height, width, _ = images[0].shape
    size = SizePolicy(longest_side=min(LONGEST_SIDE, max(height, width)))
    return size.input_size((height, width))


def profile_shapes(profile: Profile) -> list[InputShape]:
    """Return each size of a profile with its smallest, best and largest batch, and all up to 4."""
    corners = (profile.minimum, profile.optimum, profile.maximum)
    sizes = dict.fromkeys((corner.height, corner.width) for corner in corners)
    least, most = profile.minimum.batch, profile.maximum.batch
    few = {batch for batch in range(1, LARGEST_BATCH + 1) if least <= batch <= most}
    batches = sorted(few | {least, profile.optimum.batch, most})
    return [InputShape(batch, *size) for size in sizes for batch in batches]


def _require_same_task(seen: Backend, expected: Backend) -> None:
    """Raise ModelError unless the reference is the float32 model that the other came from."""
    one, other = seen.spec, expected.spec
    if precision_of(expected) is not Precision.FP32:
        raise ModelError(
            f"the reference is {precision_of(expected)}",
            "the float32 model",
            "against= the float32 .onnx that the model was made from",
        )
    # The name does not matter.
    origins = {spec.source and dataclasses.replace(spec.source, name="") for spec in (one, other)}
    if one.network != other.network or len(origins) > 1:
        raise ModelError(
            f"the model was made from {_origin(one)}, its reference from {_origin(other)}",
            "the same checkpoint and network for both",
            "against= the float32 .onnx that it was made from",
        )
    if one.input != other.input or not _label_alike(one, other):
        raise ModelError(
            f"{one.network.num_classes} classes ({one.classes.dataset}) and input {one.input} in "
            f"the model, {other.network.num_classes} ({other.classes.dataset}) and {other.input} "
            "in its reference",
            "the same classes and input preparation in both",
            "against= the float32 .onnx that it was made from",
        )


def _label_alike(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether two models have the same classes; one of them may have remapped its own."""
    if (one.remap is None) == (other.remap is None):
        return (one.classes, one.remap) == (other.classes, other.remap)
    return one.network_classes == other.network_classes
