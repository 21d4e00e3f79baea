"""The catalogue: the file is what its program makes, and its references are right."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from alignseg_infer.doctor.catalogue import CASE_NAMES, CASES, CATALOGUE, error_of, read_graphs
from alignseg_infer.doctor.runtimes import GOOD, Target, cases_of, check_safely, open_target
from alignseg_infer.ops.resampling import adaptive_average_pool
from alignseg_infer.ops.sampling import offset_grid_sample
from alignseg_infer.spec.model import Precision, Sampler, SamplingConvention
from tests.doctor.make_catalogue import arrays_of, make_all

MAX_BYTES = 300_000


def test_the_program_makes_the_same_file() -> None:
    made = arrays_of(make_all())
    with np.load(CATALOGUE, allow_pickle=False) as stored:
        assert set(stored) == set(made)
        for name, array in made.items():
            if name.endswith("/graph"):
                ours, theirs = (
                    onnx.load_from_string(content.tobytes()) for content in (array, stored[name])
                )
                assert ours == theirs, name
            else:
                assert np.array_equal(stored[name], array), name
    assert CATALOGUE.stat().st_size < MAX_BYTES


def test_every_case_has_a_graph_and_every_sampler_has_cases() -> None:
    assert set(read_graphs()) == set(make_all()) == set(CASE_NAMES)
    assert len(CASE_NAMES) == len(CASES)
    for sampler in (Sampler.NATIVE, Sampler.GATHER):
        for precision in Precision:
            assert [c for c in CASES if c.sampler is sampler and precision in c.precisions]


def tensors(name: str) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    graph = read_graphs()[name]
    return {key: torch.tensor(value) for key, value in graph.inputs.items()}, graph.reference


@pytest.mark.parametrize(
    ("name", "padding", "corners"),
    [
        ("grid-sample-16", "zeros", False),
        ("grid-sample-20", "zeros", False),
        ("grid-sample-batch", "zeros", False),
        ("grid-sample-corners", "zeros", True),
        ("grid-sample-border", "border", False),
        ("grid-sample-border-corners", "border", True),
    ],
)
def test_grid_sampling_as_pytorch_does_it(name: str, padding: str, corners: bool) -> None:
    inputs, reference = tensors(name)
    found = F.grid_sample(
        inputs["feature"], inputs["grid"], padding_mode=padding, align_corners=corners
    )
    assert error_of(found.numpy(), reference) < 1e-6


@pytest.mark.parametrize("name", ["grid-sample-offsets", "gather", "gather-fp16"])
def test_sampling_at_offsets_is_our_definition(name: str) -> None:
    inputs, reference = tensors(name)
    feature = inputs["feature"]
    if name == "grid-sample-offsets":
        feature = feature.permute(0, 3, 1, 2)
    found = offset_grid_sample(feature, inputs["offset"], SamplingConvention.RELEASE_2021_12)
    assert error_of(found.numpy(), reference) < 1e-5


def test_resizing_and_pooling_as_pytorch_does_it() -> None:
    for name, size in (("resize", (9, 13)), ("upsample-matrices", (7, 9))):
        inputs, reference = tensors(name)
        found = F.interpolate(inputs["feature"], size, mode="bilinear", align_corners=True)
        assert error_of(found.numpy(), reference) < 1e-6
    inputs, reference = tensors("labels")
    big = F.interpolate(inputs["logits"], (13, 17), mode="bilinear", align_corners=True)
    assert np.array_equal(big.argmax(1).numpy(), reference)
    inputs, reference = tensors("pool-matrices")
    for found in (
        F.adaptive_avg_pool2d(inputs["feature"], 3),
        adaptive_average_pool(inputs["feature"], 3),
    ):
        assert error_of(found.numpy(), reference) < 1e-6


def test_nearest_neighbours_would_be_noticed() -> None:
    """By far: in each case of sampling, the wrong interpolation is ten tolerances away."""
    for case in CASES:
        inputs, reference = tensors(case.name)
        if set(inputs) == {"feature", "grid"} and case.name != "grid-sample-island":
            found = F.grid_sample(
                inputs["feature"], inputs["grid"], mode="nearest", align_corners=False
            )
            assert error_of(found.numpy(), reference) > 10 * case.tolerance


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ([1.0, -4.0], 0.0),
        ([1.0, -3.0], 0.25),
        ([1.0], float("inf")),
        ([1.0, float("nan")], float("inf")),
        ([float("inf"), -4.0], float("inf")),
    ],
)
def test_error(result: list[float], error: float) -> None:
    assert error_of(np.array(result, np.float32), np.array([1.0, -4.0])) == error


@pytest.mark.parametrize("target", list(Target))
def test_what_is_installed_here_is_right(target: Target) -> None:
    module = {"openvino-bf16": "openvino"}.get(target, target.replace("-", "_"))
    if target is Target.TENSORRT:
        pytest.skip("classic TensorRT cannot be installed without NVIDIA's index")
    pytest.importorskip(module)
    check = open_target(target)
    if check is None:
        pytest.skip("this CPU has no bfloat16")
    graphs = read_graphs()
    found = {
        case.name: check_safely(check, case, graphs[case.name]) for case in cases_of(target, CASES)
    }
    wrong = {name for name, one in found.items() if one.verdict not in GOOD}
    assert not wrong
