"""What a graph and the TensorRT plugins in ``plugins/`` have agreed on: names, inputs, fields.

TensorRT's parser finds a plugin by the node's operator, ``plugin_version`` and
``plugin_namespace``; it ignores the node's domain. A test compares this with the C++ sources.
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
        name: Of the ONNX operator and of the plugin.
        operator: What ``torch.ops.alignseg`` calls it.
        inputs: Their names, in order.
        dimensions: Of each input, then of the output, a letter for each size. The same letter is
            the same size; a digit is the size itself.
        types: A letter for each input; the same letter is the same type, FP32 or FP16.
        offsets: Which inputs are offset fields, (N, 2, H, W): dx, then dy.
        shapes: Which inputs are read for their shape alone.
        fields: What creating the plugin takes, beside namespace and version.
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
        """``OffsetGridSample/1``, as engines list what they need."""
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
