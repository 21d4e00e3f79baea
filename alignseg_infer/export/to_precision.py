"""Converts a float32 ONNX file to float16 or int8, and compares the two before the file appears."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alignseg_infer.arrays import Image
from alignseg_infer.backends.onnx_domains import read_opsets
from alignseg_infer.errors import ExportError, OptionError
from alignseg_infer.export.graph.onnx_file import load_graph, require_onnx_ending, save_onnx
from alignseg_infer.export.half_precision import to_half_precision
from alignseg_infer.export.int8.from_onnx import Int8Model, int8_from_onnx
from alignseg_infer.export.int8.options import Int8Options, needs_calibration
from alignseg_infer.export.verification.verify import compare, require_agreement
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.progress import ProgressBars, no_bar
from alignseg_infer.spec.model import (
    AGREEMENT_KEY,
    DEFAULT_OPSET,
    OPSETS,
    SPEC_KEY,
    Precision,
    Target,
)
from alignseg_infer.spec.onnx_facts import OnnxFacts, read_onnx_facts
from alignseg_infer.spec.verification import Verification

logger = logging.getLogger(__name__)


def onnx_in_precision(
    source: Path,
    target: Path,
    precision: Precision,
    *,
    int8: Int8Options | None = None,
    images: Sequence[Image] | None = None,
    bars: ProgressBars = no_bar,
    facts: OnnxFacts | None = None,
    min_agreement: float | None = None,
    rejected: Path | None = None,
) -> Verification:
    """Write the float32 model `source` as `target`, in another precision.

    Args:
        source: A float32 ``.onnx`` of this package.
        target: The ``.onnx`` to write.
        precision: ``fp16`` or ``int8``.
        int8: How convolutions are quantised.
        images: Images to compare both on, (H, W, 3) uint8 BGR; None for drawn streets.
        bars: Opens a progress bar with the given title, like `cli.progress.progress_bar`.
        facts: Facts of `source`, if they have already been read.
        min_agreement: As `verify` takes it.
        rejected: Where to keep a file whose labels differ too much; None to keep none.

    Returns:
        The comparison, which is also stored in the file.

    Raises:
        OptionError: `target` does not end in ``.onnx`` or is `source`, or `int8` is missing.
        ModelFileError: `source` is not one of our files.
        ExportError: `source` is not float32, or cannot be converted.
        VerificationError: Too many labels differ.
        OutputError: The file cannot be written.
    """
    require_onnx_ending(target)
    if os.path.exists(target) and os.path.exists(source) and target.samefile(source):
        raise OptionError(
            f"{target} is the float32 model itself",
            "another file, since the float32 model is needed to verify and to quantise again",
            f"destination={source.stem}_{precision}.onnx",
        )
    facts = facts or read_onnx_facts(source)
    if facts.export.precision is not Precision.FP32 or precision is Precision.FP32:
        raise ExportError(
            f"{source} is {facts.export.precision}, and {precision} was asked for",
            "a float32 model, to convert to fp16 or int8",
            "start from the float32 file: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )
    _require_opset(source)
    if precision is Precision.INT8:
        quantized = _quantize(source, facts, int8, bars)
        model, export = quantized.model, quantized.export
    else:
        model, export = load_graph(source), facts.export
    if export.target is not Target.CPU:
        to_half_precision(model)
    export = replace(export, precision=precision, opset=model.opset_imports[""])
    model.metadata_props[SPEC_KEY] = replace(facts.spec, export=export).to_json()
    with write_atomically(target) as temporary:
        save_onnx(model, temporary)
        with bars(f"images compared with {source.name}") as progress:
            found = compare(
                *(temporary, source, images),
                against_sha256=facts.sha256,
                min_agreement=min_agreement,
                progress=progress,
            )
        model.metadata_props[AGREEMENT_KEY] = found.to_json()
        if not found.passed:
            if rejected is not None:
                with write_atomically(rejected) as other:
                    save_onnx(model, other)
            require_agreement(target, found, rejected)
        save_onnx(model, temporary)
    return found


def _require_opset(source: Path) -> None:
    """Raise ExportError if another tool has converted the model to an opset that we do not write.

    TensorRT up to 11.1 reads GridSample of opset 20 and above wrongly.
    """
    opset = read_opsets(source).get("", OPSETS[0])
    if opset not in OPSETS:
        raise ExportError(
            f"{source} has ONNX opset {opset}",
            f"opset {OPSETS[0]} to {OPSETS[-1]}, as this package exports",
            "use the file from before its opset was converted, or export the checkpoint again: "
            f"alignseg export-onnx CHECKPOINT -o MODEL.onnx --opset {DEFAULT_OPSET}",
        )


def _quantize(
    source: Path, facts: OnnxFacts, options: Int8Options | None, bars: ProgressBars
) -> Int8Model:
    if options is None:
        raise needs_calibration()
    result = int8_from_onnx(source, options, bars, facts)
    if result.excluded:
        logger.info("blocks kept in float to meet the budget: %s", ", ".join(result.excluded))
    return result
