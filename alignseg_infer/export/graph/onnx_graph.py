"""From the PyTorch network to an ONNX graph."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir
import onnx_ir.passes.common
import torch
from torch import Tensor, nn
from torch.export import Dim

from alignseg_infer.arrays import Size
from alignseg_infer.errors import ExportError, OptionError
from alignseg_infer.export.graph.plugin_translation import plugin_translations
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.decoder import OffsetSampler, size_of, upsample
from alignseg_infer.models.rewrites import rewrite_for_inference, without_auxiliary_head
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.ops.plugin_ops import upsample_argmax
from alignseg_infer.pixels.postprocess import label_dtype
from alignseg_infer.pixels.preprocess import require_input_size
from alignseg_infer.spec.model import (
    DEFAULT_OPSET,
    INPUT_NAME,
    MIN_INPUT_SIDE,
    OPSETS,
    OutputKind,
    Sampler,
    Upsampling,
)

LOWEST_TRACED_OPSET = 18  # the lowest torch's exporter writes; we derive lower ones from it
LOWERED_IR_VERSION = 8  # of ONNX 1.12, which brought opset 17
TRACED_SIZE = (128, 192)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        output: ``logits`` at 1/4 size, or ``labels`` at input size.
        sampler: How offset sampling is lowered.
        size: Fixed input (height, width); None for any size.
        batch: Fixed batch size; None for any.
        opset: ONNX opset, 16 to 19. From 20 on GridSample's mode has another name, which
            TensorRT up to 11.1 reads as nearest neighbour without an error
            (NVIDIA/TensorRT#4646).
        rewrites: Whether to apply `models.rewrites`.
        with_offsets: Whether the graph also returns the offset fields, named by
            `OffsetField.output_name`.
        fuse: With the sampler ``plugin``, whether upsampling, sampling and sum of an alignment
            are one node. The others have nothing to fuse.
        upsampling: How the rewrites upsample; None for what suits the sampler: ``resize`` with
            ``plugin``, which GPUs alone have, else ``matrices``.

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
        """`upsampling`, or what is chosen where that is None."""
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
        if self.opset not in OPSETS:
            raise OptionError(
                f"opset {self.opset}",
                f"{OPSETS[0]} to {OPSETS[-1]}: GridSample came with 16, and from 20 on TensorRT "
                "gets it wrong",
                f"--opset {DEFAULT_OPSET}",
            )
        if self.size is not None:
            require_input_size(self.size)
        if self.batch is not None and self.batch < 1:
            raise OptionError(f"batch {self.batch}", "1 or more", "--batch 1")
        if not self.fuse and self.sampler is not Sampler.PLUGIN:
            raise OptionError(
                f"no fusing with the sampler {self.sampler}",
                "the sampler plugin, the only one that fuses",
                "--sampler plugin, or leave --no-fuse out",
            )
        if not self.rewrites and self.upsampling is Upsampling.MATRICES:
            raise OptionError(
                "upsampling by matrices without the rewrites",
                "resize, which the network is made of without them",
                "--upsampling resize, or leave --no-rewrites out",
            )


class _Graph(nn.Module):
    """The module to export: an image in; logits or labels out, then the offsets if wanted."""

    def __init__(self, model: AlignSeg, options: ExportOptions) -> None:
        super().__init__()
        self.model = model
        self.output = options.output
        self.by_plugin = options.sampler is Sampler.PLUGIN
        self.with_offsets = options.with_offsets
        wide = label_dtype(model.spec.num_classes).__name__ == "uint16"
        self.label_dtype = torch.uint16 if wide else torch.uint8

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs, offsets = self.model.forward_with_offsets(image)
        result = outputs.logits  # (N, K, H/4, W/4)
        if self.output is OutputKind.LABELS:
            result = self._label(result, image).to(self.label_dtype)  # (N, H, W)
        return (result, *offsets.values()) if self.with_offsets else (result,)

    def _label(self, logits: Tensor, image: Tensor) -> Tensor:
        """Return the class of each pixel: (N, H, W), from (N, K, h, w) logits."""
        if not self.by_plugin:
            return upsample(logits, size_of(image)).argmax(1)
        labels: Tensor = upsample_argmax(logits, image)
        return labels


def onnx_from_model(model: AlignSeg, options: ExportOptions) -> onnx_ir.Model:
    """Return the ONNX graph of `model`: input ``image``, outputs ``options.output_names``.

    Args:
        model: The network, in evaluation mode.
        options: What the graph should contain.

    Raises:
        ExportError: The opset in `options` cannot express the graph.
    """
    prepared = _prepare(model, options)
    traced = _trace(_Graph(prepared, options).eval(), options)
    with _silence_exporter():
        program = torch.onnx.export(
            traced,
            opset_version=max(options.opset, LOWEST_TRACED_OPSET),
            input_names=[INPUT_NAME],
            output_names=options.output_names,
            custom_translation_table=plugin_translations(),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    exported = program.model
    _pad_inside_pooling(exported)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(exported)
    _name_dimensions(exported, options, model.spec.num_classes)
    if options.opset < LOWEST_TRACED_OPSET:
        _lower_opset(exported, options.opset)
    return exported


def _prepare(model: AlignSeg, options: ExportOptions) -> AlignSeg:
    """Return a copy of `model` that computes as `options` say."""
    if options.rewrites:
        prepared = rewrite_for_inference(model, options.chosen_upsampling)
    else:
        prepared = without_auxiliary_head(model)
    for module in prepared.modules():
        if isinstance(module, OffsetSampler):
            module.sampler, module.fuse = options.sampler, options.fuse
    return prepared


def _trace(graph: _Graph, options: ExportOptions) -> torch.export.ExportedProgram:
    # Trace two images: a batch of one would make the batch size a constant.
    example = torch.zeros(options.batch or 2, 3, *(options.size or TRACED_SIZE))
    shape: dict[int, Dim] = {}
    if options.batch is None:
        shape[0] = Dim("N", min=1)
    if options.size is None:
        shape |= {2: Dim("H", min=MIN_INPUT_SIDE), 3: Dim("W", min=MIN_INPUT_SIDE)}
    return torch.export.export(
        graph, (example,), dynamic_shapes={INPUT_NAME: shape or None}, strict=False
    )


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Hide the exporter's note that torchvision's operators are not registered."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _name_dimensions(model: onnx_ir.Model, options: ExportOptions, num_classes: int) -> None:
    """Give the dynamic dimensions of input and outputs readable names."""
    batch: int | str = options.batch or "N"
    size: tuple[int | str, int | str] = options.size or ("H", "W")
    model.graph.inputs[0].shape = onnx_ir.Shape([batch, 3, *size])
    result, *offsets = model.graph.outputs
    if options.output is OutputKind.LABELS:
        result.shape = onnx_ir.Shape([batch, *size])
    else:
        _name_map_dimensions(result, options, num_classes, ("h", "w"))
    for field, value in zip(OffsetField, offsets, strict=False):  # `offsets` may be empty
        names = ("h32", "w32") if field is OffsetField.CAM else ("h", "w")
        _name_map_dimensions(value, options, 2, names)


def _name_map_dimensions(
    value: onnx_ir.Value, options: ExportOptions, channels: int, names: tuple[str, str]
) -> None:
    batch: int | str = options.batch or "N"
    if options.size is None:
        value.shape = onnx_ir.Shape([batch, channels, *names])
    elif value.shape is not None:
        value.shape = onnx_ir.Shape([batch, *value.shape[1:]])


def _pad_inside_pooling(model: onnx_ir.Model) -> None:
    """Let the pooling itself pad with the one row and column that `ceil_max_pool` adds."""
    for pool in list(model.graph):
        pad = pool.inputs[0].producer() if pool.op_type == "MaxPool" and pool.inputs[0] else None
        if pad is None or pad.op_type != "Pad":
            continue
        pool.replace_input_with(0, pad.inputs[0])
        pool.attributes["pads"] = onnx_ir.AttrInt64s("pads", [1, 1, 2, 2])
        model.graph.remove(pad, safe=True)


def _lower_opset(model: onnx_ir.Model, opset: int) -> None:
    """Declare a lower opset, after removing what that opset does not have.

    Only Resize, of the operators used here, differs between opsets 18 and 16: by two attributes,
    which have their default values here.
    """
    for node in model.graph.all_nodes():
        if node.op_type == "Resize":
            node.attributes.pop("antialias", None)
            node.attributes.pop("keep_aspect_ratio_policy", None)
        elif node.domain == "" and not _is_same_in_opset(node.op_type, opset):
            raise ExportError(
                f"the graph uses {node.op_type} in a form that opset {opset} does not have",
                f"opset {LOWEST_TRACED_OPSET} or higher for this model",
                f"--opset {LOWEST_TRACED_OPSET}",
            )
    model.opset_imports[""] = opset
    model.ir_version = LOWERED_IR_VERSION


def _is_same_in_opset(op_type: str, opset: int) -> bool:
    versions = {
        onnx.defs.get_schema(op_type, version).since_version
        for version in (opset, LOWEST_TRACED_OPSET)
    }
    return len(versions) == 1
