"""Each precision with each sampler, of one size and of any: commands export, verify and build it.

TensorRT for RTX builds them here, without a GPU. It has no plugins, so it refuses those graphs.
"""

from pathlib import Path

import pytest

from alignseg_infer.cli import main
from alignseg_infer.demo import checkpoint_path
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.spec.model import Precision, Sampler
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.trt.engine_file import read_facts

SIZES = {
    "one size": (["--size", "64x128", "--batch", "1"], []),
    "any size": ([], ["--opt-shape", "1x64x128"]),
}


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("streets")
    list(write_streets(folder, first=0, count=4, size=(64, 128)))
    return str(folder / "images")


def check_build(model: Path, precision: Precision, shape: list[str]) -> None:
    engine = model.with_suffix(".engine")
    build = ["export-trt", str(model), "-o", str(engine), "--flavour", "tensorrt-rtx", *shape]
    assert main(build) == 0
    export = read_facts(engine).spec.export
    assert export is not None
    assert export.precision is precision


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("sampler", Sampler)
def test_every_precision_is_exported_verified_and_built(
    sampler: Sampler, sizes: str, streets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size, shape = SIZES[sizes]
    float32 = str(tmp_path / "fp32.onnx")
    sources = {
        Precision.FP32: ["demo", "--sampler", sampler, *size],
        Precision.FP16: [float32, "--precision", "fp16"],
        Precision.INT8: [float32, "--precision", "int8", "--calibration", streets],
    }
    for precision, arguments in sources.items():
        model = tmp_path / f"{precision}.onnx"
        assert main(["export-onnx", *arguments, "-o", str(model)]) == 0
        export = read_onnx_facts(model).export
        assert (export.precision, export.sampler) == (precision, sampler)
        if sampler is not Sampler.PLUGIN:
            images = ["--images", streets, "--max-images", "2"]
            assert main(["verify", str(model), "--against", "demo", *images]) == 0
            assert "passed" in capsys.readouterr().out
            check_build(model, precision, shape)
    if sampler is Sampler.PLUGIN:
        refused = ["export-trt", float32, "-o", f"{tmp_path}/x.engine", "--flavour", "tensorrt-rtx"]
        assert main([*refused, *shape]) == 1
        assert "does not support" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_becomes_an_engine_in_one_command(streets: str, tmp_path: Path) -> None:
    """The casts of weights in this graph were once taken for coordinates, so it was refused."""
    engine = tmp_path / "a.engine"
    command = [
        "export-trt",
        str(checkpoint_path("demo")),
        "-o",
        str(engine),
        "--flavour",
        "tensorrt-rtx",
    ]
    kind = ["--sampler", "gather", "--precision", "int8", "--calibration", streets]
    assert main([*command, *kind, *SIZES["one size"][0]]) == 0
    export = read_facts(engine).spec.export
    assert export is not None
    assert (export.precision, export.sampler) == (Precision.INT8, Sampler.GATHER)
