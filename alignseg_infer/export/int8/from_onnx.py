"""Turns an FP32 ONNX file into an INT8 graph: calibrates, meets a budget, quantises."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir

from alignseg_infer.datasets.image_sets import DEFAULT_LIMIT, choose_images
from alignseg_infer.export.int8.calibration import CalibrationOptions, calibrate_ranges
from alignseg_infer.export.int8.effect import Effect, EffectMeter
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.quantize import (
    QuantizationOptions,
    choose_convolutions,
    load_graph,
    quantize_model,
)
from alignseg_infer.export.int8.sensitivity import keep_within_budget, require_budget
from alignseg_infer.progress import ProgressBars, no_bar


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How a model becomes INT8.

    Attributes:
        source: Images to calibrate with, as `choose_images` takes them.
        images: At most this many of them.
        calibration: How ranges are found.
        quantization: Which blocks stay float in any case.
        budget: Largest percentage of the pixels of the calibration images that may get a different
            label than in FP32; None for no limit. Blocks stay float until it is met.

    Raises:
        OptionError: The budget is negative.
    """

    source: Path
    images: int = DEFAULT_LIMIT
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            require_budget(self.budget)


@dataclass(frozen=True)
class Int8Model:
    """The result of `int8_from_onnx`.

    Attributes:
        model: The graph, in float32 with Q/DQ.
        ranges: The calibrated ranges.
        options: Which blocks stay float.
        excluded: The blocks that stay float to meet the budget.
        effect: How far it is from FP32 on the calibration images; None without a budget.
    """

    model: onnx_ir.Model
    ranges: Ranges
    options: QuantizationOptions
    excluded: tuple[str, ...] = ()
    effect: Effect | None = None


def int8_from_onnx(path: Path, options: Int8Options, bars: ProgressBars = no_bar) -> Int8Model:
    """Return the INT8 graph of an exported FP32 model.

    Args:
        path: The exported ``.onnx``.
        options: How to calibrate and quantise.
        bars: Opens a progress bar with the given title, such as "calibration images"; like
            `cli.progress.progress_bar`.

    Raises:
        ModelError: The model cannot be used, or computes values that are not finite.
        DatasetError: The images cannot be used.
        OptionError, SizeError: Options cannot be used with this model.
        ExportError: The model cannot be quantised.
        VerificationError: The budget cannot be met.
    """
    model = load_graph(path)
    choose_convolutions(model, options.quantization)  # bad options fail early
    images = choose_images(options.source, options.images)
    with bars("calibration images") as progress:
        ranges = calibrate_ranges(path, images, options.calibration, progress)
    if options.budget is None:
        result = quantize_model(model, ranges, options.quantization)
        return Int8Model(result, ranges, options.quantization)
    with tempfile.TemporaryDirectory() as folder, bars("models compared with FP32") as progress:
        size, threads = options.calibration.size, options.calibration.threads
        meter = EffectMeter(path, images, Path(folder), size=size, threads=threads)
        found = keep_within_budget(
            model, ranges, meter, options.budget, options.quantization, progress=progress
        )
    result = quantize_model(model, ranges, found.options)
    return Int8Model(result, ranges, found.options, found.excluded, found.effect)
