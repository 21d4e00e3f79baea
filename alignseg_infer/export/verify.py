"""Compares any model with the float32 one it came from, on images, in terms of labels.

The same check for ONNX files and TensorRT engines: at every corner of an engine's profile, and at
every batch size up to four, since there were engines that were wrong for batches only
(NVIDIA/TensorRT#4853). The reference runs one image at a time.
"""

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alignseg_infer.backends import Backend, open_backend
from alignseg_infer.backends.cuda import current_gpu
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.engine_file import (
    ENGINE_SUFFIXES,
    InputShape,
    Profile,
    Verification,
    read_facts,
)
from alignseg_infer.errors import MissingDependencyError, ModelError, OptionError, VerificationError
from alignseg_infer.evaluate import Progress, evaluate
from alignseg_infer.export.agreement import compare, format_rows
from alignseg_infer.files import sha256_of
from alignseg_infer.images import Image
from alignseg_infer.labelled import LabelledImages
from alignseg_infer.predictor import Predictor
from alignseg_infer.preprocess import Size, SizePolicy
from alignseg_infer.spec import Precision
from alignseg_infer.streets import Street

logger = logging.getLogger(__name__)

REQUIRED_AGREEMENT = {Precision.FP32: 0.999, Precision.FP16: 0.995, Precision.INT8: 0.98}
ALLOWED_MIOU_DROP = 0.5  # percent points
LARGEST_BATCH = 4
DRAWN_STREETS = 6
DRAWN_SIZE = (256, 512)
LONGEST_SIDE = 1024


def verify(
    model: str | Path,
    reference: str | Path,
    images: Sequence[Image] | None = None,
    *,
    device: str | None = None,
    sizes: Sequence[Size] = (),
    data: LabelledImages | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Checks that `model` labels images as `reference` does.

    Float16 and int8 ONNX models on the CPU are rounded as hardware would, see `half_rounding`.

    Args:
        model: An ``.onnx`` file or an engine.
        reference: The float32 ``.onnx`` it came from; runs in ONNX Runtime on the CPU.
        images: BGR images (H, W, 3) uint8; they are resized to each size. None for streets drawn
            by `alignseg_infer.streets`.
        device: Where `model` runs; None for what its kind implies.
        sizes: Input sizes (height, width) for an ONNX model that takes any; by default that of
            the first image, scaled to 1024 pixels at most. Engines are run at the corners of their
            profile.
        data: Labelled images, to compare mean IoU too.
        progress: Called with the number of images compared and their total.

    Returns:
        What was compared; all of it met the thresholds.

    Raises:
        VerificationError: Labels differ in too many pixels, or mean IoU drops too far.
        ModelError: The two have not the same classes or prepare images differently.
        OptionError: There is no image.
    """
    path, reference = model_path(model), model_path(reference)
    if images is not None and not len(images):
        raise OptionError("no images to verify with", "one or more", "--images FOLDER")
    expected = open_backend(reference)
    seen = open_for_verification(path, device)
    _require_same_task(seen, expected)
    shapes = _shapes(path, seen, images, sizes)
    rows = compare(
        seen, expected, drawn_streets(shapes) if images is None else images, shapes, progress
    )
    found = Verification(
        reference=reference.name,
        reference_sha256=sha256_of(reference),
        backend=seen.name,
        images="drawn streets" if images is None else f"{len(images)} images",
        required_agreement=REQUIRED_AGREEMENT[precision_of(seen)],
        rows=rows,
    )
    require_agreement(path, found)
    return _with_miou(path, found, seen, expected, data) if data else found


def verify_where_possible(
    engine: Path,
    reference: Path,
    images: Sequence[Image] | None = None,
    progress: Progress | None = None,
) -> Verification | None:
    """`verify`, where there is a GPU that runs the engine; else None, and the log says so.

    Raises:
        VerificationError, ModelError, OptionError: As `verify` does.
    """
    reason = _why_not_here(read_facts(engine).compute_capabilities)
    if reason is None:
        return verify(engine, reference, images, progress=progress)
    logger.warning(
        "built, not verified (%s); where it is to run: alignseg verify %s --against FLOAT32.onnx "
        "--images FOLDER",
        reason,
        engine.name,
    )
    return None


def _why_not_here(built_for: Sequence[str]) -> str | None:
    """Why an engine for these compute capabilities (none: all) cannot run here, if so."""
    try:
        gpu = current_gpu()
    except MissingDependencyError as error:
        return error.problem
    if gpu is None:
        return "no GPU here"
    if built_for and gpu.compute_capability not in built_for:
        return f"this GPU is {gpu.name}, of compute capability {gpu.compute_capability}"
    return None


def open_for_verification(path: Path, device: str | None = None) -> Backend:
    """Loads a model as it should be verified: float16 on the CPU rounds like hardware."""
    backend = open_backend(path, device=device)
    on_cpu = "CPU" in backend.name
    if not on_cpu or path.suffix.lower() != ".onnx" or precision_of(backend) is Precision.FP32:
        return backend
    # Of the extra `export`, which verifying engines does not need.
    import onnx_ir

    from alignseg_infer.export.half_rounding import round_like_hardware
    from alignseg_infer.export.onnx_file import save_onnx

    graph = onnx_ir.load(path)
    round_like_hardware(graph)
    with tempfile.TemporaryDirectory() as folder:
        rounding = Path(folder) / path.name
        save_onnx(graph, rounding)
        backend = open_backend(rounding)
    backend.name += ", rounding to float16"
    return backend


def precision_of(backend: Backend) -> Precision:
    """What the model computes in."""
    return backend.spec.export.precision if backend.spec.export else Precision.FP32


def drawn_streets(shapes: Sequence[InputShape]) -> list[Image]:
    """Streets of the largest of the sizes, none of which the demo model was trained on."""
    size = max((min(shape.height, 4096), min(shape.width, 4096)) for shape in shapes)
    return [Street(FIRST_HELD_OUT + seed).scene(size=size).image for seed in range(DRAWN_STREETS)]


def require_agreement(model: Path, found: Verification) -> None:
    """Raises VerificationError if a row of `found` is below the threshold."""
    failing = [row for row in found.rows if not row.agreement >= found.required_agreement]
    if failing:
        raise VerificationError(
            f"{model.name} labels pixels otherwise than {found.reference} "
            f"({found.backend}, {found.images}):\n{format_rows(failing)}",
            f"at least {found.required_agreement:.1%} alike in each row",
            "with drawn streets only: --images FOLDER of real ones; for int8: more calibration "
            "images, --int8-budget or --precision fp16; for engines: another TensorRT, or "
            "--sampler gather",
        )


def _with_miou(
    path: Path, found: Verification, seen: Backend, expected: Backend, data: LabelledImages
) -> Verification:
    """Adds by how much mean IoU drops."""
    size = _size_for_data(path, seen)
    predictors = {"reference": Predictor(expected, size=size), "model": Predictor(seen, size=size)}
    scores = evaluate(predictors, data).models
    before, after = (model.confusion.mean_iou for model in scores)
    drop = 100 * float(before - after)
    if not drop <= ALLOWED_MIOU_DROP:
        raise VerificationError(
            f"mean IoU on {data.name} drops from {before:.2%} to {after:.2%} with {path.name}",
            f"a drop of at most {ALLOWED_MIOU_DROP} percent points",
            "more calibration images, --int8-budget, or --precision fp16",
        )
    return dataclasses.replace(found, miou_drop=drop)


def _size_for_data(path: Path, seen: Backend) -> Size | None:
    """The input size to score at: that of the engine or the fixed-size model, else the image's."""
    if path.suffix.lower() in ENGINE_SUFFIXES:
        best = read_facts(path).profile.optimum
        return best.height, best.width
    return seen.spec.export.size if seen.spec.export else None


def _shapes(
    path: Path, seen: Backend, images: Sequence[Image] | None, sizes: Sequence[Size]
) -> list[InputShape]:
    if path.suffix.lower() in ENGINE_SUFFIXES:
        return profile_shapes(read_facts(path).profile)
    export = seen.spec.export
    if not sizes:
        sizes = [(export and export.size) or _default_size(images)]
    batches = [export.batch] if export and export.batch else range(1, LARGEST_BATCH + 1)
    return [InputShape(batch, *size) for size in sizes for batch in batches]


def _default_size(images: Sequence[Image] | None) -> Size:
    """That of the first image, its longest side at most `LONGEST_SIDE`; batches cost memory."""
    if images is None:
        return DRAWN_SIZE
    height, width, _ = images[0].shape
    size = SizePolicy(longest_side=min(LONGEST_SIDE, max(height, width)))
    return size.input_size((height, width))


def profile_shapes(profile: Profile) -> list[InputShape]:
    """The corners of a profile, at every batch size it takes up to `LARGEST_BATCH`."""
    corners = (profile.minimum, profile.optimum, profile.maximum)
    sizes = dict.fromkeys((corner.height, corner.width) for corner in corners)
    least, most = profile.minimum.batch, profile.maximum.batch
    batches = [b for b in range(1, LARGEST_BATCH + 1) if least <= b <= most] or [most]
    return [InputShape(batch, *size) for size in sizes for batch in batches]


def _require_same_task(seen: Backend, expected: Backend) -> None:
    """That both prepare images alike and have the same classes."""
    one, other = seen.spec, expected.spec
    if one.input != other.input or one.classes != other.classes:
        raise ModelError(
            f"{one.network.num_classes} classes ({one.classes.dataset}) and input {one.input} in "
            f"the model, {other.network.num_classes} ({other.classes.dataset}) and {other.input} "
            "in its reference",
            "the same classes and input preparation in both",
            "--against the float32 model that it was made from",
        )
