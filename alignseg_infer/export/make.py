"""Makes graphs and engines: checkpoint → float32 graph → other precision → engine.

Each result is compared with what it was made from before it appears under its name. Each step
loads the packages that it needs, so an ``.onnx`` needs no PyTorch.
"""

import logging
import os
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from alignseg_infer.backends.onnx_backend import warn_if_rejected
from alignseg_infer.demo import model_path
from alignseg_infer.doctor.runtimes import Target
from alignseg_infer.errors import OptionError
from alignseg_infer.export.adapting import (
    adapt_to_gpus,
    adapt_to_target,
    choose_sampler,
    sampler_of,
    take_shape,
)
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.recipe import Recipe
from alignseg_infer.files.reading import user_path
from alignseg_infer.files.writing import require_no_pipe, temporary_folder
from alignseg_infer.models.identify import require_named_as_it_is
from alignseg_infer.packages import require_export_packages
from alignseg_infer.progress import ProgressBars, no_bar
from alignseg_infer.spec.model import ModelSpec, Precision, Upsampling
from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.builder.config import require_builder
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.builder.progress import PhaseBars
from alignseg_infer.trt.engine_file import EngineFacts

if TYPE_CHECKING:  # loads PyTorch, or ONNX
    from alignseg_infer.export.verification.parity import Comparison
    from alignseg_infer.models.checkpoint import Assumption
    from alignseg_infer.spec.onnx_facts import OnnxFacts
    from alignseg_infer.trt.builder.engine import Engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OnnxReport:
    """What `make_onnx` wrote.

    Attributes:
        path: The ONNX file.
        spec: The facts stored in it.
        assumptions: Facts that the checkpoint does not contain and that were assumed.
        comparisons: The float32 graph compared with PyTorch; empty if the model was an ``.onnx``.
        verification: The fp16 or int8 graph compared with the float32 graph; None for float32.
    """

    path: Path
    spec: ModelSpec
    assumptions: Sequence["Assumption"]
    comparisons: Sequence["Comparison"]
    verification: Verification | None

    @property
    def precision(self) -> Precision:
        """The precision of the graph."""
        return self.spec.export.precision if self.spec.export else Precision.FP32


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What `make_engine` wrote.

    Attributes:
        path: The engine.
        facts: The facts in the JSON file beside it.
        seconds: How long TensorRT took to build it.
        assumptions: Facts that the checkpoint does not contain and that were assumed.
        comparisons: The float32 graph compared with PyTorch; empty if the model was an ``.onnx``.
        graph_verification: The fp16 or int8 graph compared with the float32 graph; None if the
            graph was not converted.
    """

    path: Path
    facts: EngineFacts
    seconds: float
    assumptions: Sequence["Assumption"]
    comparisons: Sequence["Comparison"]
    graph_verification: Verification | None

    @property
    def verification(self) -> Verification | None:
        """The engine compared with the float32 graph; None if it was not verified."""
        return self.facts.verification


@dataclass(frozen=True)
class _Graph:
    """An ONNX file in progress, with its facts (which are read once) and what was found so far."""

    path: Path
    facts: "OnnxFacts"
    assumptions: Sequence["Assumption"] = ()
    comparisons: Sequence["Comparison"] = ()
    verification: Verification | None = None


def make_onnx(
    model: str | Path, destination: str | Path, recipe: Recipe, *, bars: ProgressBars = no_bar
) -> OnnxReport:
    """Write a checkpoint or a float32 ``.onnx`` as an ONNX file; compare it before it appears.

    Args:
        model: A checkpoint; with a precision other than fp32, or for another form, also a float32
            ``.onnx``. ``demo`` is the checkpoint that comes with the package.
        destination: The ``.onnx`` file to write.
        recipe: How to make the graph.
        bars: Opens a progress bar with the given title, such as "images".

    Raises:
        OptionError, SizeError: An argument cannot be used, or not with the others.
        ModelError: The model cannot be used.
        MissingDependencyError: A package is not installed.
        ExportError: The graph cannot be made with these options, or computes wrong results.
        OutputError: The file cannot be written.
    """
    model, destination = user_path(model), user_path(destination)
    require_export_packages(model)
    from alignseg_infer.export.graph.onnx_file import require_onnx_ending

    require_onnx_ending(destination)
    _require_no_fixed_options(model, recipe)
    recipe = choose_sampler(model, recipe, Target.ONNXRUNTIME)
    converts = recipe.precision not in (None, Precision.FP32)
    forms = _asks_for_form(model, recipe)
    if not converts:
        _require_no_gate(recipe)
    if not converts and not forms:
        _require_checkpoint(model)
        return _report_onnx(_make_float32_graph(model, destination, recipe))
    with temporary_folder() as folder:
        graph = _make_float32_graph(model, folder / f"{model.stem}.onnx", recipe)
        if converts:
            target = folder / f"{model.stem}-{recipe.precision}.onnx" if forms else destination
            rejected = _rejected_name(destination, recipe, model)
            graph = _convert(graph, target, recipe, bars, rejected)
        return _report_onnx(_form(graph, destination, recipe) if forms else graph)


def make_engine(
    model: str | Path,
    destination: str | Path,
    recipe: Recipe,
    options: BuildOptions,
    *,
    bars: ProgressBars = no_bar,
    phases: PhaseBars = nullcontext,
) -> EngineReport:
    """Build a TensorRT engine from a checkpoint or an ``.onnx``; verify it where a GPU can run it.

    Args:
        model: A checkpoint, or an ``.onnx`` of this package; ``demo`` is the ``.onnx`` that comes
            with the package.
        destination: The ``.engine``, ``.plan`` or ``.trt`` file to write. Its facts are written to
            a ``.json`` file beside it.
        recipe: How to make the graph. A checkpoint is exported for GPUs: it is upsampled by Resize,
            unless the recipe says otherwise. A size, of either kind of model, means an engine of
            that one size, and of the recipe's batch, or else 1.
        options: How to build the engine.
        bars: Opens a progress bar with the given title, such as "images".
        phases: Opens progress bars for TensorRT's phases.

    Raises:
        AlignSegError: As `make_onnx` and `trt.builder.engine.build_engine` do.
    """
    model, destination = model_path(model), user_path(destination)
    require_export_packages(model)
    from alignseg_infer.trt.builder.engine import require_engine_name, require_signed_integers
    from alignseg_infer.trt.builder.options import profile_for
    from alignseg_infer.trt.builder.plugins import require_plugin_options

    require_engine_name(destination)
    require_no_pipe(destination)
    recipe, options = take_shape(model, recipe, options)
    _require_no_batch(model, recipe)
    _require_no_fixed_options(model, recipe)
    given = _read_given_graph(model)
    if given:
        require_signed_integers(given.facts)  # before questions about its shapes
    require_plugin_options(given.facts.export.sampler if given else sampler_of(recipe), options)
    require_builder(options)  # before an export that takes half a minute
    recipe = choose_sampler(model, recipe, Target(options.flavour.value))
    with temporary_folder() as folder:
        target = folder / f"{model.stem}.onnx"
        reference = given or _make_float32_graph(model, target, adapt_to_gpus(recipe, options))
        profile_for(reference.facts.export, options.profile)  # before calibrating
        graph = reference
        if recipe.precision not in (None, reference.facts.export.precision):
            target = folder / f"{reference.path.stem}-{recipe.precision}.onnx"
            rejected = _rejected_name(destination, recipe, model)
            graph = _convert(reference, target, recipe, bars, rejected)
        if _asks_for_form(model, recipe):
            graph = _form(graph, folder / f"{model.stem}-formed.onnx", recipe)
        command = _verify_command(model, reference, destination)
        engine = _build(
            *(graph, reference, destination, recipe, options),
            command=command,
            bars=bars,
            phases=phases,
        )
    return EngineReport(
        path=destination,
        facts=engine.facts,
        seconds=engine.seconds,
        assumptions=graph.assumptions,
        comparisons=graph.comparisons,
        graph_verification=graph.verification,
    )


def _report_onnx(graph: _Graph) -> OnnxReport:
    return OnnxReport(
        path=graph.path,
        spec=graph.facts.spec,
        assumptions=graph.assumptions,
        comparisons=graph.comparisons,
        verification=graph.verification,
    )


def _require_checkpoint(model: Path) -> None:
    if model.suffix.lower() == ".onnx":
        raise OptionError(
            f"{model} is already an exported model",
            "a checkpoint, or a precision or form to convert the model to",
            "precision='fp16', or output='probabilities'",
        )


def _require_no_gate(recipe: Recipe) -> None:
    """Raise OptionError if a gate was given for a graph that is not converted."""
    if recipe.min_agreement is not None:
        raise OptionError(
            f"min_agreement={recipe.min_agreement:g} was given for a float32 graph, whose values "
            "are compared with PyTorch",
            "a share of labels only with a precision to convert to",
            "precision='fp16', or leave min_agreement= out",
        )


def _require_no_fixed_options(model: Path, recipe: Recipe) -> None:
    """Raise OptionError if an ``.onnx`` was given options that only a checkpoint takes."""
    if model.suffix.lower() == ".onnx" and recipe.fixed:
        raise OptionError(
            f"{recipe.fixed[0]}= cannot change {model}",
            "no such option, since an exported model's facts are fixed; only its form can change",
            "export the checkpoint again with this option",
        )


def _read_given_graph(model: Path) -> _Graph | None:
    """Return the model if it is an ``.onnx``, else None."""
    if model.suffix.lower() != ".onnx":
        return None
    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    require_named_as_it_is(model)
    facts = read_onnx_facts(model)
    warn_if_rejected(model, facts.metadata)
    return _Graph(model, facts)


def _make_float32_graph(model: Path, target: Path, recipe: Recipe) -> _Graph:
    """Return the model itself if it is an ``.onnx``, else export the checkpoint to `target`."""
    if given := _read_given_graph(model):
        return given
    from alignseg_infer.export.to_onnx import onnx_from_checkpoint
    from alignseg_infer.export.verification.parity import format_comparisons
    from alignseg_infer.models.checkpoint import describe_assumptions, load_checkpoint
    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    recipe = adapt_to_target(recipe)
    options = recipe.graph or ExportOptions()
    checkpoint = load_checkpoint(model, recipe.checkpoint)
    logger.info("%s", describe_assumptions(checkpoint))
    report = onnx_from_checkpoint(
        checkpoint, target, options, remark=recipe.sampler_choice, hardware=recipe.target
    )
    logger.info("%s", format_comparisons(report.comparisons, options.traced_output))
    facts = read_onnx_facts(target)
    return _Graph(target, facts, checkpoint.assumptions, report.comparisons)


def _asks_for_form(model: Path, recipe: Recipe) -> bool:
    """Return whether nodes are to be put around the graph for another input or output."""
    if recipe.graph is None:
        return False
    return model.suffix.lower() == ".onnx" or recipe.graph.has_form


def _form(graph: _Graph, target: Path, recipe: Recipe) -> _Graph:
    """Give a graph, of any precision, the recipe's form, and compare the two."""
    from alignseg_infer.export.to_form import onnx_in_form
    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    options = recipe.graph or ExportOptions()
    onnx_in_form(graph.path, target, options, graph.facts)
    logger.info("compared the graph's form, %s, with its plain form", options.output)
    return replace(graph, path=target, facts=read_onnx_facts(target))


def _require_no_batch(model: Path, recipe: Recipe) -> None:
    """Raise OptionError if a batch was given alone for an engine of an ``.onnx``."""
    if model.suffix.lower() == ".onnx" and recipe.graph and recipe.graph.batch is not None:
        raise OptionError(
            f"batch= cannot change {model}",
            "a size too, for an engine of one shape, or opt_shape= for a range",
            f"opt_shape=({recipe.graph.batch}, 512, 1024), or leave batch= out",
        )


def _rejected_name(destination: Path, recipe: Recipe, source: Path) -> Path | None:
    """Return where a graph is kept that is too inexact for `destination`; None to keep none."""
    if not recipe.keep_rejected:
        return None
    name = destination.with_name(f"{destination.stem}.rejected.onnx")
    if os.path.exists(name) and name.samefile(source):  # false without permission, as said later
        return destination.with_name(f"{destination.stem}.rejected-2.onnx")
    return name


def _convert(
    graph: _Graph, target: Path, recipe: Recipe, bars: ProgressBars, rejected: Path | None
) -> _Graph:
    """Convert a float32 graph to the recipe's precision, and compare the two."""
    from alignseg_infer.export.to_precision import onnx_in_precision
    from alignseg_infer.export.verification.agreement import format_rows
    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    precision, int8 = recipe.precision or Precision.FP32, recipe.int8
    if int8 and recipe.graph and recipe.graph.upsampling is Upsampling.MATRICES:
        int8 = replace(int8, keep_matrices=True)  # they were asked for
    found = onnx_in_precision(
        graph.path,
        target,
        precision,
        int8=int8,
        images=recipe.read_verification_images(),
        bars=bars,
        facts=graph.facts,
        min_agreement=recipe.min_agreement,
        rejected=rejected,
    )
    logger.info("compared %s with fp32 on %s, %s:", precision, found.images, found.backend)
    logger.info("%s", format_rows(found.rows))
    return replace(graph, path=target, facts=read_onnx_facts(target), verification=found)


def _verify_command(model: Path, reference: _Graph, engine: Path) -> str:
    """Return the command that compares the engine with its float32 graph, on another machine."""
    float32, before = "FLOAT32.onnx", ""
    if model.suffix.lower() != ".onnx":
        before = f"alignseg export-onnx {shlex.quote(str(model))} -o {float32} && "
    elif reference.facts.export.precision is Precision.FP32:
        float32 = shlex.quote(str(model))
    destination = shlex.quote(str(engine))
    return f"{before}alignseg verify {destination} --against {float32} --images FOLDER"


def _build(
    graph: _Graph,
    reference: _Graph,
    destination: Path,
    recipe: Recipe,
    options: BuildOptions,
    *,
    command: str,
    bars: ProgressBars,
    phases: PhaseBars,
) -> "Engine":
    """Build and write the engine; compare it with the reference where a GPU can run it.

    Where none can, tell the user the `command` that does it elsewhere.
    """
    from alignseg_infer.export.verification.verify import verify_where_possible
    from alignseg_infer.trt.builder.engine import build_engine

    def verify(engine: Path) -> Verification | None:
        with bars("images") as progress:
            images = recipe.read_verification_images()
            return verify_where_possible(
                *(engine, reference.path, images, progress),
                against_sha256=reference.facts.sha256,
                min_agreement=recipe.min_agreement,
                command=command,
            )

    with phases() as progress:
        return build_engine(
            graph.path,
            destination,
            options,
            facts=graph.facts,
            progress=progress,
            verify=verify,
        )
