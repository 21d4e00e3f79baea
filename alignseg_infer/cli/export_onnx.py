"""``alignseg export-onnx`` and ``export/to_onnx.py``: checkpoint in, ONNX out."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from alignseg_infer.cli.arguments import (
    add_checkpoint_arguments,
    choices_of,
    fixed_size,
    require_export_packages,
)
from alignseg_infer.cli.precision import add_precision_arguments, float32_onnx, in_precision
from alignseg_infer.errors import OptionError
from alignseg_infer.spec import DEFAULT_OPSET, OPSETS, OutputKind, Precision, Sampler

if TYPE_CHECKING:  # loads PyTorch, which --help must not wait for
    from alignseg_infer.export.onnx_graph import ExportOptions

HELP = "Export a checkpoint to ONNX, or a float32 .onnx to fp16 or int8; compared before it appears"
EXAMPLE = "Example: python export/to_onnx.py CS_scenes.pth -o alignseg.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="model",
        type=Path,
        help=".pth, .pt or .safetensors; with --precision, also a float32 .onnx",
    )
    parser.add_argument("-o", "--output-file", type=Path, required=True, help="the .onnx to write")
    add_graph_arguments(parser)
    add_precision_arguments(parser)
    add_checkpoint_arguments(parser)


def add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    """What `export_options_from` reads; all of it None by default."""
    graph = parser.add_argument_group("the graph, if the model is a checkpoint")
    graph.add_argument(
        "--size", type=fixed_size, help="fix the input to HEIGHTxWIDTH (default: any size)"
    )
    graph.add_argument("--batch", type=int, help="fix the batch size (default: any)")
    graph.add_argument(
        "--output",
        choices=choices_of(OutputKind),
        help="logits at 1/4 size, or labels at input size (default: logits)",
    )
    graph.add_argument(
        "--sampler",
        choices=choices_of(Sampler),
        help="how offset sampling is written: native is GridSample, gather is index arithmetic "
        "for runtimes whose GridSample is wrong (default: native)",
    )
    graph.add_argument(
        "--opset",
        type=int,
        help=f"{OPSETS[0]} to {OPSETS[-1]} (default: {DEFAULT_OPSET}; int8 is always 19)",
    )
    graph.add_argument(
        "--no-rewrites",
        action="store_true",
        default=None,
        help="leave out the exact rewrites that save work",
    )
    graph.add_argument(
        "--with-offsets",
        action="store_true",
        default=None,
        help="also return the learned offset fields, for alignseg offsets",
    )


def export_options_from(arguments: argparse.Namespace) -> "ExportOptions":
    """What the arguments of `add_graph_arguments` say.

    Raises:
        OptionError, SizeError: A value cannot be used.
    """
    from alignseg_infer.export.onnx_graph import ExportOptions

    return ExportOptions(
        output=OutputKind(arguments.output or OutputKind.LOGITS),
        sampler=Sampler(arguments.sampler or Sampler.NATIVE),
        size=arguments.size,
        batch=arguments.batch,
        opset=DEFAULT_OPSET if arguments.opset is None else arguments.opset,
        rewrites=not arguments.no_rewrites,
        with_offsets=bool(arguments.with_offsets),
    )


def run(arguments: argparse.Namespace) -> int:
    """Exports and prints what was written."""
    require_export_packages()
    from alignseg_infer.export.onnx_file import require_onnx_ending

    model, target = arguments.checkpoint, arguments.output_file
    require_onnx_ending(target)
    options = export_options_from(arguments)
    if arguments.precision in (None, Precision.FP32):
        _require_checkpoint(model)
        float32_onnx(model, target, arguments, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / f"{model.stem}.onnx"
            in_precision(float32_onnx(model, exported, arguments, options), target, arguments)
    size = target.stat().st_size / 1e6
    print(f"{target} ({size:.1f} MB, {arguments.precision or 'fp32'})")
    return 0


def _require_checkpoint(model: Path) -> None:
    if model.suffix.lower() == ".onnx":
        raise OptionError(
            f"{model} is an exported model already",
            "a checkpoint, or a precision to write the model in",
            "--precision fp16",
        )
