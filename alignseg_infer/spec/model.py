"""ModelSpec: the facts that travel with a model, from checkpoint to engine.

A spec is written once, at training or at export, and every loader reads it. It is plain JSON, in
the metadata entry ``alignseg.spec`` of ONNX files and in the entry ``alignseg`` of our checkpoints.
"""

import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from alignseg_infer.backports import Self, StrEnum
from alignseg_infer.errors import SpecError
from alignseg_infer.spec.from_json import LATER, dataclass_from_json, json_facts, unreadable_spec
from alignseg_infer.spec.remapping import RemapSpec

SPEC_VERSION = 3
SPEC_KEY = "alignseg.spec"
VERIFICATION_KEY = "alignseg.verification"  # compares the float32 export with PyTorch
AGREEMENT_KEY = "alignseg.agreement"  # compares a float16 or int8 model with the float32 model
INPUT_NAME = "image"  # input of every exported graph
OPSETS = (16, 17, 18, 19)
DEFAULT_OPSET = 18
MAX_WIDTH, MAX_CHANNELS, MAX_CLASSES = 16.0, 8192, 16384  # published: 1.0, 256, 150
MAX_CLASS_NAME = 256  # characters
MAX_BATCH = 1024
MAX_INPUT_SIDE = 16384
MIN_INPUT_SIDE = 32  # one step of the 1/32 stage


class SamplingConvention(StrEnum):
    """Where an offset (dx, dy) at output pixel (x, y) points in the sampled feature.

    All three conventions have the same state dict, so a checkpoint does not show which one it was
    trained with. ``ops.sampling`` has the formulas.
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

    ``native`` is ONNX GridSample. ``gather`` is index arithmetic and Gather, for runtimes whose
    GridSample is missing or wrong. ``plugin`` is custom nodes that only TensorRT can compute, with
    the library built from ``plugins/``.
    """

    NATIVE = "native"
    GATHER = "gather"
    PLUGIN = "plugin"


class Upsampling(StrEnum):
    """How the exact rewrites upsample features in an exported graph.

    ``matrices`` multiplies with two small matrices and is meant for CPUs (`ops.resampling` has
    figures). ``resize`` is ONNX Resize, which moves fewer bytes and is meant for GPUs.
    """

    MATRICES = "matrices"
    RESIZE = "resize"


class OutputKind(StrEnum):
    """What a graph returns, in its usual form. `OutputSize` and `Layout` name others.

    ``logits``: (N, C, h, w) float32 at 1/4 size. ``labels``: (N, H, W) at input size.
    ``probabilities``: (N, C, H, W) float32 at input size, the softmax of upsampled logits.
    """

    LOGITS = "logits"
    LABELS = "labels"
    PROBABILITIES = "probabilities"


class OutputSize(StrEnum):
    """Size of probabilities: ``image``, that of the input, or ``quarter``, 1/4 of it."""

    IMAGE = "image"
    QUARTER = "quarter"


class LabelType(StrEnum):
    """Number format of the labels that a graph returns."""

    UINT8 = "uint8"
    UINT16 = "uint16"
    INT32 = "int32"
    INT64 = "int64"


class Layout(StrEnum):
    """Order of the axes of a graph's output, by their initials: batch, channel, height, width."""

    NCHW = "nchw"
    NHWC = "nhwc"


class ImageInput(StrEnum):
    """What a graph takes as an image.

    ``float32`` is (N, 3, H, W), normalised as `InputSpec` says. ``uint8-bgr`` and ``uint8-rgb`` are
    (N, H, W, 3) with channels in this order, as a camera gives them; the graph normalises.
    """

    FLOAT32 = "float32"
    UINT8_BGR = "uint8-bgr"
    UINT8_RGB = "uint8-rgb"


class Precision(StrEnum):
    """Number format that an exported graph computes in.

    In ``fp16``, values are float16, but sampling coordinates and values that depend only on shapes
    stay float32. ``int8`` is ``fp16`` with quantised convolutions (Q/DQ), or ``fp32`` with them if
    the target is ``cpu``. The image and the logits are always float32.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Target(StrEnum):
    """Hardware that a graph is exported for.

    It decides the form of ``int8``: ``tensorrt`` has signed Q/DQ in a float16 graph, and ``cpu``
    unsigned Q/DQ in a float32 graph, which ONNX Runtime and OpenVINO fuse into integer kernels.
    """

    CPU = "cpu"
    TENSORRT = "tensorrt"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The shape of the network and how its weights are interpreted.

    Attributes:
        backbone: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101`` (deep stem).
        width: Factor on all backbone channels; 1.0 in the published network.
        decoder_channels: Channels of the decoder; 256 in the published network.
        num_classes: Channels of the output.
        convention: Sampling convention that the weights were trained with.
        norm: How normalisation weights are used.
    """

    backbone: str = "resnet101"
    width: float = 1.0
    decoder_channels: int = 256
    num_classes: int = 19
    convention: SamplingConvention = SamplingConvention.RELEASE_2021_12
    norm: NormKind = NormKind.INPLACE_ABN

    def __post_init__(self) -> None:
        fits = (
            0 < self.width <= MAX_WIDTH
            and 1 <= self.decoder_channels <= MAX_CHANNELS
            and 1 <= self.num_classes <= MAX_CLASSES
        )
        if not fits:
            raise SpecError(
                f"the network has width x{self.width:g}, {self.decoder_channels} decoder channels "
                f"and {self.num_classes} classes",
                f"a width above 0 and up to x{MAX_WIDTH:g}, 1 to {MAX_CHANNELS} decoder channels, "
                f"and 1 to {MAX_CLASSES} classes",
                "check another file with alignseg inspect FILE",
            )


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How the network's input tensor is computed: ``(pixel - mean) / std``, pixels in 0..255.

    Attributes:
        channel_order: Order of the three channels, and of `mean` and `std`.
        mean: Mean to subtract, in grey levels (0..255).
        std: Standard deviation to divide by, in grey levels.
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
        """Return the same input with its channels in the other order."""
        order = ChannelOrder.RGB if self.channel_order is ChannelOrder.BGR else ChannelOrder.BGR
        (first, second, third), (one, two, three) = self.mean, self.std
        return InputSpec(channel_order=order, mean=(third, second, first), std=(three, two, one))


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """Class names and colours, by label.

    Attributes:
        dataset: Name of the dataset with these classes, e.g. ``cityscapes``.
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
                "red, green and blue from 0 to 255",
                "correct the class table: classes=FILE.json",
            )
        odd = [name for name in self.names if not _is_class_name(name)]
        if odd:  # a lone surrogate ends the process in OpenCV; escape sequences reach terminals
            raise SpecError(
                f"a class is called {odd[0][:MAX_CLASS_NAME]!r}",
                f"names of 1 to {MAX_CLASS_NAME} printable characters",
                "rename it in the class table: classes=FILE.json",
            )
        doubled = [name for name, count in Counter(self.names).items() if count > 1]
        if doubled:
            raise SpecError(
                f"several classes are called {doubled[0]!r}",
                "a different name for each class",
                "rename them in the class table: classes=FILE.json",
            )


def _is_class_name(name: str) -> bool:
    return 0 < len(name) <= MAX_CLASS_NAME and name.isprintable()


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """The choices made at export.

    Attributes:
        output: What the graph returns.
        sampler: How offset sampling is written in the graph.
        opset: ONNX opset of the graph.
        rewrites: Whether the exact rewrites were applied.
        size: Fixed input (height, width); None if any size is accepted.
        batch: Fixed batch size; None if any batch size is accepted.
        exporter: Versions of the packages that wrote the file; after a semicolon, which sampler was
            chosen without being named, and why.
        precision: Number format that the graph computes in.
        upsampling: How features are upsampled; always ``resize`` without the rewrites.
        target: Hardware that the graph was made for; None if none was named, and in files from
            before there was a choice.
        output_size: Size of the output if it is probabilities.
        label_type: Number format of labels in the output; None for the smallest unsigned one.
        layout: Order of the output's axes, where labels have a channel axis of 1; None for
            (N, C, H, W), and for labels without a channel axis.
        image: What the graph takes as an image.
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
    target: Target | None = dataclasses.field(default=None, metadata={LATER: True})
    output_size: OutputSize = dataclasses.field(default=OutputSize.IMAGE, metadata={LATER: True})
    label_type: LabelType | None = dataclasses.field(default=None, metadata={LATER: True})
    layout: Layout | None = dataclasses.field(default=None, metadata={LATER: True})
    image: ImageInput = dataclasses.field(default=ImageInput.FLOAT32, metadata={LATER: True})

    @property
    def has_cpu_integers(self) -> bool:
        """Whether it is ``int8`` in the form whose integer kernels CPUs have."""
        return self.precision is Precision.INT8 and self.target is Target.CPU

    def __post_init__(self) -> None:
        sides = self.size or (MIN_INPUT_SIDE,)
        fits = min(sides) >= MIN_INPUT_SIDE and max(sides) <= MAX_INPUT_SIDE
        batch_fits = self.batch is None or 1 <= self.batch <= MAX_BATCH
        if not fits or self.opset not in OPSETS or not batch_fits:
            raise unreadable_spec(f"size {self.size}, batch {self.batch}, opset {self.opset}")
        if not self.rewrites and self.upsampling is not Upsampling.RESIZE:
            raise unreadable_spec(
                f"upsampling {self.upsampling} needs the rewrites, but they are off"
            )


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """The checkpoint that the weights came from, and what was chosen in it.

    Attributes:
        name: Its file name.
        sha256: SHA-256 of its bytes.
        weights: Which copy was taken, ``ema`` or ``raw``; None if the file has only one.
        threshold: Probability above which a pixel is foreground; None if the network in the file
            has several classes.
    """

    name: str
    sha256: str
    weights: str | None = dataclasses.field(default=None, metadata={LATER: True})
    threshold: float | None = dataclasses.field(default=None, metadata={LATER: True})

    @property
    def choices(self) -> str:
        """What was chosen, such as ``, weights raw``; empty if there was no choice."""
        weights = f", weights {self.weights}" if self.weights else ""
        return weights + (f", threshold {self.threshold:g}" if self.threshold else "")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All facts about a model.

    `source` is None if the weights were not read from a file, `export` if the model was not
    exported.

    `classes` are those of labels. They are the network's own classes unless there is a `remap`,
    which a graph that returns labels has applied, and `Predictor` applies to all others.
    """

    network: NetworkSpec
    input: InputSpec
    classes: ClassSpec
    source: SourceSpec | None = None
    export: ExportSpec | None = None
    remap: RemapSpec | None = dataclasses.field(default=None, metadata={LATER: True})

    @property
    def label_count(self) -> int:
        """One above the largest label."""
        return self.network.num_classes if self.remap is None else self.remap.largest + 1

    @property
    def network_classes(self) -> tuple[str, ...]:
        """Names of the network's own classes, by channel."""
        return self.classes.names if self.remap is None else self.remap.names

    @property
    def remap_to_apply(self) -> RemapSpec | None:
        """The remapping that the graph leaves to this package; None if there is none."""
        is_done = self.export is not None and self.export.output is OutputKind.LABELS
        return None if is_done else self.remap

    def __post_init__(self) -> None:
        parts: dict[str, Any] = {"network": NetworkSpec, "input": InputSpec, "classes": ClassSpec}
        parts |= {"source": SourceSpec | None, "export": ExportSpec | None}
        parts |= {"remap": RemapSpec | None}
        for name, kind in parts.items():
            if not isinstance(getattr(self, name), kind):
                seen = type(getattr(self, name)).__name__
                raise unreadable_spec(f"{name} is {seen}, not {name.title()}Spec")
        if self.remap is not None:
            self._require_remap(self.remap)
            return
        counts = {self.network.num_classes, len(self.classes.names), len(self.classes.colors)}
        if len(counts) != 1:
            raise SpecError(
                f"the model has {self.network.num_classes} classes, but {len(self.classes.names)} "
                f"names and {len(self.classes.colors)} colours are given",
                "one name and one colour per class",
                "choose the class table that fits: classes=cityscapes|ade20k|voc|FILE.json",
            )

    def _require_remap(self, remap: RemapSpec) -> None:
        classes = {*remap.labels} - {remap.void}
        counts = {len(classes), len(self.classes.names), len(self.classes.colors)}
        if len(counts) != 1 or len(remap.names) != self.network.num_classes:
            raise unreadable_spec(
                f"{self.network.num_classes} classes of the network become {len(classes)}, but "
                f"{len(remap.names)} and {len(self.classes.names)} are named"
            )

    def to_json(self) -> str:
        """Return the spec as one JSON object."""
        return json.dumps({"version": SPEC_VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            SpecError: The text is not a spec, or this package does not know its version.
        """
        try:
            facts = json_facts(text)
            version = facts.pop("version")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise unreadable_spec(f"not a JSON object with a version ({error!r})") from error
        if type(version) is not int or version != SPEC_VERSION:
            raise SpecError(
                f"the model's spec has version {version!r}",
                f"version {SPEC_VERSION}, the one that this package reads",
                "export the model again: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
            )
        return dataclass_from_json(cls, facts, "spec")
