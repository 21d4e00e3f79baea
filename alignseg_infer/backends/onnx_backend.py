"""The base of the backends for exported ``.onnx`` files: checks, and outputs by name."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backend import keep_in_forks
from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.errors import ModelFileError, SpecError
from alignseg_infer.files import require_file
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.spec.model import AGREEMENT_KEY, INPUT_NAME, SPEC_KEY, ModelSpec, OutputKind
from alignseg_infer.spec.onnx_weights import require_weights_beside
from alignseg_infer.spec.verification import Verification

logger = logging.getLogger(__name__)


class OnnxBackend(ABC):
    """A `Backend` and `OffsetBackend` for a file that some runtime has read.

    Args:
        path: The file, for messages.
        metadata: The metadata in the file; kept as `metadata`.
        inputs: Names of the graph's inputs.
        outputs: Names of its outputs, in the graph's order.

    Raises:
        ModelFileError: This package did not export the file.
        SpecError: Its spec cannot be read.
    """

    name: str

    def __init__(
        self, path: Path, metadata: dict[str, str], inputs: list[str], outputs: list[str]
    ) -> None:
        keep_in_forks(self)
        self._path = path
        self._outputs = outputs
        self.metadata = metadata
        self.spec = _spec_of(path, metadata, inputs, outputs)
        warn_if_rejected(path, metadata)

    @abstractmethod
    def _run(self, names: Sequence[str], batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return the outputs `names` for `batch`, in arrays that no later call changes."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        """See `backend.Backend.infer`."""
        # Asking by name avoids copying the offsets, if the graph returns them too.
        output: NDArray[np.generic] = self._run(self._outputs[:1], batch)[0]
        return output

    @property
    def has_offsets(self) -> bool:
        """Whether the file was exported with its offset fields."""
        return len(self._outputs) > 1

    def offsets(self, batch: NDArray[np.float32]) -> dict[OffsetField, NDArray[np.float32]]:
        """See `backend.OffsetBackend.offsets`."""
        if not self.has_offsets:
            raise ModelFileError(
                f"{self._path} was exported without its offset fields",
                "a model that returns them",
                "alignseg export-onnx CHECKPOINT -o MODEL.onnx --with-offsets",
            )
        return dict(zip(OffsetField, self._run(self._outputs[1:], batch), strict=True))


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


def _spec_of(
    path: Path, metadata: dict[str, str], inputs: list[str], outputs: list[str]
) -> ModelSpec:
    if SPEC_KEY not in metadata or inputs != [INPUT_NAME]:
        raise ModelFileError(
            f"{path} is an ONNX model without the metadata {SPEC_KEY!r}; "
            f"its inputs are {', '.join(inputs)}",
            "a model exported by this package, which records how to prepare images",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx; if another tool made this file from "
            f"one: alignseg adopt {path} --like MODEL.onnx",
        )
    spec = ModelSpec.from_json(metadata[SPEC_KEY])
    first, *others = outputs
    fields = [field.output_name for field in OffsetField]
    fits = spec.export is not None and first == spec.export.output
    if not fits or others not in ([], fields):
        raise ModelFileError(
            f"the spec of {path} does not fit its outputs, {', '.join(outputs)}",
            f"{' or '.join(OutputKind)} first, as the spec says; then all offsets or none",
            "alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )
    return spec
