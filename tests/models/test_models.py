"""Layers, shapes, and the exact rewrites."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignseg_infer.models.alignseg import AlignSeg, ceil_max_pool
from alignseg_infer.models.backbone import BACKBONES
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.models.decoder import CAB, CAM, RRB, upsample
from alignseg_infer.models.norm import Norm
from alignseg_infer.models.rewrites import (
    FoldedRRB,
    SplitCAB,
    SplitCAM,
    fold_norm,
    rewrite_for_inference,
    without_auxiliary_head,
)
from alignseg_infer.spec.model import NetworkSpec, NormKind, SamplingConvention, Upsampling


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic random; norm weights of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in module.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=generator)
        elif value.dtype.is_floating_point:
            value.normal_(0, 0.3, generator=generator)
    return module.eval().double()


def published_formula(x: Tensor, norm: Norm) -> Tensor:
    """InPlaceABN as its sources define it."""
    mean, var, weight, bias = (
        value.reshape(-1, 1, 1)
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * (weight.abs() + 1e-5) + bias


def test_norm_uses_the_absolute_weight() -> None:
    norm = Norm(4, activation=False, kind=NormKind.INPLACE_ABN)
    randomized(norm)
    assert (norm.weight < 0).any()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(norm(x), published_formula(x, norm))


def test_norm_activation_is_leaky() -> None:
    norm = Norm(1, activation=True, kind=NormKind.INPLACE_ABN).eval()
    x = torch.tensor([-2.0, 3.0]).reshape(1, 1, 1, 2)
    assert norm(x).flatten().tolist() == pytest.approx([-0.02, 3.0], rel=1e-4)


def test_batch_norm_kind_keeps_the_sign() -> None:
    norm = Norm(3, activation=False, kind=NormKind.BATCH_NORM)
    randomized(norm)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("size", [(2, 2), (5, 8), (8, 5), (31, 64)])
def test_ceil_max_pool(size: tuple[int, int]) -> None:
    x = torch.rand(1, 2, *size)
    assert torch.equal(ceil_max_pool(x), F.max_pool2d(x, 3, 2, 1, ceil_mode=True))


@pytest.mark.parametrize(
    ("input_size", "output_size"),
    [((1024, 2048), (257, 513)), ((97, 161), (25, 41)), ((128, 256), (33, 65)), ((32, 32), (9, 9))],
)
def test_output_size(input_size: tuple[int, int], output_size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = AlignSeg(NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16)).eval()
        logits = model(torch.zeros(1, 3, *input_size)).logits
    assert logits.shape == (1, 19, *output_size)


def test_published_size() -> None:
    with torch.device("meta"):
        model = AlignSeg(NetworkSpec())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(66.8e6, rel=2e-3)


def test_training_gives_gradients_to_every_weight() -> None:
    model = AlignSeg(NetworkSpec(backbone="resnet18", width=0.125, decoder_channels=16)).train()
    logits, auxiliary = model(torch.randn(2, 3, 64, 64))
    (logits.square().mean() + auxiliary.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("upsampling", Upsampling)
@pytest.mark.parametrize("norm", NormKind)
@pytest.mark.parametrize("convention", SamplingConvention)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_rewrites_are_exact(
    backbone: str, convention: SamplingConvention, norm: NormKind, upsampling: Upsampling
) -> None:
    """In float64, so that only a wrong rewrite can show."""
    spec = NetworkSpec(
        backbone=backbone, width=0.125, decoder_channels=24, convention=convention, norm=norm
    )
    model = AlignSeg(spec)
    randomized(model)
    image = torch.randn(2, 3, 70, 45, dtype=torch.float64)
    with torch.inference_mode():
        (expected, _), expected_offsets = model.forward_with_offsets(image)
        rewritten = rewrite_for_inference(model, upsampling)
        seen, offsets = rewritten.forward_with_offsets(image)
    assert seen.auxiliary is None
    assert torch.linalg.norm(seen.logits - expected) <= 1e-9 * torch.linalg.norm(expected)
    for field, offset in expected_offsets.items():
        error = torch.linalg.norm(offsets[field] - offset)
        assert error <= 1e-9 * torch.linalg.norm(offset), field


@pytest.mark.parametrize("upsampling", Upsampling)
@pytest.mark.parametrize("size", [(32, 32), (33, 250), (97, 161), (211, 64), (128, 256)])
def test_rewrites_label_alike(
    size: tuple[int, int], upsampling: Upsampling, small_checkpoint: Path
) -> None:
    """In float32, at sizes whose halves nest and others; 32 x 32 has a last stage of 2 x 2."""
    model = load_checkpoint(small_checkpoint).model()
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 60
    with torch.inference_mode():
        expected = model(image).logits
        seen = rewrite_for_inference(model, upsampling)(image).logits
        labels, others = (upsample(logits, size).argmax(1) for logits in (expected, seen))
        first, second = upsample(expected, size).topk(2, 1).values.unbind(1)
    assert torch.linalg.norm(seen - expected) <= 1e-5 * torch.linalg.norm(expected)
    clear = first - second > 1e-4 * expected.std()  # float32 decides the others
    assert clear.double().mean() > 0.99
    assert len(np.unique(labels.numpy())) > 3
    assert torch.equal(labels[clear], others[clear])


@pytest.mark.parametrize("upsampling", Upsampling)
@pytest.mark.parametrize(
    ("low", "high"),
    [((1, 1), (1, 1)), ((1, 7), (1, 4)), ((5, 1), (3, 1)), ((2, 2), (3, 3)), ((12, 9), (5, 5))],
)
def test_rewritten_blocks_of_few_pixels(
    low: tuple[int, int], high: tuple[int, int], upsampling: Upsampling
) -> None:
    block = CAB(8, SamplingConvention.RELEASE_2021_12, NormKind.INPLACE_ABN)
    randomized(block)
    features = [torch.randn(2, 8, *size, dtype=torch.float64) for size in (low, high)]
    expected, seen = block(*features), SplitCAB(block, upsampling)(*features)
    torch.testing.assert_close(seen.feature, expected.feature)
    torch.testing.assert_close(seen.offsets, expected.offsets)


@pytest.mark.parametrize(
    ("upsampling", "calls"), [(Upsampling.MATRICES, 0), (Upsampling.RESIZE, 9)]
)
def test_upsampling_is_what_was_asked_for(
    upsampling: Upsampling, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the four alignments two each, of the context module one."""
    model = AlignSeg(NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16)).eval()
    rewritten = rewrite_for_inference(model, upsampling)
    seen: list[tuple[int, int]] = []
    interpolate = F.interpolate

    def counting(x: Tensor, *, size: tuple[int, int], mode: str, align_corners: bool) -> Tensor:
        seen.append(size)
        return interpolate(x, size=size, mode=mode, align_corners=align_corners)

    monkeypatch.setattr(F, "interpolate", counting)
    rewritten(torch.zeros(1, 3, 64, 96))
    assert len(seen) == calls


def test_offsets_are_those_of_their_branches() -> None:
    model = AlignSeg(NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16)).eval()
    branches: dict[str, nn.Module] = {"cam": model.CAM.delta_gen}
    for index in (5, 4, 3, 2):
        block = model.get_submodule(f"CAB{index}")
        branches[f"cab{index}.high"] = block.get_submodule("delta_gen1")
        branches[f"cab{index}.low"] = block.get_submodule("delta_gen2")
    seen: dict[str, Tensor] = {}
    for name, branch in branches.items():
        branch.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    _, offsets = model.forward_with_offsets(torch.randn(1, 3, 64, 96))
    assert list(offsets) == list(branches)
    assert all(torch.equal(offsets[field], seen[field]) for field in offsets)
    assert len({float(offset.detach().sum()) for offset in seen.values()}) == 9


def test_rewrites_replace_what_they_say() -> None:
    model = AlignSeg(NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=32)).eval()
    kinds = [type(module) for module in rewrite_for_inference(model).modules()]
    assert not {CAB, CAM, RRB, Norm} & set(kinds)
    assert (kinds.count(SplitCAB), kinds.count(SplitCAM), kinds.count(FoldedRRB)) == (4, 1, 9)
    untouched = [type(module) for module in model.modules()]
    assert untouched.count(CAB) == 4


def test_norm_of_tiny_scale_is_not_divided_by() -> None:
    """Folding would put 1/scale into a convolution, where float16 could not hold it."""
    model = AlignSeg(NetworkSpec(backbone="resnet50", width=0.25, decoder_channels=32))
    randomized(model)
    with torch.no_grad():
        model.RRB4a.norm.weight[3] = 0.0
    rewritten = rewrite_for_inference(model)
    assert isinstance(rewritten.get_submodule("RRB4a"), RRB)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(rewritten(image).logits, model(image).logits)


def test_fold_norm_of_a_strided_convolution_with_bias() -> None:
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    norm = Norm(5, activation=False, kind=NormKind.INPLACE_ABN)
    randomized(layer)
    randomized(norm)
    x = torch.randn(1, 3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(fold_norm(layer, norm)(x), norm(layer(x)))


def test_without_auxiliary_head_leaves_the_original_alone() -> None:
    model = AlignSeg(NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16)).eval()
    assert without_auxiliary_head(model)(torch.zeros(1, 3, 64, 64)).auxiliary is None
    assert model(torch.zeros(1, 3, 64, 64)).auxiliary is not None
