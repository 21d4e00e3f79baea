"""A network with one output channel: labels and confidence are those of its sigmoid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alignseg_infer import CheckpointError, OptionError, Predictor, SpecError, export_onnx
from alignseg_infer.datasets.class_tables import VOC
from alignseg_infer.demo.streets import Street
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.checkpoint import load_checkpoint, save_checkpoint
from alignseg_infer.models.checkpoint_options import CheckpointOptions
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import ClassSpec, InputSpec, ModelSpec, NetworkSpec
from tests.support.slow import all_slow

BINARY = NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16, num_classes=1)
SIZE = (64, 96)


def spread_network() -> AlignSeg:
    """Return a network whose logits lie on both sides of 0 for streets."""
    torch.manual_seed(0)
    network = AlignSeg(BINARY).eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(street_tensor())).logits
        last = network.head[3]
        scale = 2 / logits.std()
        last.weight.mul_(scale)  # type: ignore[operator]
        last.bias.copy_((last.bias - logits.mean()) * scale)  # type: ignore[operator]
    return network


def street() -> np.ndarray:
    return Street(1).scene(size=SIZE).image


def street_tensor() -> np.ndarray:
    return preprocess(street(), SIZE, InputSpec())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("binary") / "binary.pth"
    torch.save(spread_network().state_dict(), path)
    return path


def probabilities() -> np.ndarray:
    """Return sigmoid(z) at each pixel of the street, (H, W), z upsampled as labels are."""
    with torch.no_grad():
        logits = spread_network()(torch.from_numpy(street_tensor())).logits
        logits = F.interpolate(logits, SIZE, mode="bilinear", align_corners=True)
        return torch.sigmoid(logits)[0, 0].numpy()


@pytest.mark.parametrize(
    ("threshold", "output"), [(0.7, "labels"), *all_slow((None, "logits"), (0.2, "logits"))]
)
def test_labels_are_those_of_the_sigmoid(
    threshold: float | None, output: str, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "binary.onnx"
    report = export_onnx(checkpoint, path, threshold=threshold, size=SIZE, batch=1, output=output)
    assert report.spec.network.num_classes == 2
    wanted, limit = probabilities(), threshold or 0.5
    sure = np.abs(wanted - limit) > 1e-4
    labels = Predictor(path)(street()).labels
    assert np.array_equal(labels[sure], (wanted > limit)[sure])
    assert 0.02 < labels.mean() < 0.98


def test_confidence_is_the_sigmoid_at_a_half(checkpoint: Path) -> None:
    result = Predictor(checkpoint)(street(), confidence=True)
    wanted = probabilities()
    assert result.confidence is not None
    np.testing.assert_allclose(result.confidence, np.maximum(wanted, 1 - wanted), atol=2e-3)
    assert np.mean(result.labels == (wanted > 0.5)) > 0.999


@pytest.mark.parametrize("threshold", [0.001, 0.3, 0.5, 0.999])
def test_both_heads_get_a_logit_for_the_background(threshold: float, checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint, CheckpointOptions(threshold=threshold))
    image = torch.from_numpy(street_tensor())
    ours, theirs = loaded.model()(image), spread_network()(image)
    for two, one in zip(ours, theirs, strict=True):
        assert two is not None
        assert one is not None
        torch.testing.assert_close(two[:, 1:], one)
        torch.testing.assert_close(torch.sigmoid(two[:, :1]), torch.full_like(one, threshold))


def test_what_is_assumed_is_said(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    assert loaded.spec.classes.names == ("background", "foreground")
    said = {one.fact: one for one in loaded.assumptions}
    assert said["threshold"].value == "0.5"
    assert said["threshold"].override == "threshold=0..1"
    assert "one output channel" in said["classes"].reason
    given = load_checkpoint(checkpoint, CheckpointOptions(threshold=0.4))
    assert "threshold" not in {one.fact for one in given.assumptions}


def table(*names: str) -> ClassSpec:
    return ClassSpec(dataset="roads", names=names, colors=((9, 8, 7), (6, 5, 4))[: len(names)])


def test_names_of_one_class_and_of_two(checkpoint: Path) -> None:
    one = load_checkpoint(checkpoint, CheckpointOptions(classes=table("road"))).spec.classes
    assert (one.names, one.colors) == (("background", "road"), ((0, 0, 0), (9, 8, 7)))
    two = load_checkpoint(checkpoint, CheckpointOptions(classes=table("rest", "road"))).spec.classes
    assert two == table("rest", "road")
    with pytest.raises(SpecError, match="2 classes, but 21 names"):
        load_checkpoint(checkpoint, CheckpointOptions(classes=VOC))


def test_our_own_checkpoint_of_one_class(tmp_path: Path) -> None:
    spec = ModelSpec(network=BINARY, input=InputSpec(), classes=table("road"))
    save_checkpoint(tmp_path / "one.pth", spread_network(), spec)
    loaded = load_checkpoint(tmp_path / "one.pth")
    assert loaded.spec.classes.names == ("background", "road")
    assert [one.fact for one in loaded.assumptions] == ["threshold"]
    save_checkpoint(tmp_path / "two.pth", loaded.model(), loaded.spec)
    again = load_checkpoint(tmp_path / "two.pth")
    assert again.assumptions == ()
    assert all(torch.equal(again.state[key], loaded.state[key]) for key in loaded.state)


def test_a_threshold_needs_one_class(tmp_path: Path) -> None:
    torch.save(AlignSeg(replace(BINARY, num_classes=2)).state_dict(), tmp_path / "two.pth")
    with pytest.raises(OptionError, match="a network with 2 classes"):
        load_checkpoint(tmp_path / "two.pth", CheckpointOptions(threshold=0.5))
    assert load_checkpoint(tmp_path / "two.pth").spec.network.num_classes == 2


def test_a_head_of_one_class_without_weights_is_refused(tmp_path: Path) -> None:
    state = spread_network().state_dict()
    del state["head.3.bias"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: head\.3\.bias"):
        load_checkpoint(tmp_path / "cut.pth")


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_the_facts_hold_the_threshold(threshold: float | None, checkpoint: Path) -> None:
    source = load_checkpoint(checkpoint, CheckpointOptions(threshold=threshold)).spec.source
    assert source is not None
    assert source.threshold == (threshold or 0.5)
    assert source.choices == f", threshold {threshold or 0.5}"
