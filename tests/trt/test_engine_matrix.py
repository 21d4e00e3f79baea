"""Every precision, lowering and kind of profile, for ResNet-18 and -101: real engines, no GPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import onnx_ir
import pytest

from alignseg_infer.arrays import InputShape
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.half_precision import to_half_precision
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.export.int8.quantize import quantize_model
from alignseg_infer.export.to_onnx import onnx_from_checkpoint
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.spec.model import Precision, Sampler, Upsampling
from alignseg_infer.trt.builder.engine import engine_from_onnx
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Flavour
from tests.support.export_kinds import GATHER, NATIVE
from tests.support.models import SMALL, SMALL_SPEC, said_to_be, write_seeded_checkpoint
from tests.support.slow import all_slow

pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")

CONVOLUTIONS = {"resnet18": 76, "resnet101": 159}
# Files exported for CPUs, and files exported for engines.
NETWORKS = [
    ("resnet18", Upsampling.MATRICES),
    *all_slow(*((name, Upsampling.RESIZE) for name in CONVOLUTIONS)),
]
RESIZES = 9
IN_HALF = 21  # in an int8 graph: offset branches of four CABs and the CAM, and the classifier
PROFILES = {
    "static": Profile(*[InputShape(1, 96, 160)] * 3),
    "dynamic": Profile(InputShape(1, 64, 64), InputShape(1, 96, 160), InputShape(2, 128, 192)),
}


@pytest.fixture(scope="module")
def in_precision(
    tmp_path_factory: pytest.TempPathFactory, export_small: Callable[..., Path]
) -> Callable[[str, Upsampling, Sampler, Precision], Path]:
    """ONNX files of narrow networks, each made once."""
    folder = tmp_path_factory.mktemp("matrix")
    images = folder / "images"
    images.mkdir()
    for seed in range(2):
        cv2.imwrite(str(images / f"{seed}.png"), probe_image((64, 96), seed))

    def float32(backbone: str, upsampling: Upsampling, sampler: Sampler) -> Path:
        if backbone == SMALL.backbone:
            kind = GATHER if sampler is Sampler.GATHER else NATIVE
            return export_small(**kind, upsampling=upsampling)
        path = folder / f"{backbone}-{upsampling}-{sampler}.onnx"
        if not path.exists():
            checkpoint = folder / f"{backbone}.pth"
            network = replace(SMALL, backbone=backbone)
            write_seeded_checkpoint(checkpoint, replace(SMALL_SPEC, network=network))
            options = ExportOptions(sampler=sampler, upsampling=upsampling)
            onnx_from_checkpoint(load_checkpoint(checkpoint), path, options)
        return path

    def file(backbone: str, upsampling: Upsampling, sampler: Sampler, precision: Precision) -> Path:
        source = float32(backbone, upsampling, sampler)
        path = folder / f"{backbone}-{upsampling}-{sampler}-{precision}.onnx"
        if precision is Precision.FP32:
            return source
        if path.exists():
            return path
        model = onnx_ir.load(source)
        if precision is Precision.INT8:
            ranges = calibrate_ranges(source, choose_images(images, 2))
            model = quantize_model(model, ranges)
        to_half_precision(model)
        return said_to_be(model, precision, path)

    return file


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("sampler", [Sampler.NATIVE, *all_slow(Sampler.GATHER)])
@pytest.mark.parametrize(("backbone", "upsampling"), NETWORKS)
def test_layer_types(
    backbone: str,
    upsampling: Upsampling,
    sampler: Sampler,
    precision: Precision,
    profile: str,
    in_precision: Callable[[str, Upsampling, Sampler, Precision], Path],
) -> None:
    path = in_precision(backbone, upsampling, sampler, precision)
    options = BuildOptions(flavour=Flavour.TENSORRT_RTX, profile=PROFILES[profile])
    engine = engine_from_onnx(path, options)
    kinds: dict[str, dict[str, int]] = {}
    for layer in engine.facts.layers:
        kinds.setdefault(layer.kind, {})[layer.data_type] = layer.count
    every = CONVOLUTIONS[backbone]
    wanted = {
        Precision.FP32: {"FLOAT": every},
        Precision.FP16: {"HALF": every},
        Precision.INT8: {"INT8": every - IN_HALF, "HALF": IN_HALF},
    }
    assert kinds["CONVOLUTION"] == wanted[precision]
    # TensorRT samples in the grid's type, and coordinates are float32.
    assert kinds.get("GRID_SAMPLE", {}) == ({"FLOAT": 9} if sampler is Sampler.NATIVE else {})
    features = "FLOAT" if precision is Precision.FP32 else "HALF"
    if sampler is Sampler.GATHER:  # four corners of nine features
        assert kinds["GATHER"][features] >= 36
    assert kinds.get("RESIZE", {}) == (
        {features: RESIZES} if upsampling is Upsampling.RESIZE else {}
    )
    assert engine.facts.profile == PROFILES[profile]
