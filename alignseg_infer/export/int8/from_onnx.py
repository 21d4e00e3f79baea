"""Turns an FP32 ONNX file into an INT8 graph: calibrates, meets a budget, quantises."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir

from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.export.graph.onnx_file import load_graph
from alignseg_infer.export.graph.upsampling import resize_instead_of_matrices
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.export.int8.effect import Effect, EffectMeter
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.image_variety import describe_lack
from alignseg_infer.export.int8.options import Int8Options, QuantizationOptions
from alignseg_infer.export.int8.quantize import (
    choose_convolutions,
    quantize_model,
)
from alignseg_infer.export.int8.sensitivity import keep_within_budget
from alignseg_infer.files.writing import temporary_folder
from alignseg_infer.progress import ProgressBars, no_bar
from alignseg_infer.spec.model import SPEC_KEY, ExportSpec, Target, Upsampling
from alignseg_infer.spec.onnx_facts import OnnxFacts, read_onnx_facts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Model:
    """The result of `int8_from_onnx`.

    Attributes:
        model: The graph, in float32 with Q/DQ.
        export: How the graph was exported, and for which target.
        ranges: The calibrated ranges.
        options: Which blocks stay float.
        excluded: The blocks that stay float to meet the budget.
        effect: How far it is from FP32 on the calibration images; None without a budget.
    """

    model: onnx_ir.Model
    export: ExportSpec
    ranges: Ranges
    options: QuantizationOptions
    excluded: tuple[str, ...] = ()
    effect: Effect | None = None


def int8_from_onnx(
    path: Path,
    options: Int8Options,
    bars: ProgressBars = no_bar,
    facts: OnnxFacts | None = None,
) -> Int8Model:
    """Return the INT8 graph of an exported FP32 model.

    Args:
        path: The exported ``.onnx``.
        options: How to calibrate and quantise.
        bars: Opens a progress bar with the given title, such as "calibration images"; like
            `cli.progress.progress_bar`.
        facts: Those of `path`, if they were read already.

    Raises:
        ModelError: The model cannot be used, or computes values that are not finite.
        DatasetError: The images cannot be used.
        OptionError, SizeError: Options cannot be used with this model.
        ExportError: The model cannot be quantised.
        VerificationError: The budget cannot be met.
    """
    model, facts = load_graph(path), facts or read_onnx_facts(path)
    target = options.quantization.target
    export = replace(facts.export, target=target)
    if target is Target.CPU:
        if export.upsampling is Upsampling.MATRICES and not options.keep_matrices:
            export = replace(export, upsampling=_upsample_by_resize(model, path))
        # so that runtimes run it like the finished file
        model.metadata_props[SPEC_KEY] = replace(facts.spec, export=export).to_json()
    choose_convolutions(model, options.quantization)  # bad options fail early
    images = choose_images(options.source, options.max_images, options.max_pixels)
    if lack := describe_lack(images):
        logger.warning("%s", lack)
    with bars("calibration images") as progress:
        ranges = calibrate_ranges(
            *(path, images, options.calibration, progress, facts), target=target
        )
    if options.budget is None:
        result = quantize_model(model, ranges, options.quantization)
        return Int8Model(result, export, ranges, options.quantization)
    with temporary_folder() as folder, bars("models compared with FP32") as progress:
        size, threads = options.calibration.size, options.calibration.threads
        meter = EffectMeter(path, images, folder, size=size, threads=threads)
        found = keep_within_budget(
            model, ranges, meter, options.budget, options.quantization, progress=progress
        )
    result = quantize_model(model, ranges, found.options)
    return Int8Model(result, export, ranges, found.options, found.excluded, found.effect)


def _upsample_by_resize(model: onnx_ir.Model, path: Path) -> Upsampling:
    """Let Resize upsample, in place, and return how the graph upsamples."""
    if resize_instead_of_matrices(model):
        return Upsampling.RESIZE
    logger.warning(
        "the INT8 graph of %s goes on upsampling by matrices, which is slower, because not all of "
        "them were recognised. If another tool has rewritten the file, start from the one before "
        "that, or from the checkpoint",
        path,
    )
    return Upsampling.MATRICES
