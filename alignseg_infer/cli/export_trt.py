"""``alignseg export-trt`` and ``export/to_trt.py``: checkpoint or ONNX in, TensorRT engine out."""

import argparse
import sys
import tempfile
from pathlib import Path

from alignseg_infer.cli.arguments import (
    add_checkpoint_arguments,
    choices_of,
    fixed_size,
    require_export_packages,
    require_no_checkpoint_arguments,
)
from alignseg_infer.cli.engine_arguments import add_engine_arguments, build_options_from
from alignseg_infer.demo import model_path
from alignseg_infer.flavours import load_tensorrt
from alignseg_infer.spec import OutputKind, Precision, Sampler

HELP = "Build a TensorRT engine from a checkpoint or an exported model."
EXAMPLE = "Example: python export/to_trt.py CS_scenes.pth -o alignseg.engine --opt 1x1024x2048"
GRAPH_ARGUMENTS = ("size", "batch", "sampler", "output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "checkpoint", metavar="model", type=Path, help=".onnx of ours, demo, or a checkpoint"
    )
    parser.add_argument(
        "-o", "--output-file", type=Path, required=True, help="the .engine, .plan or .trt to write"
    )
    parser.add_argument(
        "--precision",
        choices=choices_of(Precision),
        help="what it computes in (default: what the model does; fp32 for a checkpoint)",
    )
    add_engine_arguments(parser)
    graph = parser.add_argument_group("the graph, if the model is a checkpoint")
    graph.add_argument(
        "--size", type=fixed_size, help="fix the input to HEIGHTxWIDTH (default: any size)"
    )
    graph.add_argument("--batch", type=int, help="fix the batch size (default: any; 1 with --size)")
    graph.add_argument(
        "--output",
        choices=choices_of(OutputKind),
        help="logits at 1/4 size, or labels at input size (default: logits)",
    )
    graph.add_argument(
        "--sampler",
        choices=choices_of(Sampler),
        help="how offset sampling is written (default: native)",
    )
    add_checkpoint_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Builds and prints what was written."""
    require_export_packages()
    from alignseg_infer.cli.progress import phase_bars
    from alignseg_infer.export.engine import build_engine, require_engine_name
    from alignseg_infer.export.to_trt import onnx_for_engine

    options = build_options_from(arguments)
    require_engine_name(arguments.output_file)
    load_tensorrt(options.runtime)  # before an export that takes half a minute
    precision = Precision(arguments.precision) if arguments.precision else None
    with tempfile.TemporaryDirectory() as folder:
        exported = _exported(arguments, Path(folder))
        source = onnx_for_engine(exported, Path(folder), precision)
        with phase_bars() as progress:
            engine = build_engine(source, arguments.output_file, options, progress=progress)
    facts = engine.facts
    assert facts.spec.export is not None
    print(
        f"{arguments.output_file} ({len(engine.plan) / 1e6:.0f} MB, {facts.spec.export.precision}, "
        f"{facts.runtime} {facts.runtime_version}, {facts.profile.minimum} to "
        f"{facts.profile.maximum}; built in {engine.seconds:.1f} s, not verified)"
    )
    return 0


def _exported(arguments: argparse.Namespace, folder: Path) -> Path:
    """The model as an ONNX file: what was given, or an export of it in `folder`."""
    model = arguments.checkpoint = model_path(arguments.checkpoint)
    if model.suffix.lower() == ".onnx":
        require_no_checkpoint_arguments(arguments, model, *GRAPH_ARGUMENTS)
        return Path(model)
    from alignseg_infer.cli.checkpoints import describe_assumptions, load_checkpoint_as_asked
    from alignseg_infer.export.onnx_graph import ExportOptions
    from alignseg_infer.export.to_onnx import export_onnx

    only_shape = arguments.size is not None and arguments.opt is None
    options = ExportOptions(
        output=OutputKind(arguments.output or OutputKind.LOGITS),
        sampler=Sampler(arguments.sampler or Sampler.NATIVE),
        size=arguments.size,
        batch=1 if only_shape and arguments.batch is None else arguments.batch,
    )
    checkpoint = load_checkpoint_as_asked(arguments)
    print(describe_assumptions(checkpoint), file=sys.stderr)
    return export_onnx(checkpoint, folder / f"{model.stem}.onnx", options).path
