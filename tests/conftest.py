"""What the tests share: a small model, its exports, and a backend that is no network at all."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.pixels.images import Image
from alignseg_infer.spec.model import (
    SPEC_KEY,
    ExportSpec,
    InputSpec,
    ModelSpec,
    NetworkSpec,
    Precision,
)

if TYPE_CHECKING:
    import onnx_ir

DATA = Path(__file__).parent / "data"
SMALL = NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=32)
SMALL_SPEC = ModelSpec(network=SMALL, input=InputSpec(), classes=CITYSCAPES)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu``, other modules are not imported: a GPU machine may lack what they need."""
    others = collection_path.suffix == ".py" and not collection_path.name.startswith("test_gpu")
    return True if others and config.option.markexpr == "gpu" else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """For runs under a sanitizer, which slows each test down."""
    parser.addoption(
        "--sample",
        type=int,
        default=1,
        metavar="N",
        help="run about one test in N, chosen by name: the same ones each time",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what ``--sample`` does not choose."""
    sample = config.option.sample
    if sample != 1:
        items[:] = [item for item in items if zlib.crc32(item.nodeid.encode()) % sample == 0]


class FakeBackend:
    """Gives each pixel's class by the blue channel of the input, at 1/4 size; counts calls."""

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
    """The same, as a model exported with ``--output labels``."""

    def __init__(self, export: ExportSpec) -> None:
        super().__init__(replace(SMALL_SPEC, export=export))

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        self.batches.append(batch.shape)
        return batch[:, 0].astype(np.uint8)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours: small R18, seeded weights with negative norm weights among them."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    write_seeded_checkpoint(path, SMALL_SPEC)
    return path


def write_seeded_checkpoint(path: Path, spec: ModelSpec) -> None:
    """Writes a checkpoint of ours with seeded weights."""
    import torch

    from alignseg_infer.models.alignseg import AlignSeg
    from alignseg_infer.models.checkpoint import save_checkpoint
    from seeded import seeded_state_dict

    model = AlignSeg(spec.network)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    seeded = seeded_state_dict(shapes)
    model.load_state_dict({key: torch.from_numpy(np.asarray(v)) for key, v in seeded.items()})
    save_checkpoint(path, model.eval(), spec)


@pytest.fixture(scope="session")
def export_small(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Exports the small checkpoint with the given `ExportOptions`; each kind once a session."""
    from alignseg_infer.export.graph.onnx_graph import ExportOptions
    from alignseg_infer.export.to_onnx import export_onnx
    from alignseg_infer.models.checkpoint import load_checkpoint

    folder = tmp_path_factory.mktemp("exports")
    made: dict[ExportOptions, Path] = {}

    def export(**options: object) -> Path:
        key = ExportOptions(**options)  # type: ignore[arg-type]
        if key not in made:
            path = folder / f"{len(made)}.onnx"
            export_onnx(load_checkpoint(small_checkpoint), path, key)
            made[key] = path
        return made[key]

    return export


def half_onnx(source: Path, folder: Path) -> Path:
    """`source` in float16, whether or not its random weights stand the comparison."""
    import onnx_ir

    from alignseg_infer.export.half_precision import to_half_precision

    model = onnx_ir.load(source)
    to_half_precision(model)
    return said_to_be(model, Precision.FP16, folder / f"{source.stem}-fp16.onnx")


def said_to_be(model: "onnx_ir.Model", precision: Precision, path: Path) -> Path:
    """Saves `model` with a spec that says it computes in `precision`."""
    import onnx_ir

    spec = ModelSpec.from_json(model.metadata_props[SPEC_KEY])
    assert spec.export is not None
    export = replace(spec.export, precision=precision)
    model.metadata_props[SPEC_KEY] = replace(spec, export=export).to_json()
    onnx_ir.save(model, path)
    return path


@pytest.fixture(scope="session")
def small_onnx(export_small: Callable[..., Path]) -> Path:
    """The small model, exported with default options."""
    return export_small()


@pytest.fixture
def image() -> Image:
    """A (90, 130, 3) uint8 BGR image whose blue channel holds labels 0..18 in vertical stripes."""
    stripes = np.repeat(np.arange(13, dtype=np.uint8), 10)
    pixels = np.zeros((90, 130, 3), np.uint8)
    pixels[..., 0] = stripes
    pixels[..., 1] = 100
    pixels[..., 2] = 200
    return pixels
