"""What all tests share: options of pytest, a small model and its exports."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alignseg_infer.arrays import Image
from tests.support.models import SMALL_SPEC, write_seeded_checkpoint


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu``, other modules are not imported: a GPU machine may lack what they need."""
    others = collection_path.suffix == ".py" and collection_path.parent.name != "gpu"
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


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours: small R18, seeded weights with negative norm weights among them."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    write_seeded_checkpoint(path, SMALL_SPEC)
    return path


@pytest.fixture(scope="session")
def export_small(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Exports the small checkpoint with the given `ExportOptions`; each kind once a session."""
    from alignseg_infer.export.graph.options import ExportOptions
    from alignseg_infer.export.to_onnx import onnx_from_checkpoint
    from alignseg_infer.models.checkpoint import load_checkpoint

    folder = tmp_path_factory.mktemp("exports")
    made: dict[ExportOptions, Path] = {}

    def export(**options: object) -> Path:
        key = ExportOptions(**options)  # type: ignore[arg-type]
        if key not in made:
            path = folder / f"{len(made)}.onnx"
            onnx_from_checkpoint(load_checkpoint(small_checkpoint), path, key)
            made[key] = path
        return made[key]

    return export


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
