"""From an FP32 ONNX file to its INT8 graph: calibrate, stay within a budget, quantise."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx_ir

from alignseg_infer.datasets.image_sets import calibration_images
from alignseg_infer.export.int8.calibration import calibrated_ranges
from alignseg_infer.export.int8.effect import Comparison, Effect
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.options import Int8Options, QuantizationOptions
from alignseg_infer.export.int8.quantize import (
    chosen_convolutions,
    loaded_graph,
    quantized_model,
)
from alignseg_infer.export.int8.sensitivity import within_budget
from alignseg_infer.export.progress import ProgressBars, no_bar
from alignseg_infer.spec.onnx_facts import OnnxFacts


@dataclass(frozen=True)
class Int8Model:
    """What `int8_from_onnx` made.

    Attributes:
        model: The graph, in float32 with Q/DQ.
        ranges: What it was calibrated to.
        options: What stays float.
        excluded: Blocks that stay float for the budget.
        effect: How far it is from FP32 on the calibration images; None without a budget.
    """

    model: onnx_ir.Model
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
    """The INT8 graph of an exported FP32 model.

    Args:
        path: The ``.onnx``.
        options: How.
        bars: Gives a progress function for what is counted, such as "calibration images"; like
            `cli.progress.progress_bar`.
        facts: Those of `path`, if they were read already.

    Raises:
        ModelError: The model cannot be used, or computes values that are not finite.
        DatasetError: The images cannot be used.
        OptionError, SizeError: Options cannot be used with this model.
        ExportError: It cannot be quantised.
        VerificationError: The budget cannot be met.
    """
    model = loaded_graph(path)
    chosen_convolutions(model, options.quantization)  # refuses before anything takes long
    images = calibration_images(options.source, options.max_images)
    with bars("calibration images") as progress:
        ranges = calibrated_ranges(path, images, options.calibration, progress, facts)
    if options.budget is None:
        result = quantized_model(model, ranges, options.quantization)
        return Int8Model(result, ranges, options.quantization)
    with tempfile.TemporaryDirectory() as folder, bars("models compared with FP32") as progress:
        size, threads = options.calibration.size, options.calibration.threads
        comparison = Comparison(path, images, Path(folder), size=size, threads=threads)
        found = within_budget(
            model, ranges, comparison, options.budget, options.quantization, progress=progress
        )
    result = quantized_model(model, ranges, found.options)
    return Int8Model(result, ranges, found.options, found.excluded, found.effect)
