"""The cases that run through ``enqueue`` of the plugins, on a CPU build and on a GPU."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from alignseg_infer.spec.model import SamplingConvention
from tests.support.kernel_cases import CASES, Array, KernelCase, Op, Scalar, inputs, stored_inputs
from tests.support.plugin_harness import (
    FLOAT,
    HALF,
    HWC,
    HWC8,
    INT32,
    LINEAR,
    Library,
    Plugin,
    Tensor,
    convention,
    tensor,
)

NAMES = {Op.SAMPLE: "OffsetGridSample", Op.ADD: "AlignedAdd"}
TYPES = {Scalar.FLOAT: FLOAT, Scalar.HALF: HALF}


def made(library: Library, name: str, value: str = "release-2021-12") -> Plugin:
    """Create the plugin `name`, with the convention if it takes one."""
    return library.create(name, *([convention(value)] if name in NAMES.values() else []))


def layout_of(case: KernelCase) -> int | None:
    """Return TensorRT's code for the layout of the case; None if it has none."""
    if case.pitch == 0:
        return LINEAR
    if case.feature is Scalar.HALF:
        return HWC8 if case.pitch == -(-case.channels // 8) * 8 else None
    return HWC if case.pitch == case.channels and case.channels % 4 == 0 else None


# All conventions, types and layouts at one shape, whose channels fill vectors of 4 but not of 8.
COMPLETE = [
    KernelCase(
        op=op,
        coarse=(4, 6),
        size=(9, 13),
        batch=2,
        channels=12,
        convention=rule,
        feature=feature,
        offset=offset,
        pitch=pitch,
    )
    for op, rule, feature, offset in itertools.product(Op, SamplingConvention, Scalar, Scalar)
    for pitch in (0, 16 if feature is Scalar.HALF else 12)
]
TABLE = [case for case in CASES if layout_of(case) is not None]


def described_case(case: KernelCase) -> list[Tensor]:
    """Describe the tensors of the case as TensorRT does, the output last."""
    layout = layout_of(case)
    assert layout is not None
    tensors = [
        tensor(value.shape, TYPES[case.offset])
        if name.endswith("offset")
        else tensor(value.shape, TYPES[case.feature], layout)
        for name, value in inputs(case).items()
    ]
    shape = (case.batch, case.channels, *case.size)
    return [*tensors, tensor(shape, TYPES[case.feature], layout)]


def enqueued(
    plugin: Plugin, tensors: Sequence[Tensor], given: Sequence[Array], output: Array, device: str
) -> Array:
    """Run the plugin on `given` in memory of `device`, over `output`, and return the result."""
    *ins, out = tensors
    assert all(plugin.supports(tensors, pos, len(ins)) for pos in range(len(tensors)))
    assert plugin.configure(ins, [out]), plugin.library.log()
    assert plugin.change_shape(ins, [out]), plugin.library.log()
    held = [torch.from_numpy(array).to(device) for array in (*given, output)]
    addresses = [one.data_ptr() for one in held]
    assert plugin.enqueue_at(ins, out, addresses), plugin.library.log()
    written: Array = held[-1].cpu().numpy()  # this waits for the GPU
    return written


def ran(plugin: Plugin, case: KernelCase, device: str = "cpu") -> Array:
    """Run `case` and return its output as stored."""
    output: Array = np.full(case.output_shape, 77.0, case.feature.dtype)
    given = list(stored_inputs(case).values())
    return enqueued(plugin, described_case(case), given, output, device)


@dataclass(frozen=True)
class LabelCase:
    """One call of UpsampleArgmax.

    Attributes:
        small: (h, w) of the logits.
        size: (H, W) of the labels.
        batch: N.
        classes: C.
        scalar: Type of the logits.
        like: Type of the tensor that gives the size, a nvinfer1::DataType.
    """

    small: tuple[int, int]
    size: tuple[int, int]
    batch: int
    classes: int
    scalar: Scalar = Scalar.FLOAT
    like: int = FLOAT

    def logits(self) -> Array:
        """Make the logits, (N, C, h, w)."""
        random = np.random.default_rng(self.classes)
        values: Array = random.normal(size=(self.batch, self.classes, *self.small))
        return values.astype(self.scalar.dtype)


LABEL_SHAPES = [
    ((1, 1), (1, 1), 1, 2),
    ((3, 3), (1, 1), 2, 5),
    ((1, 4), (6, 9), 1, 3),
    ((9, 17), (33, 65), 2, 19),
    ((11, 7), (5, 4), 1, 150),
    ((13, 10), (37, 41), 1, 19),
]
LABEL_CASES = [
    LabelCase(*shape, scalar, like)
    for shape, scalar, like in itertools.product(LABEL_SHAPES, Scalar, (FLOAT, HALF))
]


def ran_labels(plugin: Plugin, case: LabelCase, device: str = "cpu") -> Array:
    """Run the case and return labels, (N, H, W) int32."""
    logits = case.logits()
    labels: Array = np.full((case.batch, *case.size), -1, np.int32)
    tensors = [
        tensor(logits.shape, TYPES[case.scalar]),
        tensor((case.batch, 3, *case.size), case.like),
        tensor(labels.shape, INT32),
    ]
    image: Array = np.zeros(1, np.uint8)  # not an image of that size, since it must not be read
    return enqueued(plugin, tensors, [logits, image], labels, device)


def check_labels(case: LabelCase, labels: Array) -> None:
    """Fail if the upsampled logit of a label is not the highest, apart from rounding."""
    exact = torch.from_numpy(case.logits().astype(np.float64))
    upsampled = F.interpolate(exact, case.size, mode="bilinear", align_corners=True).numpy()
    assert labels.min() >= 0
    assert labels.max() < case.classes
    chosen = np.take_along_axis(upsampled, labels[:, np.newaxis].astype(np.int64), 1)
    np.testing.assert_allclose(chosen[:, 0], upsampled.max(1), rtol=0, atol=1e-5)
