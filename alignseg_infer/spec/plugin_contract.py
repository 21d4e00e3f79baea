"""The names, inputs and fields that graphs and the TensorRT plugins in ``plugins/`` share.

TensorRT's parser finds a plugin by the node's operator, ``plugin_version`` and
``plugin_namespace``; it ignores the node's domain. A test compares this module with the C++
sources.
"""

from dataclasses import dataclass

DOMAIN = "alignseg"
DOMAIN_OPSET = 1
NAMESPACE = "alignseg"
VERSION = "1"
NAMESPACE_FIELD = "plugin_namespace"
VERSION_FIELD = "plugin_version"


@dataclass(frozen=True)
class PluginOp:
    """One operator.

    Attributes:
        name: Name of the ONNX operator and of the plugin.
        operator: Its name in ``torch.ops.alignseg``.
        inputs: Names of the inputs, in order.
        dimensions: For each input, then for the output, one letter per size. The same letter means
            the same size; a digit is the size itself.
        types: One letter per input. The same letter means the same type, FP32 or FP16.
        offsets: Positions of the inputs that are offset fields, (N, 2, H, W): dx, then dy.
        shapes: Positions of the inputs of which only the shape is used.
        fields: Fields that the plugin is created with, besides namespace and version.
        output: Name of the output.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    dimensions: tuple[str, ...]
    types: str
    offsets: tuple[int, ...]
    shapes: tuple[int, ...]
    fields: tuple[str, ...]
    output: str

    @property
    def described(self) -> str:
        """Name and version, as engines list the plugins they need: ``OffsetGridSample/1``."""
        return f"{self.name}/{VERSION}"


OFFSET_GRID_SAMPLE = PluginOp(
    "OffsetGridSample",
    "offset_grid_sample",
    ("feature", "offset"),
    ("NChw", "N2HW", "NCHW"),
    "FO",
    (1,),
    (),
    ("convention",),
    "sampled",
)
ALIGNED_ADD = PluginOp(
    "AlignedAdd",
    "aligned_add",
    ("high", "low", "high_offset", "low_offset"),
    ("NChw", "NCHW", "N2HW", "N2HW", "NCHW"),
    "FFOO",
    (2, 3),
    (),
    ("convention",),
    "aligned",
)
UPSAMPLE_ARGMAX = PluginOp(
    "UpsampleArgmax",
    "upsample_argmax",
    ("logits", "like"),
    ("NChw", "NKHW", "NHW"),
    "LK",
    (),
    (1,),
    (),
    "labels",
)
PLUGIN_OPS = {op.name: op for op in (OFFSET_GRID_SAMPLE, ALIGNED_ADD, UPSAMPLE_ARGMAX)}
