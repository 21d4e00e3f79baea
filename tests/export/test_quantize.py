"""INT8: which convolutions are quantised and how, that others are not, and what it costs."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from numpy.typing import NDArray

from alignseg_infer import Predictor
from alignseg_infer.cli.arguments.int8 import add_quantization_arguments
from alignseg_infer.cli.commands import sensitivity
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.errors import (
    ExportError,
    ModelFileError,
    OptionError,
)
from alignseg_infer.export.graph.onnx_file import load_graph
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.export.int8.convolutions import (
    Convolution,
    Grain,
    Role,
    find_convolutions,
    list_blocks,
)
from alignseg_infer.export.int8.histograms import CalibrationMethod, Ranges
from alignseg_infer.export.int8.options import Int8Options, QuantizationOptions, int8_options_for
from alignseg_infer.export.int8.quantize import quantize_model
from alignseg_infer.spec.model import Precision
from tests.support.export_kinds import FIXED, FIXED_OFFSETS, GATHER, KINDS, NATIVE, PLAIN_OFFSETS
from tests.support.slow import all_slow

BLOCKS = (
    *("stem", "layer1", "layer2", "layer3", "layer4", "RRB1a", "RRB2a", "RRB2b", "RRB3a"),
    *("RRB3b", "RRB4a", "RRB4b", "CAM", "RRB5a", "RRB5b", "head"),
)

Export = Callable[..., Path]


def made_up_ranges(model: onnx_ir.Model, limit: float = 8.0) -> Ranges:
    limits = {conv.source: limit for conv in find_convolutions(model)}
    return Ranges(CalibrationMethod.MINMAX, 1, limits)


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with images and labels of four streets that the demo was trained on."""
    folder = tmp_path_factory.mktemp("streets")
    assert len(list(write_streets(folder, 0, 4, (96, 192)))) == 4
    return folder


@pytest.fixture(scope="session")
def demo_ranges(streets: Path) -> Ranges:
    return calibrate_ranges(model_path("demo"), choose_images(streets / "images"))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_roles_come_from_the_flow_of_values(export_small: Export, kind: dict[str, Any]) -> None:
    model = onnx_ir.load(export_small(**kind))
    found = {role: [c.layer for c in find_convolutions(model) if c.part is role] for role in Role}
    assert len(found[Role.CLASSIFIER]) == 1
    assert found[Role.CLASSIFIER][0].startswith("head.")
    assert len(found[Role.OFFSETS]) == (20 if kind.get("rewrites", True) else 18)
    assert all(".delta_gen" in layer for layer in found[Role.OFFSETS])
    assert not any(".delta_gen" in layer for layer in found[Role.FEATURES])
    last = [conv.layer for conv in find_convolutions(model) if conv.role is Role.OFFSETS]
    assert len(last) == (5 if kind.get("rewrites", True) else 9)
    assert set(list_blocks(model)) == set(BLOCKS)


@pytest.mark.parametrize("kind", [FIXED_OFFSETS, PLAIN_OFFSETS, FIXED], ids=str)
def test_roles_do_not_need_an_order_of_outputs(export_small: Export, kind: dict[str, Any]) -> None:
    model = onnx_ir.load(export_small(**kind))
    expected = find_convolutions(model)
    for turn in range(len(model.graph.outputs)):
        outputs = list(model.graph.outputs)
        model.graph.outputs[:] = outputs[1:] + outputs[:1]
        assert find_convolutions(model) == expected, turn


def test_roles_do_not_need_names(small_onnx: Path) -> None:
    model = onnx_ir.load(small_onnx)
    roles = [conv.role for conv in find_convolutions(model)]
    for index, value in enumerate(list(model.graph.initializers.values())):
        value.name = f"tensor{index}"
    assert [conv.role for conv in find_convolutions(model)] == roles


@pytest.mark.parametrize(
    ("layer", "block", "grain", "expected"),
    [
        ("conv2", "stem", Grain.STAGE, "stem"),
        ("layer3.22.conv1", "layer3", Grain.STAGE, "layer3"),
        ("layer3.22.conv1", "layer3.22", Grain.BLOCK, "layer3.22"),
        ("layer3.2.conv1", "layer3.2.conv1", Grain.BLOCK, "layer3.2"),
        ("RRB2b.inner", "RRB2b", Grain.BLOCK, "RRB2b"),
        ("CAM.adapt.0", "CAM.adapt", Grain.STAGE, "CAM"),
    ],
)
def test_blocks(layer: str, block: str, grain: Grain, expected: str) -> None:
    conv = Convolution("y", "x", layer, Role.FEATURES)
    assert conv.block(grain) == expected
    assert conv.belongs_to(block)
    assert not conv.belongs_to(f"{block}2")
    assert not conv.belongs_to("layer3.2.conv")


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_graph(export_small: Export, kind: dict[str, Any]) -> None:
    model = onnx_ir.load(export_small(**kind))
    before = onnx_ir.to_proto(model)
    after = onnx_ir.to_proto(quantize_model(model, made_up_ranges(model)))
    assert onnx_ir.to_proto(model) == before  # a copy
    onnx.checker.check_model(after, full_check=True)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.metadata_props == before.metadata_props
    assert after.opset_import == before.opset_import
    assert (after.producer_name, after.graph.name) == (before.producer_name, before.graph.name)

    producers = {name: node for node in after.graph.node for name in node.output}
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    roles = {conv.result: conv.role for conv in find_convolutions(model)}
    for node in after.graph.node:
        if node.op_type == "Conv":
            read = [getattr(producers.get(name), "op_type", None) for name in node.input]
            if roles[node.output[0]] is Role.FEATURES:
                assert read[:2] == ["DequantizeLinear"] * 2
                assert read[2:] in ([], [None])  # the bias is constant, and float
                _check_weight(producers[node.input[1]], values)
                _check_activation(producers[node.input[0]], producers, values)
            else:
                assert "DequantizeLinear" not in read
    _check_float_readers(after, producers)


def _check_weight(node: onnx.NodeProto, values: dict[str, NDArray[Any]]) -> None:
    weight, scale, zero = (values[name] for name in node.input)
    assert [str(array.dtype) for array in (weight, zero, scale)] == ["int8", "int8", "float32"]
    assert scale.shape == zero.shape == weight.shape[:1]
    assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [0]
    assert not zero.any()
    assert (scale > 0).all()
    assert np.abs(weight.astype(int)).max() == 127


def _check_activation(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], values: dict[str, NDArray[Any]]
) -> None:
    quantize = producers[node.input[0]]
    assert quantize.op_type == "QuantizeLinear"
    assert quantize.input[1:] == node.input[1:]
    scale, zero = (values[name] for name in node.input[1:])
    assert (str(zero.dtype), zero.item(), scale.shape) == ("int8", 0, ())
    assert scale.item() == pytest.approx(8 / 127)


def _check_float_readers(model: onnx.ModelProto, producers: dict[str, onnx.NodeProto]) -> None:
    """Only convolutions, and skip connections beside one, read rounded values."""
    rounded = {name for name, node in producers.items() if node.op_type == "DequantizeLinear"}
    readers = [node for node in model.graph.node if set(node.input) & rounded]
    assert {node.op_type for node in readers} <= {"Conv", "Add"}
    for node in readers:
        if node.op_type == "Add":
            assert sorted(producers[name].op_type for name in node.input) == [
                "Conv",
                "DequantizeLinear",
            ]


def test_weights_are_rounded_by_their_own_channel(small_onnx: Path) -> None:
    model = onnx_ir.load(small_onnx)
    quantized = quantize_model(model, made_up_ranges(model)).graph.initializers
    weight = model.graph.initializers["model.layer1.0.conv1.weight"].const_value
    assert weight is not None
    parts = (
        quantized[f"model.layer1.0.conv1.weight_{part}"].const_value
        for part in ("quantized", "scale")
    )
    integers, scale = (part.numpy() for part in parts if part is not None)
    error = np.abs(integers * scale.reshape(-1, 1, 1, 1) - weight.numpy())
    assert (error.max(axis=(1, 2, 3)) <= scale * 0.5001).all()
    assert len(set(scale.tolist())) == len(scale)


@pytest.mark.parametrize("kept", [("layer1", "RRB2b.inner"), ("stem",), BLOCKS[:-1]])
def test_blocks_kept_in_float(small_onnx: Path, kept: tuple[str, ...]) -> None:
    model = onnx_ir.load(small_onnx)
    options = QuantizationOptions(keep_float=kept)
    quantized = quantize_model(model, made_up_ranges(model), options)
    integer = {
        str(value.name).removeprefix("model.").removesuffix(".weight_quantized")
        for value in quantized.graph.initializers.values()
        if str(value.name).endswith(".weight_quantized")
    }
    features = [conv for conv in find_convolutions(model) if conv.role is Role.FEATURES]
    expected = {c.layer for c in features if not any(c.belongs_to(block) for block in kept)}
    assert integer == expected
    assert 0 < len(integer) < len(features)


def test_int8_labels_are_nearly_those_of_fp32(demo_ranges: Ranges, tmp_path: Path) -> None:
    demo = onnx_ir.load(model_path("demo"))
    path = tmp_path / "int8.onnx"
    onnx_ir.save(quantize_model(demo, demo_ranges), path)
    assert path.stat().st_size < 0.35 * model_path("demo").stat().st_size
    scenes = [Street(1_000_000 + index).scene(size=(128, 256)).image for index in range(3)]
    exact, quantized = (Predictor(model)(scenes) for model in ("demo", path))
    alike = [np.mean(a.labels == b.labels) for a, b in zip(exact, quantized, strict=True)]
    assert 0.98 <= np.mean(alike) < 1


def _half(model: onnx_ir.Model) -> tuple[onnx_ir.Model, Ranges]:
    name, value = next(iter(model.graph.initializers.items()))
    assert value.const_value is not None
    half = onnx_ir.tensor(value.const_value.numpy().astype(np.float16), name=name)
    model.graph.initializers[name].const_value = half
    model.graph.initializers[name].dtype = onnx_ir.DataType.FLOAT16
    return model, made_up_ranges(model)


def _quantized_twice(model: onnx_ir.Model) -> tuple[onnx_ir.Model, Ranges]:
    once = quantize_model(model, made_up_ranges(model))
    return once, made_up_ranges(model)


def _other_ranges(model: onnx_ir.Model) -> tuple[onnx_ir.Model, Ranges]:
    ranges = made_up_ranges(model)
    limits = {name: limit for name, limit in ranges.limits.items() if name != "image"}
    return model, replace(ranges, limits=limits)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_half, "not entirely float32"),
        (_quantized_twice, "already quantised"),
        (_other_ranges, "no range was calibrated for 1 tensors, the first 'image'"),
    ],
)
def test_graphs_that_cannot_be_quantised(
    small_onnx: Path,
    make: Callable[[onnx_ir.Model], tuple[onnx_ir.Model, Ranges]],
    problem: str,
) -> None:
    model, ranges = make(onnx_ir.load(small_onnx))
    with pytest.raises(ExportError, match=problem):
        quantize_model(model, ranges)


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        (("layer9",), "no block 'layer9'"),
        (("CAB5",), "no block 'CAB5'"),  # has nothing but offsets
        (BLOCKS, "every convolution"),
    ],
)
def test_blocks_that_cannot_be_kept(small_onnx: Path, kept: tuple[str, ...], problem: str) -> None:
    model = onnx_ir.load(small_onnx)
    options = QuantizationOptions(keep_float=kept)
    with pytest.raises(OptionError, match=problem):
        quantize_model(model, made_up_ranges(model), options)


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(b"hello")
    for name, problem in (("text.onnx", "cannot be loaded"), ("none.onnx", "does not exist")):
        with pytest.raises(ModelFileError, match=problem):
            load_graph(tmp_path / name)


@pytest.mark.parametrize("kind", [NATIVE, *all_slow(GATHER)], ids=str)
def test_tensorrt_rtx_builds_int8(
    export_small: Export, tmp_path: Path, kind: dict[str, Any]
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    model = onnx_ir.load(export_small(**kind))
    path = tmp_path / "int8.onnx"
    onnx_ir.save(quantize_model(model, made_up_ranges(model)), path)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), parser.get_error(0)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantize = [layer for layer in layers if layer.type == trt.LayerType.QUANTIZE]
    assert len(quantize) > 30
    assert {layer.get_output(0).dtype for layer in quantize} == {trt.DataType.INT8}
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 3, 64, 96), (1, 3, 64, 96), (2, 3, 96, 128))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config).nbytes > 1000


def _parsed(words: list[str]) -> Int8Options:
    parser = argparse.ArgumentParser()
    add_quantization_arguments(parser)
    options = int8_options_for(Precision.INT8, **vars(parser.parse_args(words)))
    assert options is not None
    return options


def test_arguments() -> None:
    options = _parsed(["--calibration", "images"])
    assert options == Int8Options(source="images")
    words = "--calibration drive.mp4 --max-calibration-images 7 --calibration-method minmax"
    words += " --calibration-size 64x96 --calibration-cache seen --keep-float stem RRB2b"
    options = _parsed([*words.split(), "--int8-budget", "0.5"])
    assert (options.source, options.max_images, options.budget) == ("drive.mp4", 7, 0.5)
    assert options.quantization.keep_float == ("stem", "RRB2b")
    calibration = options.calibration
    assert (calibration.method, calibration.size) == (CalibrationMethod.MINMAX, (64, 96))
    assert calibration.cache == Path("seen")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "without images to calibrate with"),
        (["--calibration", "images", "--int8-budget", "-1"], "int8_budget=-1"),
        (["--calibration", "images", "--int8-budget", "nan"], "int8_budget=nan"),
    ],
)
def test_bad_arguments(words: list[str], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        _parsed(words)


def test_command_knows_the_grains() -> None:
    parser = argparse.ArgumentParser()
    sensitivity.add_arguments(parser)
    (blocks,) = [action for action in parser._actions if action.dest == "blocks"]
    assert blocks.choices == tuple(Grain)
    assert blocks.default == Grain.STAGE
