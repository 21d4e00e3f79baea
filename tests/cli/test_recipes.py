"""From the arguments of the commands that export to the recipe; nothing is exported."""

import argparse
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from alignseg_infer import OptionError, export_engine, export_onnx
from alignseg_infer.arrays import InputShape
from alignseg_infer.cli import COMMANDS
from alignseg_infer.cli.arguments.engine import build_options_from
from alignseg_infer.cli.arguments.graph import recipe_from
from alignseg_infer.datasets.class_tables import VOC
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.int8.options import CalibrationOptions, Int8Options, QuantizationOptions
from alignseg_infer.export.recipe import (
    CHECKPOINT_NAMES,
    GRAPH_NAMES,
    INT8_NAMES,
    Recipe,
    recipe_for,
)
from alignseg_infer.models.checkpoint_options import CheckpointOptions, Weights
from alignseg_infer.spec.model import (
    ChannelOrder,
    NormKind,
    OutputKind,
    Precision,
    Sampler,
    SamplingConvention,
    Upsampling,
)
from alignseg_infer.trt.builder.options import BuildOptions, HardwareCompatibility
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Flavour

ROOT = Path(__file__).parents[2]


def parsed(command: str, options: str = "") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMANDS[command].add_arguments(parser)
    return parser.parse_args(["model.pth", "-o", "out", *options.split()])


@pytest.mark.parametrize("command", ["export-onnx", "export-trt"])
def test_no_option_asks_for_nothing(command: str) -> None:
    assert recipe_from(parsed(command)) == Recipe()


def test_options_of_the_graph_and_the_checkpoint() -> None:
    options = (
        "--size 64x96 --batch 2 --output labels --sampler plugin --opset 19 --no-rewrites "
        "--no-fuse --with-offsets --upsampling resize --precision fp16 "
        "--max-verification-images 3 "
        "--convention standard --norm batch-norm --channel-order rgb --mean 1 2 3 --std 4 5 6 "
        "--classes voc --weights raw --threshold 0.25"
    )
    found = recipe_from(parsed("export-onnx", options))
    assert set(found.fixed) == {
        *("sampler", "opset", "rewrites", "fuse", "with_offsets", "upsampling", "convention"),
        *("norm", "channel_order", "mean", "std", "classes", "weights", "threshold"),
    }
    assert replace(found, fixed=()) == Recipe(
        precision=Precision.FP16,
        graph=ExportOptions(
            size=(64, 96),
            batch=2,
            output=OutputKind.LABELS,
            sampler=Sampler.PLUGIN,
            opset=19,
            rewrites=False,
            fuse=False,
            with_offsets=True,
            upsampling=Upsampling.RESIZE,
        ),
        checkpoint=CheckpointOptions(
            convention=SamplingConvention.STANDARD,
            norm=NormKind.BATCH_NORM,
            channel_order=ChannelOrder.RGB,
            mean=(1.0, 2.0, 3.0),
            std=(4.0, 5.0, 6.0),
            classes=VOC,
            weights=Weights.RAW,
            threshold=0.25,
        ),
        max_verification_images=3,
    )


def test_options_of_int8(tmp_path: Path) -> None:
    options = (
        f"--precision int8 --calibration {tmp_path} --max-calibration-images 7 "
        "--calibration-method minmax --calibration-size 64x96 --calibration-cache seen "
        f"--keep-float stem RRB2b --int8-budget 0.5 --verification {tmp_path} --min-agreement 0.9"
    )
    assert recipe_from(parsed("export-trt", options)) == Recipe(
        precision=Precision.INT8,
        int8=Int8Options(
            source=str(tmp_path),
            max_images=7,
            calibration=CalibrationOptions(
                method="minmax",  # type: ignore[arg-type]  # takes strings
                size=(64, 96),
                cache=Path("seen"),
            ),
            quantization=QuantizationOptions(keep_float=("stem", "RRB2b")),
            budget=0.5,
        ),
        verification=str(tmp_path),
        min_agreement=0.9,
    )


@pytest.mark.parametrize("function", [export_onnx, export_engine])
def test_functions_have_every_parameter_of_a_recipe(function: Callable[..., object]) -> None:
    """They hand on their parameters by name."""
    names = {"precision", "verification", "max_verification_images", "min_agreement"}
    names |= {*GRAPH_NAMES, *CHECKPOINT_NAMES, *INT8_NAMES}
    if function is export_engine:  # which is for TensorRT
        names -= {"target"}
    assert names <= inspect.signature(function).parameters.keys()


@pytest.mark.parametrize("command", ["export-onnx", "export-trt"])
def test_commands_have_every_parameter_of_a_recipe(command: str) -> None:
    names = {"precision", "verification", "max_verification_images", "min_agreement"}
    names |= {*GRAPH_NAMES, *CHECKPOINT_NAMES, *INT8_NAMES}
    if command == "export-trt":  # whose target is said by its name
        names -= {"target"}
    assert names <= vars(parsed(command, "")).keys()


def test_a_recipe_is_whole(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="without images to calibrate with"):
        Recipe(precision=Precision.INT8)
    with pytest.raises(OptionError, match="calibration= was given without precision='int8'"):
        Recipe(precision=Precision.FP16, int8=Int8Options(source=tmp_path))
    with pytest.raises(OptionError, match="precision='fp8'"):
        recipe_for({"precision": "fp8"})


def test_options_of_the_engine() -> None:
    options = (
        "--flavour tensorrt --min-shape 1x64x64 --opt-shape 2x64x64 --max-shape 4x64x96 "
        "--workspace 64 --optimization-level 5 --tf32 --timing-cache cache --version-compatible "
        "--hardware-compatibility ampere-plus --plugin a.so --embed-plugin"
    )
    assert build_options_from(parsed("export-trt", options)) == BuildOptions(
        flavour=Flavour.TENSORRT,
        profile=Profile(InputShape(1, 64, 64), InputShape(2, 64, 64), InputShape(4, 64, 96)),
        workspace=64,
        optimization_level=5,
        tf32=True,
        timing_cache=Path("cache"),
        version_compatible=True,
        hardware_compatibility=HardwareCompatibility.AMPERE_PLUS,
        plugin=Path("a.so"),
        embed_plugin=True,
    )
    options = "--flavour tensorrt-rtx --compute-capabilities 8.9 12.0 --opt-shape 1x64x64"
    built = build_options_from(parsed("export-trt", options))
    shape = InputShape(1, 64, 64)
    assert built.profile == Profile(shape, shape, shape)
    assert built.compute_capabilities == ("8.9", "12.0")


@pytest.mark.parametrize("script", ["to_onnx", "to_trt"])
def test_scripts_say_what_they_take(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "export" / f"{script}.py"), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--destination" in done.stdout
