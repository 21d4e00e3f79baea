"""Adapts a recipe to the model, and to what will run the graph."""

import logging
from dataclasses import replace
from pathlib import Path

from alignseg_infer.arrays import InputShape
from alignseg_infer.doctor.runtimes import Target
from alignseg_infer.errors import OptionError
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.recipe import Recipe
from alignseg_infer.spec.model import Precision, Sampler, Upsampling
from alignseg_infer.spec.model import Target as HardwareTarget
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.engine_file import Profile

logger = logging.getLogger(__name__)


def choose_sampler(model: Path, recipe: Recipe, target: Target) -> Recipe:
    """Return the recipe with a sampler that is right in `target`, if one is to be chosen.

    Raises:
        ExportError: None is.
    """
    if not recipe.auto_sampler or model.suffix.lower() == ".onnx":
        return recipe
    from alignseg_infer.doctor.sampler import sampler_for

    sampler, reason = sampler_for(target, recipe.precision or Precision.FP32)
    logger.info("sampler='auto': %s", reason)
    graph = replace(recipe.graph or ExportOptions(), sampler=sampler)
    return replace(recipe, graph=graph, sampler_choice=f"sampler chosen by auto: {reason}")


def take_shape(model: Path, recipe: Recipe, options: BuildOptions) -> tuple[Recipe, BuildOptions]:
    """Turn the size and batch that were asked for into the engine's only input shape.

    They do not change the graph of an ``.onnx``, so they leave its recipe.

    Raises:
        OptionError: Input shapes were asked for too.
    """
    graph = recipe.graph
    if model.suffix.lower() != ".onnx" or graph is None or graph.size is None:
        return recipe, options
    if options.profile is not None:
        raise OptionError(
            "size= and opt_shape= were both given",
            "a size for an engine of one size, or opt_shape= and perhaps others for a range",
            "leave out size=",
        )
    shape = InputShape(graph.batch or 1, *graph.size)
    others = replace(graph, size=None, batch=None)
    return (
        replace(recipe, graph=None if others == ExportOptions() else others),
        replace(options, profile=Profile(shape, shape, shape)),
    )


def adapt_to_gpus(recipe: Recipe, options: BuildOptions) -> Recipe:
    """Return the recipe with defaults that suit an engine."""
    graph = recipe.graph or ExportOptions()
    if graph.size and graph.batch is None and options.profile is None:
        graph = replace(graph, batch=1)  # a fixed size alone is meant for single images
    return replace(recipe, graph=replace(graph, upsampling=graph.upsampling or Upsampling.RESIZE))


def adapt_to_target(recipe: Recipe) -> Recipe:
    """Return the recipe of a checkpoint, which upsamples as suits its target unless it says how.

    Resize suits TensorRT, and INT8 on CPUs: OpenVINO keeps its layout there, and takes 0.91 of the
    time that it takes with matrices (demo, 256x512: 27.4 and 30.0 ms). ONNX Runtime takes the same.
    """
    graph = recipe.graph or ExportOptions()
    resize = recipe.target is HardwareTarget.TENSORRT or (
        recipe.target is HardwareTarget.CPU and recipe.precision is Precision.INT8
    )
    if not resize or graph.upsampling is not None:
        return recipe
    return replace(recipe, graph=replace(graph, upsampling=Upsampling.RESIZE))


def sampler_of(recipe: Recipe) -> Sampler:
    """Return the sampler that a checkpoint is exported with."""
    return recipe.graph.sampler if recipe.graph else Sampler.NATIVE
