"""The facts stored in an ONNX file, read without its weights."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from alignseg_infer.errors import ModelFileError
from alignseg_infer.files.reading import require_file
from alignseg_infer.spec.graph_contract import GraphTensor, follow_graph
from alignseg_infer.spec.model import SPEC_KEY, ExportSpec, ModelSpec
from alignseg_infer.spec.onnx_weights import sha256_with_weights
from alignseg_infer.spec.plugin_contract import DOMAIN, VERSION_FIELD


@dataclass(frozen=True)
class OnnxFacts:
    """Facts about an ONNX file that this package exported.

    Attributes:
        spec: The model's facts.
        export: ``spec.export``, which is never None here.
        sha256: SHA-256 of the file with its weights, as `sha256_with_weights` returns it.
        grid_samples: Number of GridSample nodes.
        resizes: Number of Resize nodes.
        plugin_nodes: The name of each node that needs a plugin, and that plugin as
            ``name/version``, in the graph's order.
        metadata: All metadata entries.
        outputs: Names of the graph's outputs.
    """

    spec: ModelSpec
    export: ExportSpec
    sha256: str
    grid_samples: int
    resizes: int
    plugin_nodes: tuple[tuple[str, str], ...]
    metadata: dict[str, str]
    outputs: tuple[str, ...]

    @property
    def plugins(self) -> tuple[str, ...]:
        """``name/version`` of the plugin for each node that needs one, sorted."""
        return tuple(sorted(plugin for _, plugin in self.plugin_nodes))


def read_onnx_facts(path: Path) -> OnnxFacts:
    """Read the facts of the ONNX file at `path`.

    Raises:
        ModelFileError: The file is missing or damaged, was not exported by this package, or has a
            graph that does not fit its facts.
        SpecError: Its spec cannot be read.
    """
    require_file(path, "an ONNX model", ModelFileError)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:  # ValueError: damaged strings
        raise ModelFileError(
            f"{path} cannot be read: {error}", "a complete .onnx file", "export the model again"
        ) from error
    properties = {entry.key: entry.value for entry in model.metadata_props}
    spec = None
    if SPEC_KEY in properties:
        told = ModelSpec.from_json(properties[SPEC_KEY])
        spec = follow_graph(path, told, *_list_tensors(model.graph))
    if spec is None or spec.export is None:
        raise ModelFileError(
            f"{path} does not describe its model (no metadata entry {SPEC_KEY!r})",
            "an ONNX file that this package exported",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx; if another tool made this file from "
            f"one: alignseg adopt {path} --like MODEL.onnx",
        )
    operators = Counter(node.op_type for node in model.graph.node)
    return OnnxFacts(
        spec=spec,
        export=spec.export,
        sha256=sha256_with_weights(path),
        grid_samples=operators["GridSample"],
        resizes=operators["Resize"],
        plugin_nodes=tuple(_find_plugin_nodes(model.graph)),
        metadata=properties,
        outputs=tuple(value.name for value in model.graph.output),
    )


def _list_tensors(graph: onnx.GraphProto) -> tuple[list[GraphTensor], list[GraphTensor]]:
    """Return inputs, without weights that old files list among them, and outputs."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_graph_tensor(value) for value in graph.input if value.name not in weights]
    return inputs, [_graph_tensor(value) for value in graph.output]


def _graph_tensor(value: onnx.ValueInfoProto) -> GraphTensor:
    told = value.type.tensor_type
    shape = None
    if told.HasField("shape"):
        shape = tuple(
            side.dim_value if side.HasField("dim_value") and side.dim_value >= 0 else None
            for side in told.shape.dim
        )
    try:
        data_type = helper.tensor_dtype_to_np_dtype(told.elem_type).name
    except KeyError:  # 0, which tells nothing, or a type that this onnx does not know
        data_type = f"type {told.elem_type}"
    return GraphTensor(value.name, data_type, shape)


def _find_plugin_nodes(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    for node in graph.node:
        if node.domain == DOMAIN:
            fields = {field.name: field.s.decode(errors="replace") for field in node.attribute}
            yield node.name, f"{node.op_type}/{fields.get(VERSION_FIELD, '?')}"
