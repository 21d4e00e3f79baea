"""Tables of whole networks with seeded weights, in float16.

They compare the authors' graph with ours, step by step; each way of upsampling has its own row.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignseg_infer.models.alignseg import AlignSeg, Outputs
from alignseg_infer.models.decoder import OffsetSampler
from alignseg_infer.models.rewrites import (
    SplitOffsets,
    rewrite_for_inference,
    without_auxiliary_head,
)
from alignseg_infer.spec.model import NetworkSpec, Sampler, Upsampling
from tests.benchmarks.gpu_sampling_tables import LAYOUTS, by, normal, relative_error, stored_as
from tests.benchmarks.gpu_timing import Rig, Row, Size, Table, Tensors
from tests.support.seeded import seeded_state_dict

LOGITS = 0.04  # relative L2 of float16 with seeded weights; 0.012 was measured on a CPU
LABELS = 0.03  # share of pixels with another label; 0.004 was measured
AUTHORS = "authors' network, both heads"
FUSED = "rewritten, upsampled and sampled by our kernels"
Make = Callable[[str], nn.Module]  # takes the layout


def network_tables(rig: Rig) -> Iterator[Table]:
    """Yield the tables of logits, then of labels at the image's size; small images first."""
    makes = networks(rig)
    for image, _ in reversed(rig.sizes.images):
        yield logits_table(rig, image, makes)
        yield labels_table(rig, image, makes)


def networks(rig: Rig) -> dict[str, Make]:
    """Return the networks by name; each is made when it is needed, once for each layout."""
    official = functools.cache(partial(seeded_model, rig.sizes.network))
    makes: dict[str, Callable[[], AlignSeg]] = {
        AUTHORS: official,
        "one head": lambda: without_auxiliary_head(official()),
    }
    for choice in Upsampling:
        named = f"rewritten, {choice}"
        makes[named] = lambda choice=choice: rewrite_for_inference(official(), choice)  # type: ignore[misc]
        makes[f"{named}, our kernels"] = lambda make=makes[named]: with_kernels(make())  # type: ignore[misc]
    makes[FUSED] = lambda: with_kernels(rewrite_for_inference(official()), fuse=True)
    return {name: functools.cache(partial(on_rig, rig, make)) for name, make in makes.items()}


def seeded_model(network: NetworkSpec) -> AlignSeg:
    model = AlignSeg(network)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    state = seeded_state_dict(shapes)
    model.load_state_dict({key: torch.from_numpy(np.asarray(v)) for key, v in state.items()})
    return model.eval().requires_grad_(False)


def with_kernels(model: AlignSeg, *, fuse: bool = False) -> AlignSeg:
    """Let our kernels sample and, with `fuse`, also upsample for the offsets."""
    for module in model.modules():
        if isinstance(module, OffsetSampler):
            module.sampler = Sampler.PLUGIN
        elif isinstance(module, SplitOffsets):
            module.fuse = fuse
    return model


def on_rig(rig: Rig, make: Callable[[], AlignSeg], layout: str) -> nn.Module:
    """Copy the model to the rig: what a graph has captured must stay where it is."""
    model = copy.deepcopy(make()).half().to(rig.device)
    return model.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload,no-any-return]


def images(rig: Rig, size: Size, layout: str, number: int) -> Tensors:
    return (stored_as(layout, normal(rig, number, (1, 3, *size)).mul(60).half()),)


@torch.inference_mode()
def run(make: Make, layout: str, image: Tensor) -> Tensor:
    outputs: Outputs = make(layout)(image)
    return outputs.logits


@torch.inference_mode()
def reference(rig: Rig, size: Size) -> Tensor:
    """Compute the logits of the authors' network in float64."""
    model = seeded_model(rig.sizes.network).double().to(rig.device)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        outputs: Outputs = model(images(rig, size, "planar", 0)[0].double())
    return outputs.logits


def logits_table(rig: Rig, size: Size, makes: dict[str, Make]) -> Table:
    exact = functools.cache(partial(reference, rig, size))
    rows = [
        Row(
            name=f"{name}, {layout}",
            make=partial(images, rig, size, layout),
            call=partial(run, make, layout),
            error=lambda seen: relative_error(seen, exact()),
            tolerance=LOGITS,
        )
        for layout in LAYOUTS
        for name, make in makes.items()
    ]
    title = f"{rig.sizes.network.backbone} {by(size)}, float16, logits"
    return Table(title=title, rows=rows, base=f"{AUTHORS}, NHWC", calls=rig.sizes.network_calls)


def labels_table(rig: Rig, size: Size, makes: dict[str, Make]) -> Table:
    """Return the table of networks followed by labelling: PyTorch's, and our kernel's."""

    @functools.cache
    def exact() -> Tensor:
        return plain_labels(reference(rig, size), *images(rig, size, "NHWC", 0))

    def row(name: str, network: str, stage: Callable[[Tensor, Tensor], Tensor]) -> Row:
        def call(image: Tensor) -> Tensor:
            return stage(run(makes[network], "NHWC", image), image)

        return Row(
            name=name,
            make=partial(images, rig, size, "NHWC"),
            call=call,
            error=lambda seen: float((seen.long() != exact()).double().mean()),
            tolerance=LABELS,
        )

    plain = f"{AUTHORS}, interpolate and argmax"
    rows = [row(plain, AUTHORS, plain_labels)]
    rows += [
        row(f"{name}, UpsampleArgmax", name, kernel_labels)
        for name in makes
        if name.endswith("our kernels") and Upsampling.MATRICES not in name
    ]
    title = f"{rig.sizes.network.backbone} {by(size)}, float16, NHWC, to labels"
    return Table(title=title, rows=rows, base=plain, calls=rig.sizes.network_calls)


@torch.inference_mode()
def plain_labels(logits: Tensor, image: Tensor) -> Tensor:
    size = image.shape[-2:]
    return F.interpolate(logits, size, mode="bilinear", align_corners=True).argmax(1)


@torch.inference_mode()
def kernel_labels(logits: Tensor, image: Tensor) -> Tensor:
    labels: Tensor = torch.ops.alignseg.upsample_argmax(logits, image)
    return labels
