"""From the PyTorch network to an ONNX graph."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx_ir
import onnx_ir.passes.common
import torch
from torch import Tensor, nn
from torch.export import Dim

from alignseg_infer.errors import INSTALL_EXPORT, ExportError, MissingDependencyError
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.graph.plugin_translation import plugin_translations
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.decoder import OffsetSampler, size_of, upsample
from alignseg_infer.models.rewrites import rewrite_for_inference, without_auxiliary_head
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.ops.plugin_ops import upsample_argmax
from alignseg_infer.spec.forms import label_dtype
from alignseg_infer.spec.model import (
    INPUT_NAME,
    MIN_INPUT_SIDE,
    OutputKind,
    Sampler,
)
from alignseg_infer.text import version_numbers

LOWEST_TRACED_OPSET = 18  # the lowest torch's exporter writes; we derive lower ones from it
LOWERED_IR_VERSION = 8  # of ONNX 1.12, which brought opset 17
TRACED_SIZE = (128, 192)
TRACED_BY = (2, 13)  # of PyTorch; 2.11 finds that sides must be multiples of 4


class _Graph(nn.Module):
    """The module to export: an image in; logits or labels out, then the offsets if wanted."""

    def __init__(self, model: AlignSeg, options: ExportOptions) -> None:
        super().__init__()
        self.model = model
        self.output = options.traced_output
        self.by_plugin = options.sampler is Sampler.PLUGIN
        self.with_offsets = options.with_offsets
        wide = label_dtype(model.spec.num_classes).__name__ == "uint16"
        self.label_dtype = torch.uint16 if wide else torch.uint8

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs, offsets = self.model.forward_with_offsets(image)
        result = outputs.logits  # (N, K, H/4, W/4)
        if self.output is OutputKind.LABELS:
            # TensorRT documents no conversion of integers to UINT8. Labels are exact in floats.
            result = self._label(result, image).float().to(self.label_dtype)  # (N, H, W)
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
        MissingDependencyError: This PyTorch is too old.
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
    try:
        return torch.export.export(
            graph, (example,), dynamic_shapes={INPUT_NAME: shape or None}, strict=False
        )
    except Exception as error:
        if version_numbers(torch.__version__) >= TRACED_BY:
            raise
        reason = str(error).partition("\n")[0]
        raise MissingDependencyError(
            f"PyTorch {torch.__version__} cannot trace the network: {reason}",
            "PyTorch 2.13 or newer; 2.11 traces a network for one size only",
            f"{INSTALL_EXPORT}; or a fixed size, such as size=(512, 1024)",
        ) from error


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
    """Give the dynamic dimensions of input, outputs and values between them readable names."""
    batch: int | str = options.batch or "N"
    size: tuple[int | str, int | str] = options.size or ("H", "W")
    _name_inner_dimensions(model, onnx_ir.Shape([batch, 3, *size]))
    model.graph.inputs[0].shape = onnx_ir.Shape([batch, 3, *size])
    result, *offsets = model.graph.outputs
    if options.traced_output is OutputKind.LABELS:
        result.shape = onnx_ir.Shape([batch, *size])
    else:
        _name_map_dimensions(result, options, num_classes, ("h", "w"))
    for field, value in zip(OffsetField, offsets, strict=False):  # `offsets` may be empty
        names = ("h32", "w32") if field is OffsetField.CAM else ("h", "w")
        _name_map_dimensions(value, options, 2, names)


def _name_inner_dimensions(model: onnx_ir.Model, image: onnx_ir.Shape) -> None:
    """Call dimensions of the image as `image` does everywhere, and leave those made of them open.

    The exporter has names and formulas of its own for them. tract refuses a graph whose values
    have other names than its input.
    """
    traced = model.graph.inputs[0].shape
    assert traced is not None
    names = dict(zip(map(str, traced), image, strict=True))
    for value in (output for node in model.graph for output in node.outputs):
        if value.shape is not None:
            value.shape = onnx_ir.Shape(
                dim if isinstance(dim, int) else names.get(str(dim)) for dim in value.shape
            )


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
                f"opset={LOWEST_TRACED_OPSET}",
            )
    model.opset_imports[""] = opset
    model.ir_version = LOWERED_IR_VERSION


def _is_same_in_opset(op_type: str, opset: int) -> bool:
    versions = {
        onnx.defs.get_schema(op_type, version).since_version
        for version in (opset, LOWEST_TRACED_OPSET)
    }
    return len(versions) == 1
