"""The graph an engine is built from: the model's own, or that in another precision."""

from pathlib import Path

from alignseg_infer.export.onnx_facts import read_onnx_facts
from alignseg_infer.export.to_precision import onnx_in_precision
from alignseg_infer.spec import Precision


def onnx_for_engine(source: Path, folder: Path, precision: Precision | None) -> Path:
    """The ONNX file to build an engine from.

    Args:
        source: A file this package exported.
        folder: Where a file in another precision may be written.
        precision: What the engine is to compute in; None for what `source` does.

    Raises:
        ModelFileError: `source` is none of ours.
        AlignSegError: As `onnx_in_precision` does.
    """
    facts = read_onnx_facts(source)
    if precision is None or precision is facts.export.precision:
        return source
    target = folder / f"{source.stem}-{precision}.onnx"
    onnx_in_precision(source, target, precision)
    return target
