"""Reading checkpoints: formats, what shapes tell, what is assumed, what is tolerated."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alignseg_infer import CheckpointError
from alignseg_infer.cli import main
from alignseg_infer.datasets.class_tables import ADE20K, CITYSCAPES
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.backbone import BACKBONES
from alignseg_infer.models.checkpoint import load_checkpoint, save_checkpoint
from alignseg_infer.models.checkpoint_options import CheckpointOptions, Weights
from alignseg_infer.spec.model import (
    ChannelOrder,
    InputSpec,
    ModelSpec,
    NetworkSpec,
    NormKind,
    SamplingConvention,
)
from tests.support.models import DATA, SMALL, SMALL_SPEC


def small_state(spec: NetworkSpec = SMALL) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return AlignSeg(spec).state_dict()


def test_keys_are_the_official_ones() -> None:
    official = json.loads((DATA / "state_dict_r101_19.json").read_text())
    with torch.device("meta"):
        ours = {
            key: list(value.shape) for key, value in AlignSeg(NetworkSpec()).state_dict().items()
        }
    assert len(ours) == 858
    assert ours == official


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {key: v.half() if v.is_floating_point() else v for key, v in state.items()},
    ],
    ids=["bare", "state_dict", "model", "model_state_dict", "module.", "compiled", "half"],
)
def test_wrappers_and_prefixes(tmp_path: Path, wrap: object) -> None:
    state = small_state()
    torch.save(wrap(state), tmp_path / "weights.pth")  # type: ignore[operator]
    checkpoint = load_checkpoint(tmp_path / "weights.pth")
    assert checkpoint.spec.network == SMALL
    loaded = checkpoint.model().state_dict()
    assert set(loaded) == set(state)
    for key, value in state.items():
        torch.testing.assert_close(loaded[key], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("width", "decoder", "classes"), [(0.25, 16, 19), (0.5, 32, 150)])
def test_network_is_read_from_shapes(
    tmp_path: Path, backbone: str, width: float, decoder: int, classes: int
) -> None:
    spec = NetworkSpec(
        backbone=backbone, width=width, decoder_channels=decoder, num_classes=classes
    )
    torch.save(small_state(spec), tmp_path / "weights.pth")
    assert load_checkpoint(tmp_path / "weights.pth").spec.network == spec


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_our_checkpoints_carry_their_facts(tmp_path: Path, suffix: str) -> None:
    network = NetworkSpec(
        backbone="resnet18",
        width=0.25,
        decoder_channels=16,
        num_classes=150,
        convention=SamplingConvention.STANDARD,
        norm=NormKind.BATCH_NORM,
    )
    written = ModelSpec(
        network=network,
        input=InputSpec(channel_order=ChannelOrder.RGB, std=(58.0, 57.0, 57.0)),
        classes=ADE20K,
    )
    path = tmp_path / f"ours{suffix}"
    save_checkpoint(path, AlignSeg(network), written)
    checkpoint = load_checkpoint(path)
    assert checkpoint.assumptions == ()
    assert (checkpoint.spec.network, checkpoint.spec.input) == (network, written.input)
    assert checkpoint.spec.classes == ADE20K
    assert checkpoint.spec.source is not None
    assert checkpoint.spec.source.name == path.name


def test_foreign_checkpoint_lists_its_assumptions(tmp_path: Path) -> None:
    torch.save(small_state(), tmp_path / "weights.pth")
    checkpoint = load_checkpoint(tmp_path / "weights.pth")
    facts = {assumption.fact: assumption.value for assumption in checkpoint.assumptions}
    assert set(facts) == {
        "sampling convention",
        "normalisation layers",
        "channel order",
        "mean (of 0..255)",
        "std (of 0..255)",
        "classes",
    }
    assert facts["sampling convention"] == SamplingConvention.RELEASE_2021_12
    assert facts["classes"] == "cityscapes"


def test_options_override_and_are_no_assumptions(tmp_path: Path) -> None:
    torch.save(small_state(), tmp_path / "weights.pth")
    options = CheckpointOptions(
        convention=SamplingConvention.STANDARD,
        norm=NormKind.BATCH_NORM,
        classes=CITYSCAPES,
        channel_order=ChannelOrder.RGB,
        mean=(1.0, 2.0, 3.0),
        std=(4.0, 5.0, 6.0),
    )
    checkpoint = load_checkpoint(tmp_path / "weights.pth", options)
    assert checkpoint.assumptions == ()
    assert checkpoint.spec.network.convention is SamplingConvention.STANDARD
    assert checkpoint.spec.network.norm is NormKind.BATCH_NORM
    assert checkpoint.spec.input == InputSpec(
        channel_order=ChannelOrder.RGB, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)
    )


def test_options_override_what_our_checkpoint_says(small_checkpoint: Path) -> None:
    options = CheckpointOptions(convention=SamplingConvention.STANDARD)
    spec = load_checkpoint(small_checkpoint, options).spec
    assert spec.network.convention is SamplingConvention.STANDARD
    assert spec.input == SMALL_SPEC.input


@pytest.mark.parametrize(
    ("dropped", "note"), [("num_batches_tracked", "counters"), ("dsn.", "auxiliary head")]
)
def test_what_inference_does_not_need_may_be_missing(
    tmp_path: Path, dropped: str, note: str
) -> None:
    state = {key: value for key, value in small_state().items() if dropped not in key}
    torch.save(state, tmp_path / "weights.pth")
    checkpoint = load_checkpoint(tmp_path / "weights.pth")
    assert any(note in line for line in checkpoint.notes)
    assert checkpoint.model()(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 19, 17, 17)


def test_unknown_class_count_gets_numbered_classes(tmp_path: Path) -> None:
    spec = NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16, num_classes=5)
    torch.save(small_state(spec), tmp_path / "weights.pth")
    classes = load_checkpoint(tmp_path / "weights.pth").spec.classes
    assert classes.names == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert len(set(classes.colors)) == 5


def test_rgb_alone_takes_the_mean_along(tmp_path: Path) -> None:
    torch.save(small_state(), tmp_path / "weights.pth")
    options = CheckpointOptions(channel_order=ChannelOrder.RGB)
    checkpoint = load_checkpoint(tmp_path / "weights.pth", options)
    assert checkpoint.spec.input.mean == InputSpec().mean[::-1]
    facts = {assumption.fact for assumption in checkpoint.assumptions}
    assert {"mean (of 0..255)", "std (of 0..255)"} <= facts
    assert "channel order" not in facts


@pytest.mark.parametrize("key", ["extra", "module.conv1.weight", "layer1.module.extra"])
def test_unknown_keys_are_refused(tmp_path: Path, key: str) -> None:
    torch.save({**small_state(), key: torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="1 unexpected: "):
        load_checkpoint(tmp_path / "weights.pth")


def test_tensors_may_share_storage_and_be_transposed(tmp_path: Path) -> None:
    """As those of an optimizer with one flat buffer, or of a layout with channels last."""
    state = small_state()
    weight = state["conv1.weight"]
    flat = torch.cat([weight.flatten(), torch.zeros(7)])
    shared = {"conv1.weight": flat[: weight.numel()].view_as(weight)}
    last = {"conv1.weight": weight.contiguous(memory_format=torch.channels_last)}
    for changed in (shared, last):
        torch.save({**state, **changed}, tmp_path / "weights.pth")
        seen = load_checkpoint(tmp_path / "weights.pth").state["conv1.weight"]
        assert torch.equal(seen, weight)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bn1.running_var", torch.full((16,), -1.0)),
        ("bn1.weight", torch.full((16,), 1e300, dtype=torch.float64)),
        ("bn1.weight", torch.zeros(16, dtype=torch.int8)),
        ("bn1.weight", torch.zeros(16, dtype=torch.complex64)),
        ("conv1.weight", torch.zeros(())),
        ("head.3.weight", torch.zeros(0, 32, 1, 1)),
        ("bn1.weight", torch.zeros(16).to_sparse()),
        ("bn1.weight", torch.ones(()).expand(16)),
        ("head.3.weight", torch.zeros(1).expand(300_000_000, 1, 1, 1)),
    ],
    ids=[
        *("negative variance", "overflow", "int8", "complex", "scalar", "no classes", "sparse"),
        *("repeated", "few bytes for many classes"),
    ],
)
def test_impossible_weights(tmp_path: Path, key: str, value: Tensor) -> None:
    torch.save({**small_state(), key: value}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "weights.pth")


def test_the_facts_say_what_was_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two models of one file are not the same model."""
    path = tmp_path / "both.pth"
    torch.save({"state_dict": small_state(), "model_ema": small_state()}, path)
    options = [CheckpointOptions(weights=kind) for kind in (Weights.RAW, Weights.EMA)]
    raw, average = (load_checkpoint(path, one).spec.source for one in options)
    assert raw is not None
    assert average is not None
    assert (raw.weights, average.weights) == ("raw", "ema")
    assert replace(raw, weights="ema") == average
    assert main(["inspect", str(path), "--weights", "raw"]) == 0
    assert f"sha256 {raw.sha256}, weights raw\n" in capsys.readouterr().out
