"""bfloat16 in OpenVINO: it runs where the CPU has it and agrees with float32, and nowhere else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray

from alignseg_infer import (
    AlignSegError,
    DeviceError,
    ModelFileError,
    OptionError,
    Predictor,
)
from alignseg_infer.backend import Backend
from alignseg_infer.backends import open_backend, openvino_backend
from alignseg_infer.backends.bfloat16 import (
    LEAST_ALIKE,
    MOST_ERROR,
    difference_of,
    require_agreement,
)
from alignseg_infer.backends.openvino_backend import OpenVinoBackend
from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.export.verification.verify import verify
from alignseg_infer.files import caches
from alignseg_infer.spec.model import ModelSpec
from tests.support.export_kinds import FIXED_GATHER
from tests.support.models import half_onnx

HAS_BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no bfloat16")
SHAPE = (2, 3, 40, 72)
Floats = NDArray[np.float32]
Change = Callable[[NDArray[Any]], NDArray[Any]]


def open_demo(precision: str = "bf16") -> Backend:
    return open_backend("demo", runtime="openvino", precision=precision)


# The check


def noisy(amount: float) -> Change:
    """Return a stand-in for a CPU whose results have this relative error."""

    def change(output: NDArray[Any]) -> NDArray[Any]:
        noise = np.random.default_rng(0).standard_normal(output.shape)
        size = amount * np.linalg.norm(output) / np.linalg.norm(noise)
        return np.asarray(output + size * noise, output.dtype)

    return change


LET_THROUGH: list[Change] = [lambda output: output, noisy(0.005), noisy(0.9 * MOST_ERROR)]
STOPPED: list[Change] = [
    noisy(1.1 * MOST_ERROR),
    noisy(5),
    lambda output: 5 * output,
    np.zeros_like,
    lambda output: np.full_like(output, np.nan),
    lambda output: np.where(output == output.max(), np.inf, output),
    lambda output: output[:, :, :, 1:],
    lambda output: np.roll(output, 1, axis=0),  # mixed up within the batch
]


@pytest.fixture(scope="module")
def exact() -> Backend:
    return open_backend("demo")


@pytest.mark.parametrize("change", LET_THROUGH)
def test_what_agrees_passes(exact: Backend, change: Change) -> None:
    found = require_agreement(lambda x: change(exact.infer(x)), exact.infer, exact.spec, SHAPE)
    assert 0 <= found <= MOST_ERROR


@pytest.mark.parametrize("change", STOPPED)
def test_what_does_not_agree_is_an_error(exact: Backend, change: Change) -> None:
    with pytest.raises(DeviceError, match="2 x 40x72 inputs") as caught:
        require_agreement(lambda x: change(exact.infer(x)), exact.infer, exact.spec, SHAPE)
    assert "precision='fp32'" in caught.value.fix


@pytest.mark.parametrize(("share", "passes"), [(0.0, True), (0.04, True), (0.06, False)])
def test_labels_are_compared_by_their_share(share: float, passes: bool) -> None:
    labels = np.zeros((1, 10, 100), np.uint8)
    other = labels.copy()
    other.reshape(-1)[: round(1000 * share)] = 1
    differing, fits = difference_of(other, labels)
    assert differing == pytest.approx(share)
    assert fits is passes
    assert LEAST_ALIKE == 0.95


def test_the_largest_sizes_are_drawn_smaller(exact: Backend) -> None:
    seen: list[tuple[int, ...]] = []

    def run(batch: Floats) -> Floats:
        seen.append(batch.shape)
        return batch

    require_agreement(run, run, exact.spec, (1, 3, 32, 4000))
    assert seen == [(1, 3, 32, 4000)] * 2


# On a CPU that has it


@needs_bfloat16
@pytest.mark.parametrize("size", [(64, 96), (33, 250)])
def test_it_labels_as_float32_and_says_what_ran(size: tuple[int, int]) -> None:
    street = Street(1_000_007).scene(size=size).image
    predictor = Predictor("demo", runtime="openvino", precision="bf16")
    exact = Predictor("demo", runtime="openvino", precision="fp32")
    assert predictor.backend == "openvino (CPU, bf16)"
    assert exact.backend == "openvino (CPU)"
    seen, expected = predictor(street), exact(street)
    assert np.mean(seen.labels == expected.labels) >= 0.985
    assert seen.backend == "openvino (CPU, bf16)"
    logits = [
        open_demo(precision).infer(np.ones((1, 3, *size), np.float32))
        for precision in ("bf16", "fp32")
    ]
    assert 1e-4 < difference_of(*logits)[0] < 0.02  # it is not float32, and near it


@needs_bfloat16
@pytest.mark.slow
def test_positions_beyond_256_stay_exact() -> None:
    """At 512x1024, features have 257 columns, which bfloat16 cannot count."""
    backend, exact = open_demo(), open_demo("fp32")
    batch = np.random.default_rng(0).standard_normal((1, 3, 512, 1024)).astype(np.float32)
    assert difference_of(backend.infer(batch), exact.infer(batch))[0] < 0.01


@needs_bfloat16
def test_columns_beyond_256_stay_exact() -> None:
    """The same in a narrow image; without exact positions, the error was 0.2 and more."""
    backend, exact = open_demo(), open_demo("fp32")
    batch = np.random.default_rng(0).standard_normal((1, 3, 32, 1200)).astype(np.float32)
    assert difference_of(backend.infer(batch), exact.infer(batch))[0] < 0.01


@needs_bfloat16
def test_a_cpu_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = OpenVinoBackend._run_unchecked

    def corrupt(self: OpenVinoBackend, *arguments: Any) -> list[NDArray[Any]]:
        outputs = run(self, *arguments)
        return [5 * output for output in outputs] if "bf16" in self.name else outputs

    street = Street(0).scene(size=(32, 64)).image
    predictor = Predictor("demo", runtime="openvino", precision="bf16")
    with monkeypatch.context() as patched:
        patched.setattr(OpenVinoBackend, "_run_unchecked", corrupt)
        for _ in range(2):  # a refusal is not kept, and not forgotten
            with pytest.raises(DeviceError, match="something else than in float32"):
                predictor(street)
        assert caches.kept_files(caches.CHECKS) == []
    predictor(street)
    assert len(caches.kept_files(caches.CHECKS)) == 1


@needs_bfloat16
def test_a_check_is_made_once_for_each_shape(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    checked: list[tuple[int, ...]] = []

    def count(half: Any, exact: Any, spec: ModelSpec, shape: tuple[int, ...]) -> float:
        checked.append(shape)
        return require_agreement(half, exact, spec, shape)

    monkeypatch.setattr(openvino_backend, "require_agreement", count)
    first, second = np.zeros((1, 3, 32, 48), np.float32), np.zeros((2, 3, 32, 48), np.float32)
    for _ in range(2):
        backend = open_demo()
        for batch in (first, first, second):
            backend.infer(batch)
    assert checked == [first.shape, second.shape]
    kept = caches.kept_files(caches.CHECKS)
    record = json.loads(kept[0].path.read_text())
    assert 0 < record["difference"] <= MOST_ERROR
    assert record["openvino"] in openvino.get_version()
    for file, damage in zip(kept, ("", '{"passed": false}'), strict=True):
        file.path.write_text(damage)
    backend = open_demo()
    backend.infer(first)
    backend.infer(second)
    assert len(checked) == 4


# What is refused


def test_a_cpu_without_bfloat16_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> object:
            return ["FP32", "INT8"] if name == "OPTIMIZATION_CAPABILITIES" else "Old CPU"

    monkeypatch.setattr(openvino_backend, "_core_of", lambda process: Core())
    with pytest.raises(DeviceError, match=r"this CPU \(Old CPU\) has no instr") as caught:
        Predictor("demo", runtime="openvino", precision="bf16")
    assert "AVX512-BF16 or AMX" in caught.value.expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "bf16"}, "without a runtime"),
        ({"precision": "bf16", "runtime": "onnxruntime"}, "with runtime='onnxruntime'"),
        ({"precision": "bf16", "runtime": "tensorrt"}, "with runtime='tensorrt'"),
        ({"precision": "fp16", "runtime": "openvino"}, "with runtime='openvino'"),
        ({"precision": "int8", "runtime": "openvino"}, "with runtime='openvino'"),
        ({"precision": "fp64"}, "precision='fp64'"),
    ],
)
def test_other_runtimes_and_precisions_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        Predictor("demo", **options)
    assert "fp32 or bf16 with runtime='openvino'" in caught.value.expected


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bfloat16)])
def test_a_file_of_another_precision_is_refused(tmp_path: Path, precision: str) -> None:
    path = half_onnx(model_path("demo"), tmp_path)
    with pytest.raises(OptionError, match="which is fp16"):
        Predictor(path, runtime="openvino", precision=precision)
    Predictor(path, runtime="openvino")


@needs_bfloat16
def test_another_sampler_is_refused(export_small: Callable[..., Path]) -> None:
    path = export_small(**FIXED_GATHER)
    with pytest.raises(OptionError, match="sampler is gather"):
        Predictor(path, runtime="openvino", precision="bf16")
    Predictor(path, runtime="openvino", precision="fp32")


def test_a_checkpoint_is_refused(small_checkpoint: Path) -> None:
    with pytest.raises(AlignSegError):
        Predictor(small_checkpoint, runtime="openvino", precision="bf16")


# Verification, evaluation and timing


@needs_bfloat16
def test_verify_compares_with_float32_in_onnx_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    found = verify("demo", None, runtime="openvino", precision="bf16", sizes=[(64, 96)])
    assert found.backend == "openvino (CPU, bf16)"
    assert found.required_agreement == 0.995
    assert all(row.logits_error and row.logits_error > 1e-4 for row in found.rows)
    words = "verify demo --runtime openvino --precision bf16 --size 64x96"
    assert main(words.split()) == 0
    assert "on openvino (CPU, bf16), compared with demo.onnx" in capsys.readouterr().out


def test_verify_takes_a_runtime_only() -> None:
    found = verify("demo", None, runtime="openvino", sizes=[(32, 64)])
    assert found.backend == "openvino (CPU), compiled for one size for single images"
    assert found.required_agreement == 0.999
    assert all(row.logits_error and row.logits_error < 1e-5 for row in found.rows)


def test_verify_runs_a_half_file_as_it_is_in_a_runtime(tmp_path: Path) -> None:
    path = half_onnx(model_path("demo"), tmp_path)
    found = verify(path, "demo", runtime="openvino", sizes=[(32, 64)])
    assert found.backend == "openvino (CPU), compiled for one size for single images"
    assert found.required_agreement == 0.995


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("verify demo", "nothing to be compared with"),
        ("verify demo --precision bf16", "nothing to be compared with"),
        ("verify demo --against demo --precision bf16", "without a runtime"),
        ("verify demo --runtime onnxruntime --precision bf16", "with --runtime onnxruntime"),
        ("bench demo@openvino:int8", "'openvino:int8' is not a runtime"),
        ("bench demo@onnxruntime:bf16 --rounds 1", "with --runtime onnxruntime"),
    ],
)
def test_advice_of_commands(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 1
    assert said in capsys.readouterr().err


@needs_bfloat16
def test_eval_and_bench_name_the_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from alignseg_infer.demo.streets.folder import write_streets

    assert len(list(write_streets(tmp_path, 1_000_000, 2, (64, 96)))) == 2
    models = "demo demo@openvino:bf16"
    assert main(f"eval {models} --dataset folder --root {tmp_path}".split()) == 0
    assert "openvino (CPU, bf16)" in capsys.readouterr().out
    assert main(f"bench {models} --size 64x96 --rounds 1 --max-images 1".split()) == 0
    assert "openvino (CPU, bf16)" in capsys.readouterr().out


def test_a_missing_file_is_still_the_first_to_be_told() -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        Predictor("missing.onnx", runtime="openvino", precision="bf16")
