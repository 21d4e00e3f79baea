"""Verifies a model on images that a user names, and records the result beside an engine."""

from dataclasses import replace
from pathlib import Path

from alignseg_infer.demo import model_path
from alignseg_infer.errors import VerificationError
from alignseg_infer.export.verification.options import VerificationOptions
from alignseg_infer.export.verification.verify import verify
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.progress import Progress
from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, read_facts, sidecar_path


def verify_and_record(
    model: str | Path,
    against: str | Path | None,
    options: VerificationOptions | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare `model` with `against`; record in an engine's facts how it was verified.

    If an engine fails, its facts then say that it was not verified.

    Args:
        model: An ``.onnx`` file or an engine.
        against: The float32 ``.onnx`` that `model` was made from, or ``demo``; None for `model`
            itself in ONNX Runtime.
        options: The images, sizes and device to compare with.
        progress: Called with the number of images compared and their total.

    Raises:
        VerificationError: Labels differ in too many pixels, or mean IoU drops too far.
        ModelError: The two were not made from the same model, or one cannot be used.
        DatasetError: Images cannot be used.
        OptionError: An option cannot be used.
    """
    options, path = options or VerificationOptions(), model_path(model)
    data = options.find_labelled()
    images = options.read_images(data)
    try:
        found = verify(
            path,
            against,
            images,
            device=options.device,
            runtime=options.runtime,
            precision=options.precision,
            sizes=options.size,
            data=data,
            min_agreement=options.min_agreement,
            progress=progress,
        )
    except VerificationError:
        _record(path, None)
        raise
    _record(path, found)
    return found


def _record(engine: Path, found: Verification | None) -> None:
    """Write into the facts of an engine how it was verified; None means that it was not."""
    if engine.suffix.lower() not in ENGINE_SUFFIXES:
        return
    facts = replace(read_facts(engine), verification=found)
    with write_atomically(sidecar_path(engine)) as temporary:
        temporary.write_text(facts.to_json(), encoding="utf-8")
