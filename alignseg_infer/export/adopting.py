"""Gives facts back to an ONNX file that another tool changed, and that lost its metadata there."""

import shlex
from pathlib import Path

import onnx
import onnx_ir

from alignseg_infer.arrays import InputShape
from alignseg_infer.backend import Backend
from alignseg_infer.backends import open_backend
from alignseg_infer.errors import ModelFileError
from alignseg_infer.export.graph.onnx_file import load_graph, save_onnx
from alignseg_infer.export.graph.plugin_nodes import expand_plugin_nodes, runnable_onnx
from alignseg_infer.export.verification.agreement import compare_labels
from alignseg_infer.export.verification.verify import draw_streets
from alignseg_infer.files.writing import temporary_folder, write_atomically
from alignseg_infer.spec.model import (
    AGREEMENT_KEY,
    SPEC_KEY,
    VERIFICATION_KEY,
    ExportSpec,
    ModelSpec,
    Precision,
)
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.spec.onnx_precision import read_precision
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT, Verification

_SIZE = (128, 256)  # where the model takes any
# Files to adopt like, in advice.
_LIKE = {Precision.FP32: "FLOAT32.onnx", Precision.FP16: "FP16.onnx", Precision.INT8: "INT8.onnx"}


def adopt_onnx(model: Path, like: Path) -> ModelSpec:
    """Write the metadata of `like` into `model`, after both have labelled the same images.

    What `like` was compared with is left out, since `model` was not; a rejection stays.

    Args:
        model: An ``.onnx`` file without metadata of this package. It is changed.
        like: The file of this package that it was made from.

    Returns:
        The facts that are in both files now.

    Raises:
        ModelFileError: A file cannot be used, `model` has its facts already, or it computes
            something else.
        VerificationError: It returns values that are not finite, or of another shape.
        OutputError: `model` cannot be written.
    """
    source = read_onnx_facts(like)
    graph = load_graph(model)
    _require_no_facts(model, graph)
    _require_same_precision(model, like, source.export.precision)
    _require_same_target(model, graph, like, source.export)
    metadata = _without_comparisons(source.metadata)
    graph.metadata_props.update(metadata)
    _require_same_labels(model, graph, like, source.export.precision)
    _write_metadata(model, metadata)
    return source.spec


def _require_no_facts(path: Path, graph: onnx_ir.Model) -> None:
    if SPEC_KEY in graph.metadata_props:
        raise ModelFileError(
            f"{path} already has its facts",
            "an ONNX file that lost its metadata",
            f"use it as it is: alignseg inspect {path}",
        )


def _require_same_precision(path: Path, like: Path, expected: Precision) -> None:
    """Raise ModelFileError unless both graphs have the same precision, which decides the gate."""
    seen = read_precision(path)
    if seen is expected:
        return
    fix = f"alignseg adopt {shlex.quote(str(path))} --like {_LIKE[seen]}"
    if expected is Precision.FP32:
        source = shlex.quote(str(like))
        command = f"alignseg export-onnx {source} -o MODEL.onnx --precision {seen}"
        if seen is Precision.INT8:
            command = (
                f"alignseg export-onnx {source} -o MODEL.onnx --precision int8 --calibration IMAGES"
            )
        fix = f"{command}, which knows what has to stay float32"
    raise ModelFileError(
        f"{path} is {seen}, but {like} is {expected}", "a file of the same precision", fix
    )


def _require_same_target(
    path: Path, graph: onnx_ir.Model, like: Path, expected: ExportSpec
) -> None:
    """Raise ModelFileError if one graph is INT8 for CPUs, with unsigned values, and one is not."""
    zeros = [node.inputs[2] for node in graph.graph if node.op_type == "QuantizeLinear"]
    unsigned = any(zero is not None and zero.dtype is onnx_ir.DataType.UINT8 for zero in zeros)
    if expected.precision is not Precision.INT8 or unsigned == expected.has_cpu_integers:
        return
    kinds = {True: "unsigned integers, as INT8 for CPUs", False: "signed integers, as for TensorRT"}
    raise ModelFileError(
        f"{path} has {kinds[unsigned]}, but {like} has {kinds[not unsigned]}",
        "the file that it was made from, for the same target",
        f"alignseg adopt {shlex.quote(str(path))} --like {_LIKE[Precision.INT8]}",
    )


def _without_comparisons(metadata: dict[str, str]) -> dict[str, str]:
    """Return the metadata without what a file was compared with, unless it was rejected then."""
    kept = {key: text for key, text in metadata.items() if key != VERIFICATION_KEY}
    if AGREEMENT_KEY in kept and Verification.from_json(kept[AGREEMENT_KEY]).passed:
        del kept[AGREEMENT_KEY]
    return kept


def _require_same_labels(
    path: Path, graph: onnx_ir.Model, like: Path, precision: Precision
) -> None:
    with temporary_folder() as folder, runnable_onnx(like) as reference:
        copy = folder / path.name
        save_onnx(expand_plugin_nodes(graph), copy)
        try:
            seen = open_backend(copy)
        except ModelFileError as error:  # say which file it is about
            problem = error.problem.replace(str(copy), str(path))
            raise ModelFileError(problem, error.expected, error.fix) from error
        agreement = _measure_agreement(seen, open_backend(reference))
    if agreement < REQUIRED_AGREEMENT[precision]:
        raise ModelFileError(
            f"{path} labels only {agreement:.2%} of the pixels like {like}",
            "a file that was made from it, and computes the same",
            f"name that file: alignseg adopt {shlex.quote(str(path))} --like MODEL.onnx",
        )


def _measure_agreement(seen: Backend, expected: Backend) -> float:
    """Return the share of pixels that get the same label, in the worse of two drawn streets."""
    export = seen.spec.export
    size, batch = (export.size, export.batch) if export else (None, None)
    shape = InputShape(batch or 1, *(size or _SIZE))
    (row,) = compare_labels(seen, expected, draw_streets([shape])[:2], [shape])
    return row.worst_agreement


def _write_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Write all metadata entries into the file; weights in a file beside it stay there."""
    proto = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(proto, metadata)
    with write_atomically(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
