"""The base of the backends for exported ``.onnx`` files: checks, and outputs by name."""

import logging
import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backend import keep_in_forks
from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.errors import ModelError, ModelFileError, SpecError
from alignseg_infer.files.reading import require_file
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.network_output import as_promised
from alignseg_infer.spec.forms import graph_input, input_type, usual_axes
from alignseg_infer.spec.graph_contract import (
    CHANNELS,
    EXPORT_AGAIN,
    OFFSET_PREFIX,
    GraphTensor,
    follow_graph,
)
from alignseg_infer.spec.model import AGREEMENT_KEY, SPEC_KEY, ExportSpec, ModelSpec, OutputKind
from alignseg_infer.spec.onnx_weights import require_weights_beside
from alignseg_infer.spec.verification import Verification

logger = logging.getLogger(__name__)

_TRIED_SIZE = (64, 96)


class OnnxBackend(ABC):
    """A `Backend` and `OffsetBackend` for a file that some runtime has read.

    Attributes:
        types: NumPy's names of the types of the graph's input and of its output. Other tools may
            have changed them.

    Args:
        path: The file, for messages.
        metadata: The metadata in the file; kept as `metadata`.
        inputs: The graph's inputs.
        outputs: Its outputs, in any order.

    Raises:
        ModelFileError: This package did not export the file, or the graph does not fit its facts.
        SpecError: Its spec cannot be read.
    """

    name: str

    def __init__(
        self,
        path: Path,
        metadata: dict[str, str],
        inputs: list[GraphTensor],
        outputs: list[GraphTensor],
    ) -> None:
        keep_in_forks(self)
        self._path = path
        self.metadata = metadata
        self._told = _told_spec(path, metadata, inputs)
        self.spec = follow_graph(path, self._told, inputs, outputs)
        self._output = OutputKind.LOGITS if self.spec.export is None else self.spec.export.output
        kinds = {tensor.name: tensor.data_type for tensor in outputs}
        self.types = inputs[0].data_type, kinds[self._output.value]
        self.has_offsets = _has_offsets(path, [tensor.name for tensor in outputs])
        warn_if_rejected(path, metadata)

    @abstractmethod
    def _run(self, names: Sequence[str], batch: NDArray[np.floating]) -> list[NDArray[Any]]:
        """Return the outputs `names` for `batch`, in arrays that no later call changes."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """See `backend.Backend.infer`."""
        # Asking by name avoids copying the offsets, if the graph returns them too.
        [output] = self._run([self._output.value], self._graph_input(batch))
        return as_promised(self.spec, batch.shape, usual_axes(self.spec, output))

    def _graph_input(self, batch: NDArray[Any]) -> NDArray[Any]:
        return graph_input(self.spec, batch).astype(self.types[0], copy=False)

    def offsets(self, batch: NDArray[np.float32]) -> dict[OffsetField, NDArray[np.float32]]:
        """See `backend.OffsetBackend.offsets`."""
        if not self.has_offsets:
            raise ModelFileError(
                f"{self._path} was exported without its offset fields",
                "a model that returns them",
                "alignseg export-onnx CHECKPOINT -o MODEL.onnx --with-offsets",
            )
        names = [field.output_name for field in OffsetField]
        outputs = self._run(names, self._graph_input(batch))
        floats = (output.astype(np.float32, copy=False) for output in outputs)
        return dict(zip(OffsetField, floats, strict=True))

    def _require_fixed_shape_runs(self) -> None:
        """Run the network once if it was exported for another size or batch than its graph has.

        Such an export has its size in many constants. What only fixed an export for any size runs.

        Raises:
            ModelFileError: It does not run.
        """
        told, seen = self._told.export, self.spec.export
        if told is None or seen is None:
            return
        if told.size in (None, seen.size) and told.batch in (None, seen.batch):
            return
        shape = (seen.batch or 1, CHANNELS, *(seen.size or _TRIED_SIZE))
        try:
            self.infer(np.zeros(shape, input_type(self.spec)))
        except ModelError as error:
            raise ModelFileError(
                f"{self._path} was exported for {_shape_text(told)}, its graph takes "
                f"{_shape_text(seen)}, and it does not run there: {error.problem}",
                "a graph of the size and batch that it was exported for",
                EXPORT_AGAIN,
            ) from error


def warn_if_rejected(path: Path, metadata: dict[str, str]) -> None:
    """Say if the file is one that an export rejected, since its labels differ too much."""
    try:
        found = Verification.from_json(metadata[AGREEMENT_KEY])
    except (KeyError, SpecError):  # it is float32, or `inspect` will say what is wrong
        return
    if not found.passed:
        worst = min(row.agreement for row in found.rows)
        logger.warning(
            "%s was rejected when it was made: it labels only %.1f %% of the pixels like %s",
            *(path, 100 * worst, found.reference),
        )


def require_runnable(path: Path, runtime: str) -> None:
    """Check, before a runtime reads `path`, that it can run the file.

    Raises:
        ModelFileError: The file does not exist, has nodes that only TensorRT plugins compute, or
            names weights outside its folder.
    """
    require_file(path, "an ONNX model", ModelFileError)
    require_weights_beside(path)
    if needs_plugins(path):
        raise ModelFileError(
            f"{path} was exported for TensorRT plugins, and {runtime} has no such plugins",
            "a model made of ONNX's own operators; only TensorRT runs one with plugins",
            "export it for this runtime: alignseg export-onnx CHECKPOINT -o MODEL.onnx --sampler "
            "native; or build an engine: alignseg export-trt MODEL.onnx -o MODEL.engine",
        )


def not_loaded(path: Path, runtime: str, reason: str) -> ModelFileError:
    """Return the error for a file that `runtime` cannot load, with the reason it gave."""
    return ModelFileError(
        f"{path} cannot be loaded: {reason}",
        f"an ONNX model that {runtime} reads, with its .data file, if any, beside it",
        "copy it again, or export it again: alignseg export-onnx CHECKPOINT -o MODEL.onnx; if "
        "another tool changed it, use the file from before",
    )


def _told_spec(path: Path, metadata: dict[str, str], inputs: list[GraphTensor]) -> ModelSpec:
    """Return the facts in the file, which the graph has not been compared with."""
    spec = ModelSpec.from_json(metadata[SPEC_KEY]) if SPEC_KEY in metadata else None
    if spec is None or spec.export is None:
        raise ModelFileError(
            f"{path} is an ONNX model without the metadata {SPEC_KEY!r}; "
            f"its inputs are {', '.join(tensor.name for tensor in inputs)}",
            "a model exported by this package, which records how to prepare images",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx; if another tool made this file from "
            f"one: alignseg adopt {shlex.quote(str(path))} --like MODEL.onnx",
        )
    return spec


def _has_offsets(path: Path, outputs: list[str]) -> bool:
    """Return whether the graph returns its offset fields.

    Raises:
        ModelFileError: It returns some of them only.
    """
    seen = {name for name in outputs if name.startswith(OFFSET_PREFIX)}
    fields = {field.output_name for field in OffsetField}
    if seen and seen != fields:
        raise ModelFileError(
            f"{path} does not fit its facts: of the offset fields, it returns "
            f"{', '.join(sorted(seen))}",
            f"none or all of them: {', '.join(sorted(fields))}",
            EXPORT_AGAIN,
        )
    return bool(seen)


def _shape_text(export: ExportSpec) -> str:
    size = "any size" if export.size is None else "{}x{}".format(*export.size)
    return size if export.batch is None else f"{size} in batches of {export.batch}"
