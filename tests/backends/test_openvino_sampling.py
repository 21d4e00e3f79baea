"""Sampling in OpenVINO: gathers of pixels equal GridSample, and where they take its place."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alignseg_infer import Predictor, SizeError
from alignseg_infer.arrays import Size
from alignseg_infer.backends import open_backend, openvino_backend, openvino_sampling
from alignseg_infer.backends.openvino_backend import _core_of
from alignseg_infer.backends.openvino_sampling import sample_whole_pixels
from alignseg_infer.demo.streets import Street
from tests.support.cpu_int8 import DEMO, draw_calibration, export_int8
from tests.support.slow import all_slow

Floats = NDArray[np.float32]
NOT_OURS = [
    {"align_corners": True},
    {"mode": "nearest"},
    {"mode": "bicubic"},
    {"padding_mode": "border"},
]
SIZE = (96, 160)
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def sampling(feature: Any, grid: Any, **other: object) -> Any:
    ours = {"align_corners": False, "mode": "bilinear", "padding_mode": "zeros"}
    return ops.grid_sample(feature, grid, {**ours, **other})


def parameters(*shapes: tuple[int, ...]) -> list[Any]:
    return [ops.parameter(list(shape), openvino.Type.f32) for shape in shapes]


def run(model: Any, *inputs: Floats) -> list[Floats]:
    # OpenVINO frees what signal handlers need when it unloads a core; this one stays.
    compiled = _core_of(os.getpid()).compile_model(model, "CPU", EXACT)
    return [np.array(output) for output in compiled(list(inputs)).values()]


def kinds_of(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 3),
    channels=st.integers(32, 40),
    feature=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    output=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    strip=st.sampled_from([1, 1 << 10, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_gathers_equal_grid_sample(
    count: int, channels: int, feature: Size, output: Size, strip: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    pixels = random.normal(size=(count, channels, *feature)).astype(np.float32)
    grid = random.uniform(-1.5, 1.5, (count, *output, 2)).astype(np.float32)
    nodes = parameters(pixels.shape, grid.shape)
    [expected] = run(openvino.Model([sampling(*nodes)], nodes, ""), pixels, grid)
    nodes = parameters(pixels.shape, grid.shape)
    model = openvino.Model([sampling(*nodes)], nodes, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_sampling, "_STRIP_BYTES", strip)
        assert sample_whole_pixels(model) == 1
    assert "GridSample" not in kinds_of(model)
    assert model.output(0).get_shape() == [count, channels, *output]
    [seen] = run(model, pixels, grid)
    np.testing.assert_allclose(seen, expected, atol=1e-5)


@pytest.mark.parametrize("far", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_positions_that_no_pixel_has(far: float) -> None:
    nodes = parameters((1, 32, 3, 4), (1, 1, 2, 2))
    model = openvino.Model([sampling(*nodes)], nodes, "")
    sample_whole_pixels(model)
    grid = np.array([[[[far, far], [0, 0]]]], np.float32)
    [output] = run(model, np.ones((1, 32, 3, 4), np.float32), grid)
    assert np.all(output[..., 0] == 0)
    assert np.all(output[..., 1] == 1)


@pytest.mark.parametrize(
    ("channels", "other"), [(31, {}), *((32, attributes) for attributes in NOT_OURS)]
)
def test_other_kinds_of_sampling_stay(channels: int, other: dict[str, object]) -> None:
    nodes = parameters((1, channels, 3, 4), (1, 5, 6, 2))
    model = openvino.Model([sampling(*nodes, **other)], nodes, "")
    assert sample_whole_pixels(model) == 0
    assert "GridSample" in kinds_of(model)


def test_what_reads_a_sum_reads_the_same() -> None:
    """A sum of two samplings is read by quantisation, whose result is read twice, and as it is."""
    shapes = [(1, 32, 4, 5), (1, 6, 7, 2), (1, 32, 8, 9), (1, 6, 7, 2)]

    def build() -> Any:
        first, first_grid, second, second_grid = nodes = parameters(*shapes)
        total = ops.add(sampling(first, first_grid), sampling(second, second_grid))
        bounds = [ops.constant(np.float32(value)) for value in (-3, 3, -3, 3)]
        rounded = ops.fake_quantize(total, *bounds, levels=256)
        per_channel = ops.constant(np.arange(32, dtype=np.float32).reshape(1, 32, 1, 1))
        once = ops.multiply(rounded, per_channel)
        twice = ops.multiply(rounded, ops.constant(np.float32(2)))
        outputs = [once, twice, ops.multiply(total, total), sampling(first, first_grid)]
        model = openvino.Model(outputs, nodes, "")
        model.validate_nodes_and_infer_types()
        return model

    random = np.random.default_rng(0)
    inputs = [random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    expected = run(build(), *inputs)
    model = build()
    assert sample_whole_pixels(model) == 3
    assert "GridSample" not in kinds_of(model)
    # Quantisation comes before the transposition.
    [quantizer] = [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]
    assert quantizer.get_output_shape(0) == [1, 6, 7, 32]
    for seen, other in zip(run(model, *inputs), expected, strict=True):
        np.testing.assert_allclose(seen, other, atol=1e-5)


@pytest.mark.parametrize("between", ["nothing", "a factor", "a sampling's own sum"])
def test_samplings_in_a_row(between: str) -> None:
    shapes = [(2, 32, 5, 9), (2, 6, 7, 2), (2, 4, 11, 2)]

    def build() -> Any:
        feature, first_grid, second_grid = nodes = parameters(*shapes)
        first = sampling(feature, first_grid)
        if between == "a factor":
            first = ops.multiply(first, ops.constant(np.full((1, 1, 1, 1), 2, np.float32)))
        elif between != "nothing":
            first = ops.add(first, sampling(feature, first_grid))
        return openvino.Model([sampling(first, second_grid)], nodes, "")

    random = np.random.default_rng(0)
    inputs = [random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    model = build()
    sample_whole_pixels(model)
    assert "GridSample" not in kinds_of(model)
    for seen, other in zip(run(model, *inputs), run(build(), *inputs), strict=True):
        np.testing.assert_allclose(seen, other, atol=1e-5)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_calibration(tmp_path_factory, SIZE)


@pytest.fixture(scope="module")
def int8(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo model in INT8 for CPUs, for images of any size."""
    return export_int8(tmp_path_factory.mktemp("models") / "int8.onnx", streets)


def has_grid_sample(predictor: Predictor) -> bool:
    backend: Any = predictor._stages.backend
    nodes = backend._compiled().get_runtime_model().get_ops()
    return any(str(node.get_rt_info()["layerType"].value) == "GridSample" for node in nodes)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": SIZE}, SIZE),
        ({"mode": "slide", "tile": 96, "flip": True}, (96, 96)),
        ({"size": SIZE, "batch": 2}, None),
        *all_slow(
            ({"size": 160}, None),
            ({"size": SIZE, "scales": (1.0, 1.5)}, None),
            ({"mode": "slide", "tile": 96, "scales": (1.0, 1.5)}, (96, 96)),
        ),
    ],
)
def test_what_has_one_size_is_compiled_for_it(
    options: dict[str, Any], expected: Size | None, int8: Path
) -> None:
    predictor = Predictor(int8, runtime="openvino", **options)
    export = predictor.spec.export
    assert export is not None
    assert export.size == expected
    assert export.batch == (None if expected is None else 1)
    assert has_grid_sample(predictor) is (expected is None)
    images = [Street(number).scene(size=(100, 170)).image for number in range(3)]
    any_size = open_backend(int8, runtime="openvino")
    for other, least in (
        (Predictor(int8, **options), 0.98),
        (Predictor(any_size, **options), 0.995),
    ):
        for seen, expected_labels in zip(predictor(images), other(images), strict=True):
            assert np.mean(seen.labels == expected_labels.labels) >= least
    again: Predictor = pickle.loads(pickle.dumps(predictor))
    for seen, wanted in zip(again(images), predictor(images), strict=True):
        np.testing.assert_array_equal(seen.labels, wanted.labels)


def test_bfloat16_is_compiled_for_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_backend, "_require_bfloat16", lambda core: None)
    backend = open_backend(DEMO, runtime="openvino", precision="bf16", size=SIZE)
    assert backend.spec.export is not None
    assert backend.spec.export.size is None


def test_sizes_that_the_network_does_not_take(int8: Path) -> None:
    predictor = Predictor(int8, runtime="openvino", size=(8, 8))
    with pytest.raises(SizeError, match="8x8"):
        predictor(np.zeros((64, 64, 3), np.uint8))


def test_a_file_of_one_size_keeps_it(int8: Path) -> None:
    backend = open_backend(int8, runtime="openvino", size=SIZE)
    assert backend.infer(np.zeros((1, 3, *SIZE), np.float32)).shape == (1, 19, 25, 41)


@pytest.mark.parametrize(
    "form", ["--input uint8-rgb --output labels", *all_slow("--output probabilities")]
)
def test_forms(form: str, streets: Path, tmp_path: Path) -> None:
    path = export_int8(tmp_path / "form.onnx", streets, form)
    image = Street(0).scene(size=SIZE).image
    fixed = Predictor(path, runtime="openvino", size=SIZE)
    assert not has_grid_sample(fixed)
    assert fixed.spec.export is not None
    assert fixed.spec.export.size == SIZE
    for other, least in (
        (Predictor(path), 0.98),
        (Predictor(path, runtime="openvino"), 0.995),
    ):
        assert np.mean(fixed(image).labels == other(image).labels) >= least
