"""Each precision with each sampler, of one size and of any: commands export, verify and build it.

TensorRT for RTX builds them here, without a GPU. It has no plugins, so it refuses those graphs.
"""

import itertools
from pathlib import Path

import pytest

from alignseg_infer.cli import main
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.spec.model import Precision, Sampler
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.trt.engine_file import read_facts

ONE_SIZE = ["--size", "64x128", "--batch", "1"]
SIZES = {"one size": (ONE_SIZE, []), "any size": ([], ["--opt-shape", "1x64x128"])}
CELLS = list(itertools.product(Precision, Sampler, SIZES))


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("streets")
    list(write_streets(folder, first=0, count=8, size=(64, 128)))
    return str(folder / "images")


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "sampler", "sizes"), CELLS)
def test_every_cell_is_exported_verified_and_built(
    precision: Precision,
    sampler: Sampler,
    sizes: str,
    streets: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size, shape = SIZES[sizes]
    model, engine = tmp_path / "model.onnx", tmp_path / "model.engine"
    arguments = ["--precision", precision, "--sampler", sampler, *size]
    if precision is Precision.INT8:
        arguments += ["--calibration", streets]
    assert main(["export-onnx", "demo", "-o", str(model), *arguments]) == 0
    export = read_onnx_facts(model).spec.export
    assert export is not None
    assert (export.precision, export.sampler) == (precision, sampler)

    if sampler is not Sampler.PLUGIN:  # ONNX Runtime cannot run plugins
        images = ["--images", streets, "--max-images", "2"]
        assert main(["verify", str(model), "--against", "demo", *images]) == 0
        assert "passed" in capsys.readouterr().out

    build = ["export-trt", str(model), "-o", str(engine), "--flavour", "tensorrt-rtx", *shape]
    built = main(build)
    if sampler is Sampler.PLUGIN:
        assert built == 1
        assert "does not support" in capsys.readouterr().err
        assert not engine.exists()
    else:
        assert built == 0
        built_export = read_facts(engine).spec.export
        assert built_export is not None
        assert built_export.precision is precision
