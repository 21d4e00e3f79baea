"""ModelSpec: the facts that travel with a model, from checkpoint to engine.

Written once (at training or at export), read by every loader. It is plain JSON: in ONNX files it
is the metadata entry ``alignseg.spec``, in our checkpoints the entry ``alignseg``.
"""

import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from alignseg_infer.errors import SpecError
from alignseg_infer.spec.from_json import dataclass_from_json, unreadable_spec

SPEC_VERSION = 3
SPEC_KEY = "alignseg.spec"
VERIFICATION_KEY = "alignseg.verification"  # of the float32 export with PyTorch
AGREEMENT_KEY = "alignseg.agreement"  # of a float16 or int8 model with the float32 one
INPUT_NAME = "image"  # of every exported graph
OPSETS = (16, 17, 18, 19)
DEFAULT_OPSET = 18
MAX_INPUT_SIDE = 16384
MIN_INPUT_SIDE = 32  # the 1/32 stage must not vanish; below this the decoder sees one pixel


class SamplingConvention(StrEnum):
    """Where an offset (dx, dy) at output pixel (x, y) points in the feature that is sampled.

    The three share one state dict, so a checkpoint cannot tell them apart. ``ops.sampling`` has
    the formulas.
    """

    RELEASE_2021_12 = "release-2021-12"
    RELEASE_2021_05 = "release-2021-05"
    STANDARD = "standard"


class NormKind(StrEnum):
    """How a normalisation layer uses its stored weight: InPlaceABN takes |weight| + 1e-5."""

    INPLACE_ABN = "inplace-abn"
    BATCH_NORM = "batch-norm"


class ChannelOrder(StrEnum):
    """Order of an image's three channels."""

    BGR = "bgr"
    RGB = "rgb"


class Sampler(StrEnum):
    """How the offset sampling is written in an exported graph.

    ``native`` is ONNX GridSample; ``gather`` is index arithmetic and Gather, for runtimes whose
    GridSample is missing or wrong; ``plugin`` is nodes that TensorRT computes with the library
    built from ``plugins/``, and nothing else can.
    """

    NATIVE = "native"
    GATHER = "gather"
    PLUGIN = "plugin"


class Upsampling(StrEnum):
    """How the exact rewrites upsample features in an exported graph.

    ``matrices`` is products with two small matrices, for CPUs (`ops.resampling` has figures);
    ``resize`` is ONNX Resize, which moves fewer bytes and so is for GPUs.
    """

    MATRICES = "matrices"
    RESIZE = "resize"


class OutputKind(StrEnum):
    """``logits``: (N, C, h, w) float32 at 1/4 size. ``labels``: (N, H, W) at input size."""

    LOGITS = "logits"
    LABELS = "labels"


class Precision(StrEnum):
    """What an exported graph computes in.

    In ``fp16``, values are float16, but sampling coordinates and what depends on shapes alone stay
    float32. ``int8`` is ``fp16`` with quantised convolutions (Q/DQ). The image and the logits are
    float32 in all of them.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The shape of the network and how its weights are to be read.

    Attributes:
        backbone: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101`` (deep stem).
        width: Factor on all backbone channels; 1.0 is the published network.
        decoder_channels: Channels of the decoder, 256 in the published network.
        num_classes: Channels of the output.
        convention: Sampling convention the weights were trained with.
        norm: How normalisation weights are used.
    """

    backbone: str = "resnet101"
    width: float = 1.0
    decoder_channels: int = 256
    num_classes: int = 19
    convention: SamplingConvention = SamplingConvention.RELEASE_2021_12
    norm: NormKind = NormKind.INPLACE_ABN

    def __post_init__(self) -> None:
        counts = (self.decoder_channels, self.num_classes)
        if not (math.isfinite(self.width) and self.width > 0 and min(counts) > 0):
            raise unreadable_spec(f"no network has width {self.width:g} and channels {counts}")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What the network's input tensor is: ``(pixel - mean) / std`` for pixels in 0..255.

    Attributes:
        channel_order: Order of the three channels, and of `mean` and `std`.
        mean: Subtracted, in grey levels (0..255).
        std: Divided by, in grey levels.
    """

    channel_order: ChannelOrder = ChannelOrder.BGR
    mean: tuple[float, float, float] = (104.00698793, 116.66876762, 122.67891434)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise SpecError(
                f"the input has mean {self.mean} and std {self.std}",
                "finite means, and standard deviations above 0, both in grey levels (0..255)",
                "mean=(104.007, 116.669, 122.679) and std=(1, 1, 1)",
            )

    def reversed(self) -> "InputSpec":
        """The same input with its channels in the other order."""
        order = ChannelOrder.RGB if self.channel_order is ChannelOrder.BGR else ChannelOrder.BGR
        (first, second, third), (one, two, three) = self.mean, self.std
        return InputSpec(channel_order=order, mean=(third, second, first), std=(three, two, one))


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """Class names and colours, by label.

    Attributes:
        dataset: Where the table comes from, e.g. ``cityscapes``.
        names: One name per label.
        colors: One (red, green, blue) per label, 0..255.
    """

    dataset: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not all(0 <= channel <= 255 for color in self.colors for channel in color):
            raise SpecError(
                f"the class table {self.dataset!r} has colours outside 0..255",
                "red, green and blue of 0 to 255 each",
                "correct the class table: classes=FILE.json",
            )


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What was decided at export.

    Attributes:
        output: What the graph returns.
        sampler: How offset sampling is lowered.
        opset: ONNX opset of the graph.
        rewrites: Whether the exact rewrites were applied.
        size: Fixed input (height, width); None when any size is accepted.
        batch: Fixed batch size; None when any is accepted.
        exporter: Versions that wrote the file.
        precision: What the graph computes in.
        upsampling: How features are upsampled; ``resize`` without the rewrites.
    """

    output: OutputKind
    sampler: Sampler
    opset: int
    rewrites: bool
    size: tuple[int, int] | None
    batch: int | None
    exporter: str
    precision: Precision = Precision.FP32
    upsampling: Upsampling = Upsampling.MATRICES

    def __post_init__(self) -> None:
        sides = self.size or (MIN_INPUT_SIDE,)
        fits = min(sides) >= MIN_INPUT_SIDE and max(sides) <= MAX_INPUT_SIDE
        if not fits or self.opset not in OPSETS or (self.batch is not None and self.batch < 1):
            raise unreadable_spec(f"size {self.size}, batch {self.batch}, opset {self.opset}")
        if not self.rewrites and self.upsampling is not Upsampling.RESIZE:
            raise unreadable_spec(
                f"upsampling {self.upsampling} without the rewrites that bring it"
            )


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """The checkpoint the weights came from: file name and SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All facts about a model; `source` and `export` are None until there is a file to speak of."""

    network: NetworkSpec
    input: InputSpec
    classes: ClassSpec
    source: SourceSpec | None = None
    export: ExportSpec | None = None

    def __post_init__(self) -> None:
        counts = {self.network.num_classes, len(self.classes.names), len(self.classes.colors)}
        if len(counts) != 1:
            raise SpecError(
                f"the model has {self.network.num_classes} classes, but {len(self.classes.names)} "
                f"names and {len(self.classes.colors)} colours are given",
                "one name and one colour per class",
                "choose the class table that fits: classes=cityscapes|ade20k|voc|FILE.json",
            )
        doubled = [name for name, count in Counter(self.classes.names).items() if count > 1]
        if doubled:
            raise SpecError(
                f"several classes are called {doubled[0]!r}",
                "a name of its own for each class",
                "rename them in the class table: classes=FILE.json",
            )

    def to_json(self) -> str:
        """The spec as one JSON object."""
        return json.dumps({"version": SPEC_VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            SpecError: The text is no spec, or one of a version this package does not know.
        """
        try:
            facts = json.loads(text)
            version = facts.pop("version")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise unreadable_spec(f"not a JSON object with a version ({error!r})") from error
        if type(version) is not int or version != SPEC_VERSION:
            raise SpecError(
                f"the model's spec has version {version!r}",
                f"version {SPEC_VERSION}, the one that this package reads",
                "export the model again: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
            )
        return dataclass_from_json(cls, facts, "spec")
