"""``alignseg export-onnx`` and ``export/to_onnx.py``: checkpoint in, ONNX out."""

import argparse
import sys
from pathlib import Path

from alignseg_infer.cli.arguments import (
    add_checkpoint_arguments,
    choices_of,
    fixed_size,
    require_export_packages,
)
from alignseg_infer.spec import DEFAULT_OPSET, OPSETS, OutputKind, Sampler

HELP = "Export a checkpoint to ONNX, compared with PyTorch before the file appears."
EXAMPLE = "Example: python export/to_onnx.py CS_scenes.pth -o alignseg.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help=".pth, .pt or .safetensors")
    parser.add_argument("-o", "--output-file", type=Path, required=True, help="the .onnx to write")
    graph = parser.add_argument_group("the graph")
    graph.add_argument(
        "--size", type=fixed_size, help="fix the input to HEIGHTxWIDTH (default: any size)"
    )
    graph.add_argument("--batch", type=int, help="fix the batch size (default: any)")
    graph.add_argument(
        "--output",
        choices=choices_of(OutputKind),
        default=OutputKind.LOGITS.value,
        help="logits at 1/4 size, or labels at input size (default: logits)",
    )
    graph.add_argument(
        "--sampler",
        choices=choices_of(Sampler),
        default=Sampler.NATIVE.value,
        help="how offset sampling is written: native is GridSample, gather is index arithmetic "
        "for runtimes whose GridSample is wrong (default: native)",
    )
    graph.add_argument(
        "--opset",
        type=int,
        default=DEFAULT_OPSET,
        help=f"{OPSETS[0]} to {OPSETS[-1]} (default: {DEFAULT_OPSET})",
    )
    graph.add_argument(
        "--no-rewrites", action="store_true", help="leave out the exact rewrites that save work"
    )
    graph.add_argument(
        "--with-offsets",
        action="store_true",
        help="also return the learned offset fields, for alignseg offsets",
    )
    add_checkpoint_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exports and prints what was written."""
    require_export_packages()
    from alignseg_infer.cli.checkpoints import describe_assumptions, load_checkpoint_as_asked
    from alignseg_infer.export.onnx_graph import ExportOptions
    from alignseg_infer.export.parity import format_comparisons
    from alignseg_infer.export.to_onnx import export_onnx

    options = ExportOptions(
        output=OutputKind(arguments.output),
        sampler=Sampler(arguments.sampler),
        size=arguments.size,
        batch=arguments.batch,
        opset=arguments.opset,
        rewrites=not arguments.no_rewrites,
        with_offsets=arguments.with_offsets,
    )
    checkpoint = load_checkpoint_as_asked(arguments)
    print(describe_assumptions(checkpoint), file=sys.stderr)
    report = export_onnx(checkpoint, arguments.output_file, options)
    print(format_comparisons(report.comparisons, options.output), file=sys.stderr)
    size = report.path.stat().st_size / 1e6
    print(f"{report.path} ({size:.0f} MB, {options.output}, opset {options.opset})")
    return 0
