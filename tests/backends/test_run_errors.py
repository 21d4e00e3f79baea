"""What a runtime cannot run is a typed error, and the next call works."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from alignseg_infer import ModelError, ModelFileError, OutOfMemoryError, Predictor
from alignseg_infer.backend import Backend
from alignseg_infer.backends import open_backend
from alignseg_infer.datasets.class_tables import class_table_for
from alignseg_infer.spec.model import SPEC_KEY, ExportSpec, ModelSpec
from tests.support.models import SMALL_SPEC, FakeBackend
from tests.support.processes import run_program
from tests.test_predictor import LABELS, LOGITS, SMALL, solid

RUNTIMES = ["onnxruntime", "openvino", "torch"]
LIMITED = """
import resource, sys
import numpy as np
from alignseg_infer import OutOfMemoryError, Predictor
from alignseg_infer.export.verification.probes import probe_image

model, runtime, threads = sys.argv[1:]
options = {} if runtime == "torch" else {"runtime": runtime}
predictor = Predictor(model, threads=int(threads), **options)
small = probe_image((64, 96), 0)
expected = predictor(small).labels
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
none = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, none))
try:
    predictor(np.zeros((3000, 4000, 3), np.uint8))
except OutOfMemoryError as error:
    assert "3000" in error.problem and "4000" in error.problem, error
else:
    sys.exit("it fits")
resource.setrlimit(resource.RLIMIT_AS, (none, none))
assert (predictor(small).labels == expected).all()
"""
SHORT = [
    MemoryError("Unable to allocate 549. MiB for an array"),
    cv2.error("(-4:Insufficient memory) Failed to allocate 576000000 bytes"),
]
SHORT[1].code = cv2.Error.StsNoMem  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process so")
@pytest.mark.parametrize(
    ("runtime", "threads"), [("onnxruntime", 1), ("openvino", 1), ("openvino", 2), ("torch", 1)]
)
def test_the_next_call_works_after_memory_ran_out(
    runtime: str, threads: int, small_onnx: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    """Without care, OpenVINO returns empty or wrong labels from then on."""
    model = small_checkpoint if runtime == "torch" else small_onnx
    run_program(LIMITED, tmp_path, model, runtime, threads)


@pytest.mark.parametrize("stage", ["load_image", "network_input", "scores_from_logits", "infer"])
@pytest.mark.parametrize("short", SHORT, ids=lambda short: type(short).__name__)
def test_memory_may_run_out_in_each_stage(
    stage: str, short: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = FakeBackend()
    predictor = Predictor(backend)
    path = tmp_path / "street.png"
    cv2.imwrite(str(path), solid(3))

    def fail(*arguments: object, **options: object) -> None:
        raise short

    with monkeypatch.context() as patch:
        if stage == "infer":
            patch.setattr(backend, stage, fail)
        else:
            patch.setattr(f"alignseg_infer.inference.stages.{stage}", fail)
        with pytest.raises(OutOfMemoryError, match=r"street\.png") as caught:
            predictor(path)
        assert caught.value.__cause__ is short
        [failure] = predictor([path], errors="return")
        assert isinstance(failure.error, OutOfMemoryError)  # type: ignore[union-attr]
    assert predictor(path).labels[0, 0] == 3


@pytest.mark.parametrize(
    ("options", "size"),
    [({"size": 1024}, (874, 1024)), ({"mode": "slide", "tile": 512, "batch": 1}, (512, 512))],
    ids=str,
)
def test_what_the_error_advises_needs_less(options: dict[str, Any], size: tuple[int, int]) -> None:
    found = Predictor(FakeBackend(), **options)(np.zeros((1024, 1200, 3), np.uint8))
    assert found.input_size == size


def failing(error: Exception) -> Any:
    def fail(*arguments: object, **options: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ort_errors.Fail("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory"), "memory"),
        (ort_errors.RuntimeException("bad allocation"), "memory"),
        (MemoryError(), "memory"),
        (ort_errors.InvalidArgument("Got invalid dimensions for input"), "other"),
        (ort_errors.EPFail("CUDA failure 700: an illegal memory access"), "other"),
    ],
    ids=str,
)
def test_onnxruntime(
    raised: Exception, kind: str, small_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = open_backend(small_onnx)
    monkeypatch.setattr(backend._session, "run", failing(raised))
    require_typed(backend, kind)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "other"),
    ],
    ids=str,
)
def test_pytorch(
    raised: Exception, kind: str, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = open_backend(small_checkpoint)
    monkeypatch.setattr(backend, "_model", failing(raised))
    require_typed(backend, kind)


def require_typed(backend: Backend, kind: str) -> None:
    expected = {"memory": OutOfMemoryError, "other": ModelError}[kind]
    with pytest.raises(expected, match="a batch of 2 x 3 x 64 x 96") as caught:
        backend.infer(np.zeros((2, 3, 64, 96), np.float32))
    assert type(caught.value) is expected


def test_openvino_does_not_trust_a_model_that_broke_meanwhile(
    small_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls wait for each other in OpenVINO, and the one after a failure gets wrong numbers."""
    backend: Any = open_backend(small_onnx, runtime="openvino")
    batch = np.ones((1, 3, 64, 96), np.float32)
    expected = backend.infer(batch)
    run_once, calls = backend._run_once, []

    def breaks(model: Any, *arguments: Any) -> list[NDArray[np.float32]]:
        calls.append(model)
        if len(calls) == 1:
            backend._model = None  # as a call in another thread does when it fails
            return [np.zeros_like(expected)]
        outputs: list[NDArray[np.float32]] = run_once(model, *arguments)
        return outputs

    monkeypatch.setattr(backend, "_run_once", breaks)
    np.testing.assert_array_equal(backend.infer(batch), expected)
    assert len(set(map(id, calls))) == 2


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_does_not_fit_into_memory(
    runtime: str, small_onnx: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = failing(RuntimeError("std::bad_alloc"))
    monkeypatch.setattr("onnxruntime.InferenceSession", fail)
    monkeypatch.setattr("openvino.Core.compile_model", fail)
    monkeypatch.setattr("alignseg_infer.backends.torch_backend._prepare", fail)
    torch_runs = runtime == "torch"
    model = small_checkpoint if torch_runs else small_onnx
    with pytest.raises(OutOfMemoryError, match="does not fit into the memory"):
        open_backend(model, runtime=None if torch_runs else runtime)


class WrongShape(FakeBackend):
    """A backend whose outputs get another shape."""

    def __init__(self, change: Any, export: ExportSpec) -> None:
        super().__init__(replace(SMALL_SPEC, export=export))
        self.change = change

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        logits = super().infer(batch)
        labels = batch[:, 0].astype(np.uint8)
        changed: NDArray[np.generic] = self.change(logits if self.spec.export == LOGITS else labels)
        return changed


@pytest.mark.parametrize("errors", ["raise", "return"])
@pytest.mark.parametrize(
    ("export", "change", "seen"),
    [
        (
            LOGITS,
            lambda output: output[:, :5],
            "shape (1, 5, 10, 12) for an input of shape (1, 3, 40, 48)",
        ),
        (LOGITS, lambda output: np.concatenate([output, output], 1), "(1, 38, 10, 12)"),
        (LOGITS, lambda output: output[:0], "(0, 19, 10, 12)"),
        (LOGITS, lambda output: np.concatenate([output, output]), "(2, 19, 10, 12)"),
        (LOGITS, lambda output: output[..., :0], "(1, 19, 10, 0)"),
        (LOGITS, lambda output: output[0], "(19, 10, 12)"),
        (LABELS, lambda output: output[:, np.newaxis], "(1, 1, 40, 48)"),
        (LABELS, lambda output: output[:, ::2], "(1, 20, 48)"),
        (LABELS, lambda output: output[:0], "(0, 40, 48)"),
        (LABELS, lambda output: output + 18, "the label 19"),
        (LABELS, lambda output: output.astype(np.int64) + 256, "the label 257"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_outputs_that_do_not_fit_the_facts(
    export: ExportSpec, change: Any, seen: str, errors: Any
) -> None:
    predictor = Predictor(WrongShape(change, export))
    if errors == "return":
        [failure] = predictor([solid(1, SMALL)], errors=errors)
        raised = failure.error
    else:
        with pytest.raises(ModelFileError) as caught:
            predictor(solid(1, SMALL))
        raised = caught.value
    assert isinstance(raised, ModelFileError)
    assert seen in raised.problem


@pytest.mark.parametrize("export", [LOGITS, LABELS])
def test_outputs_that_fit(export: ExportSpec) -> None:
    images = [solid(1), solid(2)]
    found = Predictor(WrongShape(np.asarray, export), batch=2)(images)
    assert [int(result.labels[0, 0]) for result in found] == [1, 2]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_of_fewer_classes_than_its_facts(
    runtime: str, small_onnx: Path, tmp_path: Path
) -> None:
    model = onnx_ir.load(small_onnx)
    spec = ModelSpec.from_json(model.metadata_props[SPEC_KEY])
    more = replace(spec, network=replace(spec.network, num_classes=21), classes=class_table_for(21))
    model.metadata_props[SPEC_KEY] = more.to_json()
    onnx_ir.save(model, tmp_path / "more.onnx")
    with pytest.raises(ModelFileError, match=r"logits float32 or float16 \(any, 21, any, any\)"):
        Predictor(tmp_path / "more.onnx", runtime=runtime)


def test_a_path_says_nothing_about_memory(tmp_path: Path) -> None:
    """The runtime's message holds the path of the model."""
    folder = tmp_path / "alloc-memory"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(b"\x00\x01garbage\xff")  # of no known kind
    with pytest.raises(ModelFileError, match="Protobuf parsing failed"):
        Predictor(folder / "m.onnx")
