"""Turns a checkpoint into an ONNX file that has been compared with PyTorch."""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir
import torch

from alignseg_infer.export.graph.onnx_file import require_onnx_ending, save_onnx
from alignseg_infer.export.graph.onnx_graph import onnx_from_model
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.verification.parity import Comparison, compare_with_pytorch
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.models.checkpoint import Checkpoint
from alignseg_infer.spec.model import SPEC_KEY, VERIFICATION_KEY, ExportSpec, ModelSpec, Target
from alignseg_infer.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The ONNX file.
        spec: The facts stored in it.
        comparisons: The check against PyTorch, also stored in it.
    """

    path: Path
    spec: ModelSpec
    comparisons: list[Comparison]


def onnx_from_checkpoint(
    checkpoint: Checkpoint,
    path: str | Path,
    options: ExportOptions | None = None,
    *,
    remark: str | None = None,
    hardware: Target | None = None,
) -> ExportReport:
    """Write `checkpoint` as an ONNX file, after comparing it with PyTorch in ONNX Runtime.

    Weights above 1.9 GB go to ``PATH.data`` beside it.

    Args:
        checkpoint: From `models.checkpoint.load_checkpoint`.
        path: The ``.onnx`` file to write.
        options: What the graph should contain.
        remark: What else the spec's `exporter` says.
        hardware: What the graph is for, which the spec says; None for no choice.

    Raises:
        OptionError: `path` does not end in ``.onnx``.
        ExportError: The graph cannot be made with these options.
        ParityError: The graph does not compute what PyTorch computes; nothing is written.
        OutputError: The file cannot be written.
    """
    path, options = Path(path), options or ExportOptions()
    require_onnx_ending(path)
    model = checkpoint.model()
    with write_atomically(path) as temporary:
        logger.info("tracing and converting to opset %d (half a minute)", options.opset)
        exported = onnx_from_model(model, options)
        spec = replace(checkpoint.spec, export=_export_spec(options, remark, hardware))
        _describe(exported, spec)
        save_onnx(exported, temporary)
        logger.info("comparing with PyTorch in ONNX Runtime")
        comparisons = compare_with_pytorch(temporary, model)
        exported.metadata_props[VERIFICATION_KEY] = json.dumps([asdict(c) for c in comparisons])
        save_onnx(exported, temporary)
    return ExportReport(path, spec, comparisons)


def _export_spec(options: ExportOptions, remark: str | None, hardware: Target | None) -> ExportSpec:
    versions = f"alignseg-infer {__version__}, torch {torch.__version__}"
    return ExportSpec(
        output=options.traced_output,
        sampler=options.sampler,
        opset=options.opset,
        rewrites=options.rewrites,
        size=options.size,
        batch=options.batch,
        upsampling=options.chosen_upsampling,
        exporter=f"{versions}; {remark}" if remark else versions,
        target=hardware,
    )


def _describe(model: onnx_ir.Model, spec: ModelSpec) -> None:
    model.producer_name = "alignseg-infer"
    model.producer_version = __version__
    model.graph.name = f"alignseg-{spec.network.backbone}"
    model.metadata_props[SPEC_KEY] = spec.to_json()
    # Remove the Python source lines that the exporter stores with every node.
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
