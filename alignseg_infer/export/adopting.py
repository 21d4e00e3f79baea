"""Gives facts back to an ONNX file that another tool changed, and that lost its metadata there."""

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
from alignseg_infer.files import temporary_folder, write_atomically
from alignseg_infer.spec.model import SPEC_KEY, ModelSpec, Precision
from alignseg_infer.spec.onnx_facts import OnnxFacts, read_onnx_facts
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT

_SIZE = (128, 256)  # where the model takes any
_NARROW = {onnx_ir.DataType.FLOAT16, onnx_ir.DataType.INT8}


def adopt_onnx(model: Path, like: Path) -> ModelSpec:
    """Write the metadata of `like` into `model`, after both have labelled the same images.

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
    _require_same_precision(model, graph, like)
    graph.metadata_props.update(source.metadata)
    _require_same_labels(model, graph, like, source.export.precision)
    _write_metadata(model, source)
    return source.spec


def _require_no_facts(path: Path, graph: onnx_ir.Model) -> None:
    if SPEC_KEY in graph.metadata_props:
        raise ModelFileError(
            f"{path} already has its facts",
            "an ONNX file that lost its metadata",
            f"use it as it is: alignseg inspect {path}",
        )


def _require_same_precision(path: Path, graph: onnx_ir.Model, like: Path) -> None:
    """Raise ModelFileError if the weights of one are float16 or INT8, and not those of the other.

    The facts tell the precision, and a float32 file would be taken for the reference of others.
    """
    seen, expected = (_narrow_types(one) for one in (graph, load_graph(like)))
    if seen != expected:
        raise ModelFileError(
            f"{path} has weights of another type than {like}",
            "a file of the same precision",
            f"alignseg export-onnx {like} -o MODEL.onnx --precision fp16, which knows what has to "
            "stay float32",
        )


def _narrow_types(graph: onnx_ir.Model) -> set[onnx_ir.DataType | None]:
    return {value.dtype for value in graph.graph.initializers.values()} & _NARROW


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
            f"alignseg adopt {path} --like the file that it was made from",
        )


def _measure_agreement(seen: Backend, expected: Backend) -> float:
    """Return the share of pixels that get the same label, in the worse of two drawn streets."""
    export = seen.spec.export
    size, batch = (export.size, export.batch) if export else (None, None)
    shape = InputShape(batch or 1, *(size or _SIZE))
    (row,) = compare_labels(seen, expected, draw_streets([shape])[:2], [shape])
    return row.worst_agreement


def _write_metadata(path: Path, source: OnnxFacts) -> None:
    """Write all metadata entries into the file; weights in a file beside it stay there."""
    proto = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(proto, source.metadata)
    with write_atomically(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
