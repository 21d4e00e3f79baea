"""A small model, its exports, and a backend without a network."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.spec.model import (
    SPEC_KEY,
    ExportSpec,
    InputSpec,
    ModelSpec,
    NetworkSpec,
    OutputKind,
    Precision,
    Sampler,
)

if TYPE_CHECKING:
    import onnx_ir

DATA = Path(__file__).parents[1] / "data"
SMALL = NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=32)
SMALL_SPEC = ModelSpec(network=SMALL, input=InputSpec(), classes=CITYSCAPES)
LOGITS_EXPORT = ExportSpec(
    output=OutputKind.LOGITS,
    sampler=Sampler.NATIVE,
    opset=18,
    rewrites=True,
    size=None,
    batch=None,
    exporter="a test",
)


class FakeBackend:
    """Derives classes from the blue channel of the input, at 1/4 size, and counts calls."""

    name = "fake"

    def __init__(self, spec: ModelSpec = SMALL_SPEC) -> None:
        self.spec = replace(spec, input=InputSpec(mean=(0.0, 0.0, 0.0)))
        self.batches: list[tuple[int, ...]] = []

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        self.batches.append(batch.shape)
        blue = batch[:, 0, ::4, ::4]
        classes = self.spec.network.num_classes
        labels = np.arange(classes, dtype=np.float32).reshape(1, classes, 1, 1)
        logits: NDArray[np.generic] = -np.abs(blue[:, np.newaxis] - labels)
        return logits


class FakeLabelBackend(FakeBackend):
    """The same for a model exported with ``--output labels``."""

    def __init__(self, export: ExportSpec) -> None:
        super().__init__(replace(SMALL_SPEC, export=export))

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        self.batches.append(batch.shape)
        return (batch[:, 0] % self.spec.network.num_classes).astype(np.uint8)


def write_seeded_checkpoint(path: Path, spec: ModelSpec) -> None:
    """Write a checkpoint of ours with seeded weights."""
    import torch

    from alignseg_infer.models.alignseg import AlignSeg
    from alignseg_infer.models.checkpoint import save_checkpoint
    from tests.support.seeded import seeded_state_dict

    model = AlignSeg(spec.network)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    seeded = seeded_state_dict(shapes)
    model.load_state_dict({key: torch.from_numpy(np.asarray(v)) for key, v in seeded.items()})
    save_checkpoint(path, model.eval(), spec)


def half_onnx(source: Path, folder: Path) -> Path:
    """Convert `source` to float16, even if its random weights would fail the comparison."""
    import onnx_ir

    from alignseg_infer.export.half_precision import to_half_precision

    model = onnx_ir.load(source)
    to_half_precision(model)
    return said_to_be(model, Precision.FP16, folder / f"{source.stem}-fp16.onnx")


def said_to_be(model: "onnx_ir.Model", precision: Precision, path: Path) -> Path:
    """Save `model` with a spec that says it computes in `precision`."""
    import onnx_ir

    spec = ModelSpec.from_json(model.metadata_props[SPEC_KEY])
    assert spec.export is not None
    export = replace(spec.export, precision=precision)
    model.metadata_props[SPEC_KEY] = replace(spec, export=export).to_json()
    onnx_ir.save(model, path)
    return path
