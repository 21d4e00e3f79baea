"""Known problems, and the sampler that is chosen."""

import re

import pytest

from alignseg_infer.doctor import sampler as choosing
from alignseg_infer.doctor.asking import Answer
from alignseg_infer.doctor.catalogue import CASE_NAMES, CASES
from alignseg_infer.doctor.known import KNOWN, known_of, state_of
from alignseg_infer.doctor.runtimes import Found, Target, Verdict
from alignseg_infer.doctor.sampler import choose_sampler, sampler_for
from alignseg_infer.errors import ExportError
from alignseg_infer.spec.model import Precision, Sampler

FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8


def results(verdict: Verdict = Verdict.RIGHT, **others: Verdict) -> dict[str, Found]:
    found = {case.name: Found(verdict) for case in CASES}
    return found | {name.replace("_", "-"): Found(one) for name, one in others.items()}


def test_known_problems_name_threads_and_graphs_that_exist() -> None:
    for known in KNOWN:
        assert re.fullmatch(r"[\w-]+/[\w-]+#\d+", known.thread)
        assert set(known.cases) <= set(CASE_NAMES)
        assert known.has(known.first)


@pytest.mark.parametrize(
    ("target", "version", "threads"),
    [
        (Target.TENSORRT, "10.3.0", {"4646"}),
        (Target.TENSORRT, "10.13.3.9.post1", {"4646", "4853"}),
        (Target.TENSORRT, "10.16.2.10", {"4646", "4074", "4832", "4853"}),
        (Target.TENSORRT, "11.1.0", {"4646", "4074", "4813", "4853"}),
        (Target.TENSORRT, "11.4.0.106", {"4074", "4813", "4853"}),
        (Target.TENSORRT_RTX, "1.5.0.1", {"1060"}),
        (Target.TENSORRT_RTX, "1.7.1.116", set()),
        (Target.OPENVINO, "2025.4.1", {"33531", "35943"}),
        (Target.OPENVINO, "2026.2.1", {"33531"}),
        (Target.OPENVINO, "2026.4.1", set()),
        (Target.OPENVINO_BF16, "2026.4.0", {"38256"}),
        (Target.ONNXRUNTIME, "1.32.0", set()),
        (Target.TENSORRT, "", set()),
    ],
)
def test_known_problems_of_versions(target: Target, version: str, threads: set[str]) -> None:
    assert {known.thread.partition("#")[2] for known in known_of(target, version)} == threads


def test_whether_a_problem_was_seen_here() -> None:
    (nearest,) = known_of(Target.TENSORRT, "10.3.0")
    assert state_of(nearest, {}) == "cannot be tried here"
    assert state_of(nearest, results(Verdict.READ)) == "not seen here"
    assert state_of(nearest, results(grid_sample_20=Verdict.MISREAD)) == "seen here"
    (island,) = (known for known in KNOWN if known.thread.endswith("#4074"))
    assert state_of(island, results(Verdict.READ)) == "cannot be tried here"
    assert state_of(island, results(Verdict.RIGHT)) == "not seen here"
    assert state_of(island, results(grid_sample_island=Verdict.WRONG)) == "seen here"


RIGHT, READ = results(), results(Verdict.READ)
HANGS = {"grid-sample-16": Found(Verdict.HUNG, "it takes longer than 120 s")}
NATIVE_ONLY = {case.name: Found(Verdict.RIGHT) for case in CASES if case.sampler is Sampler.NATIVE}
GATHER_ONLY = {case.name: Found(Verdict.RIGHT) for case in CASES if case.sampler is Sampler.GATHER}
CHOICES = [
    (Target.ONNXRUNTIME, "1.32.0", FP32, RIGHT, "native", "native, which is right in onnxruntime"),
    (
        *(Target.ONNXRUNTIME, "1.32.0", FP32, results(grid_sample_16=Verdict.WRONG)),
        *("gather", "not native: grid-sample-16 is wrong in onnxruntime 1.32.0; gather, which"),
    ),
    (Target.ONNXRUNTIME, "1", FP32, results(grid_sample_20=Verdict.WRONG), "native", "is right"),
    (
        Target.ONNXRUNTIME,
        "1",
        FP32,
        results(grid_sample_island=Verdict.WRONG),
        "native",
        "is right",
    ),
    (Target.ONNXRUNTIME, "1", FP16, results(grid_sample_island=Verdict.ENDED), "gather", "ended"),
    (
        *(Target.ONNXRUNTIME, "1", INT8),
        *(results(grid_sample_16=Verdict.WRONG, gather_fp16=Verdict.REFUSED), None, "refused"),
    ),
    (Target.TENSORRT_RTX, "1.7.1", FP16, READ, "native", "is read rightly, but not run"),
    (Target.TENSORRT, "", FP32, {}, "native", "cannot be asked here and nothing is known"),
    (Target.TENSORRT, "11.4.0.106", FP32, {}, "native", "cannot be asked here"),
    (Target.TENSORRT, "11.4.0.106", FP16, {}, "gather", "pytorch/TensorRT#4074 reports"),
    (Target.TENSORRT, "11.4.0.106", FP16, READ, "gather", "cannot be tried here"),
    (Target.TENSORRT, "11.4.0.106", FP16, RIGHT, "native", "native, which is right in tensorrt"),
    (Target.TENSORRT, "10.3.0", FP16, {}, "native", "cannot be asked here"),
    (Target.ONNXRUNTIME, "1", FP32, NATIVE_ONLY, "native", "native, which is right in"),
    (
        *(Target.ONNXRUNTIME, "1", FP32, HANGS, None),
        "is hung in onnxruntime 1; not gather: gather could not be run in",
    ),
    (
        *(Target.ONNXRUNTIME, "1", FP16, HANGS | {"gather-fp16": Found(Verdict.RIGHT)}, None),
        "could not be run in onnxruntime 1",
    ),
    (Target.ONNXRUNTIME, "1", FP32, HANGS | GATHER_ONLY, "gather", "gather, which is right in"),
    (
        *(Target.ONNXRUNTIME, "1", FP32, GATHER_ONLY, "gather"),
        "not native: grid-sample-16, grid-sample-19, ",
    ),
]


@pytest.mark.parametrize(("target", "version", "precision", "found", "sampler", "reason"), CHOICES)
def test_choice(
    target: Target,
    version: str,
    precision: Precision,
    found: dict[str, Found],
    sampler: str | None,
    reason: str,
) -> None:
    choice = choose_sampler(target, version, precision, found)
    assert choice.sampler == sampler
    assert reason in choice.reason


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    said = Answer(loads=True)
    monkeypatch.setattr(choosing, "ask", lambda part: said)
    return said


def test_the_runtime_here_is_asked(answer: Answer) -> None:
    answer.results = {Target.ONNXRUNTIME: results(grid_sample_batch=Verdict.WRONG)}
    sampler, reason = sampler_for(Target.ONNXRUNTIME, FP32)
    assert sampler is Sampler.GATHER
    assert "grid-sample-batch is wrong in onnxruntime 1." in reason


def test_no_sampler_is_right(answer: Answer) -> None:
    answer.results = {Target.ONNXRUNTIME: results(Verdict.WRONG)}
    with pytest.raises(ExportError, match="sampler='auto' finds none") as caught:
        sampler_for(Target.ONNXRUNTIME, FP32)
    assert "gather is wrong" in caught.value.problem
    assert caught.value.fix.startswith("alignseg doctor; ")


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "ask", lambda part: pytest.fail("it is not there"))
    nothing = dict.fromkeys(["tensorrt", "onnxruntime"], ())
    monkeypatch.setattr(choosing, "list_versions", lambda _: nothing)
    assert sampler_for(Target.TENSORRT, FP16)[0] is Sampler.NATIVE
