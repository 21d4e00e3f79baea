"""Makes a CPU round a float16 graph as a GPU would, so that `verify` can compare it there.

ONNX Runtime on the CPU runs a float16 graph in float32 from end to end: 2048 + 1 - 2048 gives 1,
while a GPU gives 0, since float16 has no 2049 (seen with ONNX Runtime 1.32). A comparison there
would show only the rounding of weights, and no overflow. Therefore `round_like_hardware` converts
the graph to float32 and rounds the result of every operator to float16. A GPU that accumulates in
float32 does the same, but it fuses operators and therefore rounds less often.
"""

import onnx_ir as ir

# Operators that move values or choose among them, and dequantisation, which TensorRT merges into
# the integer convolution that follows.
_EXACT = frozenset(
    {
        *("Concat", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "MaxPool"),
        *("Pad", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)


def round_like_hardware(model: ir.Model) -> None:
    """Convert a float16 graph to float32 and round where float16 would; in place.

    Args:
        model: A graph made by `half_precision.to_half_precision`; a float32 graph does not change.
    """
    for initializer in model.graph.initializers.values():
        if initializer.dtype == ir.DataType.FLOAT16 and initializer.const_value is not None:
            values = initializer.const_value.numpy().astype("float32")
            initializer.const_value = ir.tensor(values, name=initializer.name)
            initializer.dtype = ir.DataType.FLOAT
    for node in list(model.graph):
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT16:
                _round(model.graph, node, output)


def _round(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    users = list(output.uses())
    half = output
    if node.op_type != "Cast":
        output.dtype = ir.DataType.FLOAT
        if node.op_type in _EXACT:
            return
        half = _insert_cast(graph, node, output, ir.DataType.FLOAT16)
    rounded = _insert_cast(graph, half.producer() or node, half, ir.DataType.FLOAT)
    for user, index in users:
        user.replace_input_with(index, rounded)


def _insert_cast(graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    cast = ir.node("Cast", [value], {"to": int(dtype)})
    result = cast.outputs[0]
    result.name = f"{value.name}_{'half' if dtype == ir.DataType.FLOAT16 else 'single'}_rounding"
    result.dtype, result.shape = dtype, value.shape
    graph.insert_after(node, cast)
    return result
