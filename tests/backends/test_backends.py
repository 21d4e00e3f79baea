"""ONNX Runtime and PyTorch behind the same protocol."""

import json
import logging
import re
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass

from alignseg_infer import DeviceError, ModelError, ModelFileError, Predictor
from alignseg_infer.backend import parse_device
from alignseg_infer.backends import open_backend, torch_backend
from alignseg_infer.backends.onnxruntime_backend import CUDA_PROVIDER, OnnxRuntimeBackend
from alignseg_infer.cli import main
from alignseg_infer.export.int8.convolutions import find_convolutions
from alignseg_infer.export.int8.histograms import CalibrationMethod, Ranges
from alignseg_infer.export.int8.quantize import quantize_model
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.models.rewrites import SplitOffsets
from alignseg_infer.spec.model import SPEC_KEY
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from tests.support.models import SMALL


def test_cuda_that_falls_back_to_the_cpu_is_an_error(
    small_onnx: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A CUDA build without a working driver gives a CPU session, and prints why."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER])
    real = onnxruntime.InferenceSession

    asked = []

    def falls_back(path: Path, options: object, providers: list[object]) -> object:
        asked.append(providers[0])
        print("*** EP Error ***\nEP Error Invalid device ID: 1 when using [...]\nFalling back")
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas"))
    with pytest.raises(DeviceError, match=r"fell back to CPUExecutionProvider: Invalid device ID"):
        OnnxRuntimeBackend(small_onnx, device="cuda:1")
    with pytest.raises(DeviceError, match="fell back to CPUExecutionProvider"):
        OnnxRuntimeBackend(small_onnx, device="cuda")
    assert OnnxRuntimeBackend(small_onnx, device="auto").name.endswith("(CPUExecutionProvider)")
    # With a number, ONNX Runtime warns that no plugin provides the device.
    assert asked == [(CUDA_PROVIDER, choice) for choice in ({"device_id": "1"}, {}, {})]
    assert capfd.readouterr().out == ""


def test_a_call_that_cuda_fails_is_not_repeated_on_the_cpu(
    small_onnx: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By default ONNX Runtime would print that it does so, and return the CPU's results."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER])
    backend = OnnxRuntimeBackend(small_onnx, device="auto")  # in truth, on the CPU
    batch = np.zeros((1, 3, 64, 64), np.float32)
    assert backend.infer(batch).shape[1] == 19

    real = backend._session._sess

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def run(self, *arguments: object) -> None:
            raise onnxruntime.capi.onnxruntime_pybind11_state.EPFail("cuDNN error")

    backend._session._sess = Failing()
    with pytest.raises(ModelError, match="cuDNN error"):
        backend.infer(batch)
    assert capfd.readouterr().out == ""


def test_threads_reach_both_runtimes(small_onnx: Path, small_checkpoint: Path) -> None:
    session = OnnxRuntimeBackend(small_onnx, threads=1)._session
    assert session.get_session_options().intra_op_num_threads == 1
    before = torch.get_num_threads()
    try:
        open_backend(small_checkpoint, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_threads_of_onnxruntime_rest_after_a_call(small_onnx: Path) -> None:
    options = OnnxRuntimeBackend(small_onnx)._session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_both_give_the_same_labels(small_onnx: Path, small_checkpoint: Path) -> None:
    image = probe_image((90, 130), 1)
    labels = [Predictor(model)(image).labels for model in (small_onnx, small_checkpoint)]
    assert np.mean(labels[0] == labels[1]) >= 0.9999


def test_on_a_gpu_pytorch_runs_the_rewritten_network(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is the GPU's, including plugin operators, but the CPU computes it here."""
    moved = torch.nn.Module.to

    def moved_here(module: torch.nn.Module, *arguments: object, **options: object) -> object:
        return module if arguments else moved(module, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(torch.nn.Module, "to", moved_here)
    model = load_checkpoint(small_checkpoint).model()
    here, there = (torch_backend._prepare(model, torch.device(d)) for d in ("cpu", "cuda"))
    assert [type(one.CAB2).__name__ for one in (here, there)] == ["CAB", "SplitCAB"]
    torch_backend._use_plugin_ops(there)
    assert there.CAB2.sample.fuses
    assert all(one.fuse for one in there.modules() if isinstance(one, SplitOffsets))
    image = torch.randn(2, 3, 97, 161, generator=torch.Generator().manual_seed(0)) * 60
    with torch.inference_mode():
        (expected, expected_offsets), (seen, offsets) = (
            one.forward_with_offsets(image) for one in (here, there)
        )
    assert list(offsets) == list(expected_offsets)
    pairs = [
        (seen.logits, expected.logits),
        *zip(offsets.values(), expected_offsets.values(), strict=True),
    ]
    assert seen.logits.is_contiguous(memory_format=torch.channels_last)
    for one, other in pairs:
        assert torch.linalg.norm(one - other) <= 2e-5 * torch.linalg.norm(other)


def test_foreign_checkpoint_warns_of_what_is_assumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(AlignSeg(SMALL).state_dict(), tmp_path / "foreign.pth")
    with caplog.at_level(logging.WARNING, "alignseg_infer"):
        Predictor(tmp_path / "foreign.pth")
    assert "convention" in caplog.text
    assert "normalisation layers" in caplog.text


def test_what_is_assumed_is_changed_by_the_command_that_the_warning_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option of the warning is typed; with it, nothing is assumed."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    states = [AlignSeg(replace(SMALL, num_classes=1)).state_dict() for _ in range(2)]
    torch.save({"model": states[0], "ema": states[1]}, "it's both.pth")
    cv2.imwrite("a.png", np.zeros((64, 64, 3), np.uint8))
    assert main(["predict", "it's both.pth", "a.png", "-o", "out", "--size", "64x64"]) == 0
    said = capsys.readouterr().err
    assert "override" not in said
    commands = re.findall(r"to change it: alignseg (export-onnx .*)\)$", said, re.MULTILINE)
    assert len(commands) == 8
    (tmp_path / "FILE.json").write_text(
        json.dumps({"names": ["back", "fore"], "colors": [[0, 0, 0], [9, 9, 9]]})
    )
    values = {"A": "1", "B": "2", "C": "3", "0..1": "0.4"}
    given: list[str] = []
    for words in map(shlex.split, commands):
        assert words[:4] == ["export-onnx", "it's both.pth", "-o", "MODEL.onnx"]
        given += [values.get(word, word) for word in words[4:]]
    assert [word for word in given if word.startswith("--")] == [
        *("--convention", "--norm", "--channel-order", "--mean", "--std", "--classes"),
        *("--threshold", "--weights"),
    ]
    assert given[-2:] == ["--weights", "raw"]
    assert main([*words[:4], *given, "--size", "64x64", "--batch", "1"]) == 0
    assert "nothing assumed" in capsys.readouterr().err
    assert read_onnx_facts(Path("MODEL.onnx")).spec.classes.names == ("back", "fore")


def test_our_checkpoint_does_not_warn(
    small_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "alignseg_infer"):
        Predictor(small_checkpoint)
    assert caplog.text == ""


def test_spec_that_does_not_fit_the_graph(small_onnx: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(small_onnx)
    spec = next(entry for entry in model.metadata_props if entry.key == SPEC_KEY)
    spec.value = spec.value.replace('"output": "logits"', '"output": "labels"')
    onnx.save(model, tmp_path / "swapped.onnx")
    with pytest.raises(ModelFileError, match="its outputs are logits float32"):
        Predictor(tmp_path / "swapped.onnx")


@pytest.mark.parametrize(
    ("text", "expected"), [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:12", ("cuda", 12))]
)
def test_parse_device(text: str, expected: tuple[str, int]) -> None:
    assert parse_device(text) == expected


@pytest.fixture
def int8_graph(small_onnx: Path) -> onnx_ir.Model:
    """A graph with INT8 convolutions, in FP32, since old versions compute FP16 less exactly."""
    model = onnx_ir.load(small_onnx)
    limits = {conv.source: 8.0 for conv in find_convolutions(model)}
    return quantize_model(model, Ranges(CalibrationMethod.MINMAX, 1, limits))


def test_int8_is_computed_as_it_is_written(int8_graph: onnx_ir.Model, tmp_path: Path) -> None:
    """Unlike by fused kernels, which saturate on some processors and round once more on all."""
    path = tmp_path / "int8.onnx"
    onnx_ir.save(int8_graph, path)
    batch = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    plain, fused = onnxruntime.SessionOptions(), onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    written, usual = (
        onnxruntime.InferenceSession(path, options).run(["logits"], {"image": batch})[0]
        for options in (plain, fused)
    )
    seen = OnnxRuntimeBackend(path).infer(batch)
    errors = [np.linalg.norm(one - written) / np.linalg.norm(written) for one in (seen, usual)]
    assert errors[0] < errors[1] / 2


def test_int8_runs_after_a_tool_merged_equal_constants(
    int8_graph: onnx_ir.Model, tmp_path: Path
) -> None:
    """As onnxslim, onnxsim and onnxoptimizer merge the zero points."""
    paths = [tmp_path / name for name in ("before.onnx", "after.onnx")]
    onnx_ir.save(int8_graph, paths[0])
    count = len(int8_graph.graph.initializers)
    DeduplicateInitializersPass()(int8_graph)
    assert len(int8_graph.graph.initializers) < count - 20
    onnx_ir.save(int8_graph, paths[1])
    batch = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    before, after = (OnnxRuntimeBackend(path).infer(batch).astype(float) for path in paths)
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())
