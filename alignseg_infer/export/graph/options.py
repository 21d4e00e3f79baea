"""Options for an exported graph. Loads no PyTorch."""

from dataclasses import dataclass, replace

from alignseg_infer.arrays import Size
from alignseg_infer.choices import convert_choices
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.errors import OptionError
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.preprocess import require_input_size
from alignseg_infer.spec.model import (
    DEFAULT_OPSET,
    MAX_BATCH,
    OPSETS,
    ImageInput,
    LabelType,
    Layout,
    ModelSpec,
    OutputKind,
    OutputSize,
    Sampler,
    Upsampling,
)

AUTO_SAMPLER = "auto"  # asks for the sampler that `doctor` chooses; no graph has it

PLAIN = ImageInput.FLOAT32
# An exported graph can be given another form, and a size and batch where it takes any.
FORM_NAMES = ("output", "output_size", "label_type", "layout", "input", "remap", "size", "batch")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        output: ``logits`` at 1/4 of the input size, ``labels`` at the input size, or
            ``probabilities``.
        sampler: How the graph samples at offsets.
        size: Fixed (height, width) of the input; None for any size.
        batch: Fixed batch size; None for any.
        opset: ONNX opset, 16 to 19. From opset 20 on, GridSample's mode has another name, which
            TensorRT up to 11.1 reads as nearest neighbour without an error
            (NVIDIA/TensorRT#4646).
        rewrites: Whether to apply `models.rewrites`.
        with_offsets: Whether the graph also returns the offset fields, named by
            `OffsetField.output_name`.
        fuse: With the sampler ``plugin``, whether upsampling, sampling and sum of an alignment
            are one node. The other samplers have nothing to fuse.
        upsampling: How the rewrites upsample; None for what suits the sampler: ``resize`` with
            ``plugin``, which runs on GPUs only, else ``matrices``.
        output_size: Size of probabilities; None for that of the image.
        label_type: Number format of labels; None for the smallest unsigned one.
        layout: Order of the output's axes, where labels have a channel axis of 1. None for
            (N, C, H, W), and for labels without a channel axis.
        input: What the graph takes as an image.
        remap: What the network's classes become, which a graph of labels does itself; None for
            nothing else.

    Raises:
        OptionError, SizeError: A value cannot be used.
    """

    output: OutputKind = OutputKind.LOGITS
    sampler: Sampler = Sampler.NATIVE
    size: Size | None = None
    batch: int | None = None
    opset: int = DEFAULT_OPSET
    rewrites: bool = True
    with_offsets: bool = False
    fuse: bool = True
    upsampling: Upsampling | None = None
    output_size: OutputSize | None = None
    label_type: LabelType | None = None
    layout: Layout | None = None
    input: ImageInput = ImageInput.FLOAT32
    remap: Remapping | None = None

    @property
    def traced_output(self) -> OutputKind:
        """What PyTorch's graph returns, around which nodes are put for other forms."""
        is_made = self.output is OutputKind.PROBABILITIES or self.remap is not None
        return OutputKind.LOGITS if is_made else self.output

    @property
    def has_form(self) -> bool:
        """Whether the graph that PyTorch makes gets nodes around it."""
        plain = self.label_type is None and self.layout is None and self.remap is None
        return self.output is not self.traced_output or self.input is not PLAIN or not plain

    def formed(self, spec: ModelSpec) -> ModelSpec:
        """Return the facts of a graph after it was given the form that these options name.

        Raises:
            OptionError: The classes cannot be remapped like this.
        """
        export = spec.export
        assert export is not None
        formed = replace(
            export,
            output=self.output,
            output_size=self.output_size or OutputSize.IMAGE,
            label_type=self.label_type,
            layout=self.layout,
            image=self.input,
            size=self.size or export.size,
            batch=self.batch or export.batch,
        )
        remapped = spec if self.remap is None else self.remap.apply(spec)
        return replace(remapped, export=formed)

    @property
    def chosen_upsampling(self) -> Upsampling:
        """`upsampling`, or the choice that replaces None."""
        if self.upsampling is not None:
            return self.upsampling
        resize = self.sampler is Sampler.PLUGIN or not self.rewrites
        return Upsampling.RESIZE if resize else Upsampling.MATRICES

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs, in their order."""
        fields = OffsetField if self.with_offsets else ()
        return [self.traced_output.value, *(field.output_name for field in fields)]

    def __post_init__(self) -> None:
        convert_choices(self)
        if self.opset not in OPSETS:
            raise OptionError(
                f"opset={self.opset!r}",
                f"{OPSETS[0]} to {OPSETS[-1]}, since GridSample exists from 16 on, and TensorRT "
                "reads it wrongly from 20 on",
                f"opset={DEFAULT_OPSET}",
            )
        if self.size is not None:
            require_input_size(self.size)
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise OptionError(f"batch={self.batch!r}", f"1 to {MAX_BATCH}", "batch=1")
        self._require_form()
        if not self.fuse and self.sampler is not Sampler.PLUGIN:
            raise OptionError(
                f"fuse=False with sampler={self.sampler.value!r}",
                "the sampler plugin, which is the only one that fuses",
                "sampler='plugin', or leave fuse= out",
            )
        if not self.rewrites and self.upsampling is Upsampling.MATRICES:
            raise OptionError(
                "upsampling='matrices' with rewrites=False",
                "resize, which the network itself uses if it is not rewritten",
                "upsampling='resize', or leave rewrites= out",
            )

    def _require_form(self) -> None:
        """Raise OptionError if an option of the form is for another output."""
        output = self.output.value
        if self.output_size is not None and self.output is not OutputKind.PROBABILITIES:
            raise OptionError(
                f"output_size={self.output_size.value!r} with output={output!r}",
                "probabilities, since logits have 1/4 of the image's size, and labels the image's",
                "output='probabilities', or leave output_size= out",
            )
        if self.label_type is not None and self.output is not OutputKind.LABELS:
            raise OptionError(
                f"label_type={self.label_type.value!r} with output={output!r}",
                "labels, since logits and probabilities are float32",
                "output='labels', or leave label_type= out",
            )
