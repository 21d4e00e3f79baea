"""The cases of the kernels before and after the network, for a CPU build or a GPU.

A runner takes a case, uploads the arrays of `label_inputs(case)` or `image_inputs(case)`, packs
`label_fields` or `image_fields` with their addresses, launches `case.entry_point` with
`case.blocks` blocks of THREADS threads, and passes what came back to `check_labels` or
`check_inputs`. Outputs have the shapes and types of `label_outputs` or `image_outputs`.
"""

import itertools
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import ChannelOrder, InputSpec

Array: TypeAlias = NDArray[Any]
Double: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int, int]

LABEL_THREADS, LABEL_TILE = 256, (32, 64)  # as in upsample_argmax_math.h
IMAGE_THREADS, IMAGE_TILE = 256, (8, 128)  # as in preprocess_math.h

TIE = 1e-5  # share of the largest logit; classes this close may be taken for each other
LEVEL = 0.51  # levels of confidence, out of 255: half a level for rounding
SCALAR_CODES = {np.dtype(np.float32): ("float", 0), np.dtype(np.float16): ("half", 1)}
LABEL_CODES = {
    np.dtype(np.uint8): ("uint8", 0),
    np.dtype(np.uint16): ("uint16", 1),
    np.dtype(np.int32): ("int32", 2),
}
LABELS: tuple[type[np.integer[Any]], ...] = (np.uint8, np.uint16, np.int32)
SCALARS: tuple[type[np.floating[Any]], ...] = (np.float32, np.float16)


def blocks(batch: int, size: Size, tile: Size) -> int:
    """Return how many blocks cover `batch` images of `size`, one per tile."""
    return batch * -(-size[0] // tile[0]) * -(-size[1] // tile[1])


def random_logits(shape: tuple[int, ...], rng: np.random.Generator) -> Double:
    return rng.normal(0, 4, shape)


def smooth_logits(shape: tuple[int, ...], rng: np.random.Generator) -> Double:
    """Make random waves: large regions of one label, like those of a trained network."""
    y, x = np.mgrid[: shape[-2], : shape[-1]] / 8
    waves = [np.sin(a * y + b * x + c) * 6 for a, b, c in rng.normal(0, 1, (_planes(shape), 3))]
    return np.reshape(waves, shape)


def tied_logits(shape: tuple[int, ...], rng: np.random.Generator) -> Double:
    """Make logits with every class twice; labels must be in the lower half."""
    half = smooth_logits((shape[0], shape[1] // 2, *shape[2:]), rng)
    return np.concatenate([half, half], axis=1)


def constant_logits(shape: tuple[int, ...], rng: np.random.Generator) -> Double:
    return np.broadcast_to(rng.normal(0, 1e4, (*shape[:2], 1, 1)), shape).copy()


def low_logits(shape: tuple[int, ...], rng: np.random.Generator) -> Double:
    """Make logits near the least float, so that no initial value can be below them all."""
    return -rng.uniform(1, 3, shape) * 1e38


def inner_logits(shape: tuple[int, ...], rng: np.random.Generator) -> Double:
    """Make the last class best inside cells, where four corners average, but at no corner."""
    logits = np.full(shape, -9.0)
    y, x = np.mgrid[: shape[2], : shape[3]]
    for label in range(4):
        logits[:, label] = ((y % 2) * 2 + x % 2 == label) * rng.uniform(1, 1.2)
    logits[:, -1] = 0.6
    return logits


def agreeing_logits(shape: tuple[int, ...], rng: np.random.Generator) -> Double:
    """Make one class best everywhere by a little, so that corners decide all pixels."""
    logits = rng.uniform(0, 1, shape)
    logits[:, shape[1] // 2] += 1
    return logits


def nan_logits(shape: tuple[int, ...], rng: np.random.Generator) -> Double:
    """Put NaN and both infinities into some values, and into all classes of some pixels."""
    logits = smooth_logits(shape, rng)
    for value in (np.nan, np.inf, -np.inf):
        logits[rng.uniform(size=shape) < 0.1 / shape[1] ** 0.5] = value
        logits.swapaxes(0, 1)[:, rng.uniform(size=(shape[0], *shape[2:])) < 0.05] = value
    return logits


def _planes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[:-2]))


Maker: TypeAlias = Callable[[tuple[int, ...], np.random.Generator], Double]


@dataclass(frozen=True, kw_only=True)
class LabelCase:
    """One call of UpsampleArgmax.

    Attributes:
        shape: (C, h, w) of the logits.
        size: (H, W) of the labels.
        batch: N.
        make: What the logits are like.
        logits: Type of the logits.
        labels: Type of the labels.
        confidence: Whether confidence is asked for.
        color: Whether color is asked for.
        skew: Elements by which all arrays begin after an aligned address.
    """

    shape: tuple[int, int, int]
    size: Size
    batch: int = 1
    make: Maker = smooth_logits
    logits: type[np.floating[Any]] = np.float32
    labels: type[np.integer[Any]] = np.uint8
    confidence: bool = False
    color: bool = False
    skew: int = 0

    def __str__(self) -> str:
        shape = "x".join(map(str, (self.batch, *self.shape)))
        extras = "-confidence" * self.confidence + "-color" * self.color + "-skewed" * self.skew
        types = "-".join((self.make.__name__, *self.codes))
        return f"{shape}-to-{self.size[0]}x{self.size[1]}-{types}{extras}"

    @property
    def codes(self) -> tuple[str, str]:
        """Names of the types in the entry point."""
        return SCALAR_CODES[np.dtype(self.logits)][0], LABEL_CODES[np.dtype(self.labels)][0]

    @property
    def entry_point(self) -> str:
        """Name of the kernel that NVRTC compiles."""
        return "_".join(("upsample_argmax", *["confidence"] * self.confidence, *self.codes))

    @property
    def blocks(self) -> int:
        return blocks(self.batch, self.size, LABEL_TILE)


@dataclass(frozen=True, kw_only=True)
class ImageCase:
    """One call of the preprocessing kernel.

    Attributes:
        image: (h, w).
        size: (H, W) of the network's input.
        batch: N.
        order: Channel order of the input.
        mean: Of its channels.
        std: Likewise.
        output: Type of the input.
        skew: Elements by which all arrays begin after an aligned address.
    """

    image: Size
    size: Size
    batch: int = 1
    order: ChannelOrder = ChannelOrder.BGR
    mean: tuple[float, float, float] = (102.9801, 115.9465, 122.7717)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    output: type[np.floating[Any]] = np.float32
    skew: int = 0

    def __str__(self) -> str:
        (h, w), (height, width) = self.image, self.size
        name = f"{self.batch}x{h}x{w}-to-{height}x{width}-{self.order}-{self.std[1]:g}"
        return f"{name}-{SCALAR_CODES[np.dtype(self.output)][0]}{'-skewed' * self.skew}"

    @property
    def entry_point(self) -> str:
        """Name of the kernel that NVRTC compiles."""
        return f"preprocess_{SCALAR_CODES[np.dtype(self.output)][0]}"

    @property
    def blocks(self) -> int:
        return blocks(self.batch, self.size, IMAGE_TILE)


def _rng(case: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(str(case).encode()))


def label_inputs(case: LabelCase) -> dict[str, Array]:
    """Make logits (N, C, h, w) and a palette (C, 3)."""
    rng = _rng(case)
    with np.errstate(over="ignore"):
        logits = case.make((case.batch, *case.shape), rng).astype(case.logits)
    return {"logits": logits, "palette": rng.integers(0, 256, (case.shape[0], 3), np.uint8)}


def label_outputs(case: LabelCase) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the shapes and types of the requested outputs."""
    shape = (case.batch, *case.size)
    outputs: dict[str, tuple[tuple[int, ...], Any]] = {"labels": (shape, case.labels)}
    if case.confidence:
        outputs["confidence"] = (shape, np.uint8)
    if case.color:
        outputs["color"] = ((*shape, 3), np.uint8)
    return outputs


def label_fields(case: LabelCase, addresses: Mapping[str, int]) -> bytes:
    """Pack UpsampleArgmaxParams; pointers that `addresses` leaves out are null."""
    names = ("logits", "labels", "confidence", "color", "palette", "not_finite")
    pointers = [addresses.get(name, 0) for name in names]
    return struct.pack("=6Q6q", *pointers, case.batch, *case.shape, *case.size)


def image_inputs(case: ImageCase) -> dict[str, Array]:
    """Make images (N, h, w, 3) BGR: noise, with black and white to reach both ends."""
    rng = _rng(case)
    images = rng.integers(-40, 296, (case.batch, *case.image, 3)).clip(0, 255).astype(np.uint8)
    return {"images": images}


def image_outputs(case: ImageCase) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the shape and type of the network's input."""
    return {"output": ((case.batch, 3, *case.size), case.output)}


def image_fields(case: ImageCase, addresses: Mapping[str, int]) -> bytes:
    """Pack PreprocessParams."""
    sizes = (case.batch, *case.image, *case.size, int(case.order is ChannelOrder.RGB))
    pointers = (addresses["images"], addresses["output"])
    return struct.pack("=2Q6q6f", *pointers, *sizes, *case.mean, *case.std)


def axis_taps(size: int, output: int) -> tuple[Array, Array, Double]:
    """Return exactly which two inputs each output reads, and the weight of the second."""
    below = max(output - 1, 1)
    index = np.arange(output, dtype=np.int64) * (size - 1)
    first, rest = index // below, index % below / below
    return first, first + (rest > 0), np.where(rest > 0, rest, 0.5)  # on an input: twice that


def upsampled(logits: Array, size: Size) -> Double:
    """Upsample to (N, C, H, W) in float64; inputs with weight 0 do not spread their NaN."""
    top, bottom, y = axis_taps(logits.shape[2], size[0])
    left, right, x = axis_taps(logits.shape[3], size[1])
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        band = wide[:, :, top] * (1 - y)[:, None] + wide[:, :, bottom] * y[:, None]
        result: Double = band[..., left] * (1 - x) + band[..., right] * x
    return result


def interpolated(logits: Array, size: Size) -> Double:
    """Upsample to (N, C, H, W) with PyTorch in float64."""
    tensor = torch.from_numpy(logits.astype(np.float64))
    result: Double = F.interpolate(tensor, size, mode="bilinear", align_corners=True).numpy()
    return result


def check_labels(
    case: LabelCase, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> None:
    """Raise AssertionError if `outputs` are not right for `inputs`."""
    logits, labels = inputs["logits"], outputs["labels"].astype(np.int64)
    finite = np.isfinite(logits)
    values = interpolated(logits, case.size) if finite.all() else upsampled(logits, case.size)
    scores = np.where(np.isnan(values), -np.inf, values)
    assert labels.min() >= 0
    assert labels.max() < case.shape[0]
    chosen = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    best = scores.max(axis=1)
    slack = TIE * np.abs(logits[finite].astype(np.float64)).max(initial=1e-30)
    np.testing.assert_array_equal((chosen == best) | (best - slack <= chosen), True)
    np.testing.assert_array_equal(labels, _lowest_equal(values, labels, logits))
    if case.confidence:
        _check_confidence(values, labels, outputs["confidence"])
    if case.color:
        np.testing.assert_array_equal(outputs["color"], inputs["palette"][labels])


def _lowest_equal(values: Double, labels: Array, logits: Array) -> Array:
    """Return the lowest class equal to the label's everywhere; 0 if all are -infinity."""
    planes = logits.swapaxes(0, 1).reshape(logits.shape[1], -1)
    _, first, inverse = np.unique(planes, axis=0, return_index=True, return_inverse=True)
    lowest: Array = first[inverse.reshape(-1)][labels]
    return np.where(np.nan_to_num(values, nan=-np.inf).max(axis=1) == -np.inf, 0, lowest)


def _check_confidence(values: Double, labels: Array, confidence: Array) -> None:
    chosen = np.take_along_axis(values, labels[:, None], axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = 255 / np.exp(values - chosen).sum(axis=1)
    np.testing.assert_allclose(confidence, np.nan_to_num(expected, nan=0.0), rtol=0, atol=LEVEL)


def check_inputs(
    case: ImageCase, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> None:
    """Raise AssertionError if the network's input differs from `preprocess` in any bit."""
    spec = InputSpec(channel_order=case.order, mean=case.mean, std=case.std)
    expected = [preprocess(image, case.size, spec) for image in inputs["images"]]
    np.testing.assert_array_equal(outputs["output"], np.concatenate(expected).astype(case.output))


def _label_cases() -> list[LabelCase]:
    sizes: list[tuple[tuple[int, int, int], Size]] = [
        ((19, 16, 32), (64, 128)),  # one row of tiles
        ((19, 23, 33), (90, 131)),  # odd, and a tile of 3 columns
        ((19, 33, 47), (20, 9)),  # smaller
        ((5, 120, 300), (40, 131)),  # more corners per tile than are labelled
        ((5, 20, 32), (32, 64)),  # 640, just as many
        ((5, 21, 31), (32, 64)),
        ((5, 43, 15), (32, 64)),  # 645
        ((7, 20, 25), (32, 64)),  # 3500 logits, just as many as are kept
        ((7, 3, 167), (32, 64)),  # 3507
        ((150, 6, 9), (20, 33)),
        ((5, 40, 40), (33, 130)),  # both ways in one direction each
        ((5, 7, 7), (7, 7)),  # as it is
        ((6, 3, 9), (10, 300)),  # cells wider than what is computed at once
        ((4, 1, 9), (5, 40)),
        ((4, 9, 1), (40, 5)),
        ((4, 1, 1), (6, 7)),
        ((4, 9, 9), (1, 30)),
        ((4, 9, 9), (30, 1)),
        ((4, 9, 9), (1, 1)),
        ((1, 5, 6), (11, 12)),  # one class
        ((256, 6, 5), (21, 18)),
    ]
    makers = (random_logits, smooth_logits, agreeing_logits, nan_logits)
    plain = [
        LabelCase(shape=shape, size=size, make=make) for shape, size in sizes for make in makers
    ]
    all_three = [
        LabelCase(
            shape=shape,
            size=size,
            make=make,
            logits=np.float16,
            batch=2,
            labels=labels,
            confidence=True,
            color=True,
        )
        for (shape, size), labels in zip(sizes, LABELS * 5, strict=False)
        for make in (random_logits, nan_logits)
    ]
    return [*plain, *all_three, *_special_cases()]


def _special_cases() -> list[LabelCase]:
    one, many = ((8, 12, 20), (47, 77)), ((6, 17, 40), (65, 200))
    types = itertools.product(SCALARS, LABELS, (False, True))
    return [
        *(
            LabelCase(shape=one[0], size=one[1], logits=logits, labels=labels, confidence=more)
            for logits, labels, more in types
        ),
        *(LabelCase(shape=one[0], size=one[1], make=tied_logits, labels=t) for t in LABELS),
        *(LabelCase(shape=one[0], size=one[1], make=constant_logits, labels=t) for t in LABELS),
        *(LabelCase(shape=one[0], size=one[1], make=inner_logits, logits=t) for t in SCALARS),
        LabelCase(shape=many[0], size=many[1], make=inner_logits, batch=3, confidence=True),
        LabelCase(shape=many[0], size=many[1], make=low_logits, confidence=True),
        LabelCase(shape=many[0], size=many[1], batch=3, color=True, skew=1),
        LabelCase(shape=many[0], size=many[1], batch=2, confidence=True, color=True, skew=3),
        LabelCase(shape=many[0], size=many[1], labels=np.uint16, skew=1),
        LabelCase(shape=many[0], size=many[1], labels=np.int32, skew=1, logits=np.float16),
        LabelCase(shape=(300, 6, 5), size=(21, 18), labels=np.uint16, confidence=True),
        LabelCase(shape=(65535, 2, 2), size=(5, 4), labels=np.uint16, make=random_logits),
        LabelCase(shape=(65537, 2, 1), size=(3, 1), labels=np.int32, make=random_logits),
        LabelCase(shape=(19, 65, 129), size=(257, 513), color=True),
    ]


def _image_cases() -> list[ImageCase]:
    pairs: list[tuple[Size, Size]] = [
        ((10, 12), (20, 24)),  # exactly twice
        ((40, 52), (20, 26)),  # exactly half: OpenCV takes means of four
        ((64, 77), (100, 130)),
        ((100, 130), (64, 77)),
        ((33, 47), (33, 140)),  # one direction
        ((33, 47), (70, 47)),
        ((21, 37), (21, 37)),  # as it is
        ((20, 136), (20, 136)),  # in words
        ((1, 9), (5, 40)),
        ((9, 1), (40, 5)),
        ((1, 1), (6, 7)),
        ((30, 40), (1, 1)),
        ((272, 640), (256, 512)),
        ((3, 5), (1000, 3)),
    ]
    rgb = {"order": ChannelOrder.RGB, "std": (58.395, 57.12, 57.375)}
    return [
        *(ImageCase(image=image, size=size) for image, size in pairs),
        *(
            ImageCase(image=image, size=size, batch=2, output=np.float16, **rgb)  # type: ignore[arg-type]
            for image, size in pairs
        ),
        *(ImageCase(image=(20, 136), size=(20, 136), skew=skew, batch=2) for skew in (1, 2)),
        ImageCase(image=(20, 136), size=(31, 132), skew=3, output=np.float16),
    ]


LABEL_CASES = _label_cases()
IMAGE_CASES = _image_cases()
