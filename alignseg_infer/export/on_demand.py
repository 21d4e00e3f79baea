"""Builds an engine for an ``.onnx`` file when a `Predictor` needs it."""

from contextlib import nullcontext
from pathlib import Path

from alignseg_infer.export.make import EngineReport, make_engine
from alignseg_infer.export.recipe import Recipe
from alignseg_infer.progress import ProgressBars, no_bar
from alignseg_infer.spec.model import Precision
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.builder.progress import PhaseBars


def build_on_demand(
    model: Path,
    precision: Precision | None,
    options: BuildOptions,
    destination: Path,
    *,
    bars: ProgressBars = no_bar,
    phases: PhaseBars = nullcontext,
) -> EngineReport:
    """Build and verify an engine, as `export_engine` does.

    Args:
        model: The ``.onnx`` file.
        precision: What it is converted to; None if it is built as it is.
        options: How to build the engine.
        destination: The plan file to write.
        bars: As in `make_engine`.
        phases: As in `make_engine`.

    Raises:
        AlignSegError: As `make_engine` does.
    """
    recipe = Recipe(precision=precision, keep_rejected=False)
    return make_engine(model, destination, recipe, options, bars=bars, phases=phases)
