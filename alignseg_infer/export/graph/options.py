"""Options for an exported graph. Loads no PyTorch."""

from dataclasses import dataclass

from alignseg_infer.arrays import Size
from alignseg_infer.choices import convert_choices
from alignseg_infer.errors import OptionError
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.preprocess import require_input_size
from alignseg_infer.spec.model import (
    DEFAULT_OPSET,
    MAX_BATCH,
    OPSETS,
    OutputKind,
    Sampler,
    Upsampling,
)

AUTO_SAMPLER = "auto"  # asks for the sampler that `doctor` chooses; no graph has it


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        output: ``logits`` at 1/4 of the input size, or ``labels`` at the input size.
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
        return [self.output.value, *(field.output_name for field in fields)]

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
