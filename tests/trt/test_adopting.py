"""Engines that another tool built, on a stand-in for TensorRT: no real engine is loaded here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer import EngineError, OptionError, Predictor, adopt_engine
from alignseg_infer.cli import main
from alignseg_infer.cuda.base import Cuda
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.spec.model import ExportSpec
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.trt import adopting
from alignseg_infer.trt.engine_file import read_facts, sidecar_path
from alignseg_infer.trt.runtime import backend as tensorrt_backend
from tests.support.export_kinds import FIXED, FIXED_OFFSETS, PLAIN_OFFSETS
from tests.support.fake_tensorrt import (
    ADA,
    PROFILE,
    FakeCuda,
    FakeTensorRT,
    FakeTensorRTRTX,
    plan_of,
)

Export = Callable[..., Path]


class Stand:
    """A plan file without facts, and the fakes that load it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.engine"
        self.cuda = FakeCuda()
        self.module = FakeTensorRT(self.cuda)
        self.path.write_bytes(plan_of())


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    stand = Stand(tmp_path)

    def open_fake(index: int, package: str) -> Cuda:
        return stand.cuda

    for module in (adopting, tensorrt_backend):
        monkeypatch.setattr(module, "open_cuda", open_fake)
        monkeypatch.setattr(module, "load_tensorrt", lambda flavour: stand.module.loaded())
    return stand


def test_an_adopted_engine_runs(
    stand: Stand, small_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError, match=r"has no a\.engine\.json beside it"):
        Predictor(stand.path)
    assert main(["adopt", str(stand.path), "--model", str(small_onnx)]) == 0
    printed = capsys.readouterr().out
    assert f"{PROFILE.minimum} to {PROFILE.maximum}; not verified" in printed
    assert f"alignseg verify {stand.path} --against FLOAT32.onnx" in printed
    facts, source = read_facts(stand.path), read_onnx_facts(small_onnx)
    assert facts.sha256 == sha256_of(stand.path)
    assert facts.source_sha256 == source.sha256
    assert (facts.spec, facts.gpu, facts.profile) == (source.spec, ADA, PROFILE)
    assert facts.verification is None
    assert facts.tensorrt_version == "11.4.0.106"
    assert facts.builder.startswith("another tool, adopted by alignseg-infer ")
    assert Predictor(stand.path, on_device=False).spec.network == source.spec.network
    assert main(["inspect", str(stand.path)]) == 0
    shown = capsys.readouterr().out
    assert "layers of the parsed network: not known, since another tool built it" in shown
    assert "TF32 allowed" in shown


LOW, HIGH = [1, 3, 65, 98], [2, 3, 65, 98]


def test_labels_and_offset_fields(stand: Stand, export_small: Export) -> None:
    onnx = export_small(**PLAIN_OFFSETS)
    stand.path.write_bytes(plan_of("labels", "UINT8", profile=[HIGH, HIGH, HIGH]))
    facts = adopt_engine(stand.path, onnx)
    assert facts.spec.export is not None
    assert facts.spec.export.output == "labels"


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"output": "labels", "data_type": "UINT8"}, "its outputs are labels uint8"),
        ({"data_type": "BF16"}, "its output is logits bfloat16"),
        (
            {"tensors": [["input", "INPUT", "FLOAT"], ["logits", "OUTPUT", "FLOAT"]]},
            "its inputs are input float32",
        ),
        ({"shapes": {"image": [-1, 4, -1, -1], "logits": [-1, 19, -1, -1]}}, "does not fit"),
        ({"shapes": {"image": [-1, 3, -1, -1], "logits": [-1, 21, -1, -1]}}, r"\(any, 21, any,"),
        ({"shapes": {"image": [-1, 3, -1, -1], "logits": []}}, "does not fit"),
    ],
)
def test_another_model_is_refused(
    plan: dict[str, Any], said: str, stand: Stand, small_onnx: Path
) -> None:
    stand.path.write_bytes(plan_of(**plan))
    with pytest.raises(EngineError, match=said):
        adopt_engine(stand.path, small_onnx)
    assert not sidecar_path(stand.path).exists()
    assert stand.cuda.events[-3:] == ["engine gone", "runtime gone", "cuda closed"]


@pytest.mark.parametrize(
    ("fixed", "profile", "fits"),
    [
        (FIXED_OFFSETS, [LOW, LOW, HIGH], True),
        (FIXED_OFFSETS, [[1, 3, 33, 98], LOW, HIGH], False),
        (FIXED_OFFSETS, [LOW, LOW, [2, 3, 65, 130]], False),
        (FIXED, [HIGH, HIGH, HIGH], True),
        (FIXED, [LOW, LOW, HIGH], False),
    ],
)
def test_fixed_sizes_are_compared(
    fixed: dict[str, Any],
    profile: list[list[int]],
    fits: bool,
    stand: Stand,
    export_small: Export,
) -> None:
    onnx = export_small(**fixed)
    stand.path.write_bytes(plan_of(profile=profile))
    if fits:
        export = adopt_engine(stand.path, onnx).spec.export
        assert isinstance(export, ExportSpec)
        assert export.size == fixed["size"]
    else:
        with pytest.raises(EngineError, match="size 65x98, batch"):
            adopt_engine(stand.path, onnx)


def test_own_engines_keep_their_facts(stand: Stand, small_onnx: Path) -> None:
    adopt_engine(stand.path, small_onnx)
    with pytest.raises(EngineError, match="already has its facts") as caught:
        adopt_engine(stand.path, small_onnx)
    assert "adopted by alignseg-infer" in str(caught.value)
    assert str(caught.value).endswith(f"rm {sidecar_path(stand.path)}")
    stand.path.write_bytes(plan_of() + b" ")  # built again
    assert adopt_engine(stand.path, small_onnx).sha256 == sha256_of(stand.path)
    sidecar_path(stand.path).write_text("damaged")
    adopt_engine(stand.path, small_onnx)
    assert read_facts(stand.path).sha256 == sha256_of(stand.path)


def test_code_is_run_only_if_it_is_asked_for(stand: Stand, small_onnx: Path) -> None:
    changes: dict[str, Any] = {"host code": True}
    stand.path.write_bytes(plan_of(**changes))
    with pytest.raises(EngineError, match="host code is not allowed"):
        adopt_engine(stand.path, small_onnx)
    facts = adopt_engine(stand.path, small_onnx, version_compatible=True)
    assert facts.version_compatible
    assert stand.module.host_code_allowed == [False, True]


def test_hardware_levels_and_flavours(stand: Stand, small_onnx: Path) -> None:
    stand.path.write_bytes(plan_of(level="AMPERE_PLUS"))
    assert adopt_engine(stand.path, small_onnx).hardware_compatibility == "ampere-plus"
    stand.module = FakeTensorRTRTX(stand.cuda)
    stand.path.write_bytes(plan_of())
    facts = adopt_engine(stand.path, small_onnx, flavour="tensorrt-rtx")
    assert (facts.flavour, facts.gpu) == ("tensorrt-rtx", None)
    assert facts.compute_capabilities == (ADA.compute_capability,)


def test_an_engine_of_another_network_is_refused(
    stand: Stand, small_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real bindings raise where a tensor is asked for that an engine does not have."""

    def fail(*_: object) -> None:
        raise AssertionError("asked for the profile of a tensor that does not exist")

    monkeypatch.setattr(adopting, "read_profile", fail)
    tensors = [["input", "INPUT", "FLOAT"], ["output", "OUTPUT", "FLOAT"]]
    stand.path.write_bytes(plan_of(tensors=tensors))
    with pytest.raises(EngineError, match="its inputs are input float32"):
        adopt_engine(stand.path, small_onnx)


def test_wrong_files_and_arguments(stand: Stand, small_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not exist"):
        adopt_engine(tmp_path / "b.engine", small_onnx)
    with pytest.raises(OptionError, match=r"does not end in(.|\n)*engine=\w+\.engine"):
        adopt_engine(small_onnx, small_onnx)
    with pytest.raises(OptionError, match="flavour="):
        adopt_engine(stand.path, small_onnx, flavour="trtexec")
    with pytest.raises(OptionError, match="run on a GPU only"):
        adopt_engine(stand.path, small_onnx, device="cpu")
    stand.module.refuses.add("deserialize")
    with pytest.raises(EngineError, match="cannot be loaded: bad magic 0"):
        adopt_engine(stand.path, small_onnx)
