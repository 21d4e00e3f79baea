"""``alignseg export-trt`` and ``export/to_trt.py``: checkpoint or ONNX in, TensorRT engine out."""

import argparse
import tempfile
from pathlib import Path

from alignseg_infer.cli.arguments.engine import add_engine_arguments, build_options_from
from alignseg_infer.cli.arguments.graph import (
    add_graph_arguments,
    add_precision_arguments,
    float32_onnx,
    in_precision,
    require_packages_for,
    require_precision_arguments,
    verification_images,
)
from alignseg_infer.cli.arguments.inference import add_checkpoint_arguments
from alignseg_infer.demo import model_path
from alignseg_infer.spec.model import Precision, Sampler, Upsampling
from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.engine_file import EngineFacts
from alignseg_infer.trt.flavours import load_tensorrt

HELP = "Build a TensorRT engine from a checkpoint or an exported model."
EXAMPLE = (
    "Example: python export/to_trt.py CS_scenes.pth -o alignseg.engine --precision fp16 "
    "--size 1024x2048"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "checkpoint", metavar="model", type=Path, help=".onnx of ours, demo, or a checkpoint"
    )
    parser.add_argument(
        "-o", "--output-file", type=Path, required=True, help="the .engine, .plan or .trt to write"
    )
    add_engine_arguments(parser)
    add_precision_arguments(parser)
    add_graph_arguments(parser)
    add_checkpoint_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Builds and prints what was written."""
    model = model_path(arguments.checkpoint)
    require_packages_for(model)
    require_precision_arguments(arguments)
    from alignseg_infer.cli.progress import phase_bars
    from alignseg_infer.spec.onnx_facts import read_onnx_facts
    from alignseg_infer.trt.builder.engine import build_engine, require_engine_name
    from alignseg_infer.trt.builder.options import profile_for
    from alignseg_infer.trt.builder.plugins import require_plugin_options

    options = build_options_from(arguments)
    require_engine_name(arguments.output_file)
    require_plugin_options(_sampler_of(model, arguments), options)
    load_tensorrt(options.runtime)  # before an export that takes half a minute
    with tempfile.TemporaryDirectory() as folder:
        reference = _reference(model, Path(folder), arguments)
        profile_for(read_onnx_facts(reference).export, options.profile)  # before calibrating
        source = _in_precision_asked(reference, Path(folder), arguments)
        with phase_bars() as progress:
            engine = build_engine(
                source,
                arguments.output_file,
                options,
                progress=progress,
                verify=lambda engine: _verified(engine, reference, arguments),
            )
    print(f"{arguments.output_file} ({len(engine.plan) / 1e6:.1f} MB, {_described(engine.facts)})")
    return 0


def _sampler_of(model: Path, arguments: argparse.Namespace) -> Sampler:
    """How sampling is written, or will be."""
    if model.suffix.lower() != ".onnx":
        return Sampler(arguments.sampler or Sampler.NATIVE)
    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    return read_onnx_facts(model).export.sampler


def _reference(model: Path, folder: Path, arguments: argparse.Namespace) -> Path:
    """What the engine is compared with: the float32 ``.onnx``, or the one that was given."""
    if arguments.size and arguments.batch is None and arguments.opt is None:
        arguments.batch = 1  # a fixed size alone is meant for single images, as in a video
    if arguments.upsampling is None and model.suffix.lower() != ".onnx":
        arguments.upsampling = Upsampling.RESIZE
    return float32_onnx(model, folder / f"{model.stem}.onnx", arguments)


def _in_precision_asked(reference: Path, folder: Path, arguments: argparse.Namespace) -> Path:
    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    present = read_onnx_facts(reference).export.precision
    if arguments.precision in (None, present):
        return reference
    target = folder / f"{reference.stem}-{arguments.precision}.onnx"
    in_precision(reference, target, arguments)
    return target


def _verified(engine: Path, reference: Path, arguments: argparse.Namespace) -> Verification | None:
    from alignseg_infer.cli.progress import progress_bar
    from alignseg_infer.export.verification.verify import verify_where_possible

    with progress_bar("images") as progress:
        images = verification_images(arguments)
        return verify_where_possible(engine, reference, images, progress)


def _described(facts: EngineFacts) -> str:
    precision = facts.spec.export.precision if facts.spec.export else Precision.FP32
    verified = "verified" if facts.verification else "not verified"
    return (
        f"{precision}, {facts.runtime} {facts.runtime_version}, {facts.profile.minimum} to "
        f"{facts.profile.maximum}; {verified}"
    )
