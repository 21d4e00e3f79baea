"""Builds TensorRT for RTX engines of full-width networks and prints Markdown. Needs no GPU.

    python -m tests.benchmarks.engines [--backbones resnet101 resnet18] [--opt-shape 1x512x1024]

Weights are seeded, not trained. Every engine is built in a process of its own. Times depend on the
CPU, and include neither the export nor the parsing.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import cv2
import onnx_ir

from alignseg_infer.arrays import InputShape
from alignseg_infer.cli.arguments.values import input_shape
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.half_precision import to_half_precision
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.export.int8.quantize import quantize_model
from alignseg_infer.export.to_onnx import onnx_from_checkpoint
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.spec.model import SPEC_KEY, ModelSpec, Precision, Sampler
from alignseg_infer.trt.builder.engine import engine_from_onnx
from alignseg_infer.trt.builder.layer_report import working_layers
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Flavour
from tests.benchmarks.export import write_checkpoint

CALIBRATION_SIZE = (128, 256)
CALIBRATION_IMAGES = 2
SMALLEST = InputShape(1, 256, 512)


def write_variant(source: Path, target: Path, precision: Precision, images: Path) -> None:
    """Write `source` in another precision, unchecked: seeded weights need not pass the checks."""
    model = onnx_ir.load(source)
    if precision is Precision.INT8:
        found = choose_images(images, CALIBRATION_IMAGES)
        model = quantize_model(model, calibrate_ranges(source, found))
    if precision is not Precision.FP32:
        to_half_precision(model)
    spec = ModelSpec.from_json(model.metadata_props[SPEC_KEY])
    assert spec.export is not None
    export = replace(spec.export, precision=precision, opset=model.opset_imports[""])
    model.metadata_props[SPEC_KEY] = replace(spec, export=export).to_json()
    onnx_ir.save(model, target)


def write_variants(backbone: str, folder: Path) -> dict[str, Path]:
    """Write ONNX files, and return them by precision and lowering."""
    checkpoint = folder / f"{backbone}.pth"
    write_checkpoint(backbone, checkpoint)
    files = {}
    for sampler in (Sampler.NATIVE, Sampler.GATHER):
        source = folder / f"{backbone}-{sampler}.onnx"
        onnx_from_checkpoint(load_checkpoint(checkpoint), source, ExportOptions(sampler=sampler))
        for precision in Precision:
            path = folder / f"{backbone}-{sampler}-{precision}.onnx"
            write_variant(source, path, precision, folder / "images")
            files[f"{precision}, {sampler}"] = path
    return files


def measure(path: Path, profile: Profile) -> None:
    """Build one engine and print facts about it as JSON."""
    engine = engine_from_onnx(path, BuildOptions(flavour=Flavour.TENSORRT_RTX, profile=profile))
    layers = engine.facts.layers
    types = {one.data_type: one.count for one in layers if one.kind == "CONVOLUTION"}
    working = working_layers(engine.network)
    row = {
        "seconds": engine.seconds,
        "megabytes": len(engine.plan) / 1e6,
        "convolutions": types,
        "half": sum(layer.data_type == "HALF" for layer in working) / len(working),
        "layers": len(working),
    }
    print(json.dumps(row))


def table_row(name: str, path: Path, best: InputShape, dynamic: bool) -> str:
    """Return one Markdown row, measured in a child process."""
    program = [sys.executable, "-m", "tests.benchmarks.engines"]
    command = [*program, "--measure", str(path), "--opt-shape", str(best)]
    if dynamic:
        command.append("--dynamic")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shapes = f"{SMALLEST} to {best}" if dynamic else f"{best}"
    if done.returncode:
        return f"| {name} | {shapes} | failed: {done.stderr.strip().splitlines()[-1][:200]} | | | |"
    row = json.loads(done.stdout.splitlines()[-1])
    convolutions = ", ".join(f"{count} {kind}" for kind, count in row["convolutions"].items())
    half = f"{row['half']:.0%} of {row['layers']}"
    return (
        f"| {name} | {shapes} | {row['seconds']:.1f} | {row['megabytes']:.0f} "
        f"| {path.stat().st_size / 1e6:.0f} | {convolutions} | {half} |"
    )


def main() -> None:
    """Build everything and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=["resnet101", "resnet18"])
    parser.add_argument("--opt-shape", type=input_shape, default=InputShape(1, 512, 1024))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dynamic", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    best = arguments.opt_shape
    if arguments.measure:
        low = SMALLEST if arguments.dynamic else best
        measure(arguments.measure, Profile(low, best, best))
        return
    print(f"{platform.machine()}, tensorrt-rtx {version('tensorrt-rtx-cu13')}\n")
    for backbone in arguments.backbones:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "images"
            images.mkdir()
            for seed in range(CALIBRATION_IMAGES):
                cv2.imwrite(str(images / f"{seed}.png"), probe_image(CALIBRATION_SIZE, seed))
            print(f"| {backbone} | shapes | build s | engine MB | ONNX MB | convolutions | FP16 |")
            print("|---|---|---|---|---|---|---|")
            for name, path in write_variants(backbone, Path(folder)).items():
                for dynamic in (False, True):
                    print(table_row(name, path, best, dynamic), flush=True)
        print()


if __name__ == "__main__":
    main()
