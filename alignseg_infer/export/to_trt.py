"""The graph an engine is built from: the model's own, or that in another precision."""

from dataclasses import replace
from pathlib import Path

import onnx_ir

from alignseg_infer.errors import OptionError
from alignseg_infer.export.onnx_facts import read_onnx_facts
from alignseg_infer.export.onnx_file import save_onnx
from alignseg_infer.export.precision import to_half_precision
from alignseg_infer.spec import SPEC_KEY, Precision


def onnx_for_engine(source: Path, folder: Path, precision: Precision | None) -> Path:
    """The ONNX file to build an engine from.

    Args:
        source: A file this package exported.
        folder: Where a file in another precision may be written.
        precision: What the engine is to compute in; None for what `source` does.

    Raises:
        OptionError: `source` cannot be turned into `precision`.
        ModelFileError: `source` is none of ours.
    """
    facts = read_onnx_facts(source)
    present = facts.export.precision
    if precision is None or precision is present:
        return source
    if present is not Precision.FP32 or precision is not Precision.FP16:
        raise OptionError(
            f"--precision {precision} for {source}, which computes in {present}",
            f"{present}, or fp16 from an fp32 model",
            f"--precision {present}, or a model in {precision}",
        )
    model = onnx_ir.load(source)
    to_half_precision(model)
    spec = replace(facts.spec, export=replace(facts.export, precision=precision))
    model.metadata_props[SPEC_KEY] = spec.to_json()
    target = folder / f"{source.stem}-{precision}.onnx"
    save_onnx(model, target)
    return target
