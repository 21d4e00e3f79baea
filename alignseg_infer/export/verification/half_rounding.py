"""What float16 hardware would compute, on a CPU that has none.

ONNX Runtime on the CPU runs a float16 graph in float32 from end to end: 2048 + 1 - 2048 gives 1,
where float16 has no 2049 and a GPU gives 0 (seen with ONNX Runtime 1.32). A comparison made there
would show the rounding of weights alone, and no overflow. So the graph is turned into float32, with
the result of every operator rounded to float16. That is what a GPU does which accumulates in
float32; it fuses operators and so rounds less often.
"""

import onnx_ir as ir

# Operators that move values or choose among them, and the dequantisation, which TensorRT makes
# part of the integer convolution behind it.
_EXACT = frozenset(
    {
        *("Concat", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "MaxPool"),
        *("Pad", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)


def round_like_hardware(model: ir.Model) -> None:
    """Turns a float16 graph into one of float32 that rounds where the other would; in place.

    Args:
        model: A graph made by `precision.to_half_precision`; one in float32 is left as it is.
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
        half = _cast_after(graph, node, output, ir.DataType.FLOAT16)
    rounded = _cast_after(graph, half.producer() or node, half, ir.DataType.FLOAT)
    for user, index in users:
        user.replace_input_with(index, rounded)


def _cast_after(graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    cast = ir.node("Cast", [value], {"to": int(dtype)})
    result = cast.outputs[0]
    result.name = f"{value.name}_{'rounding' if dtype == ir.DataType.FLOAT16 else 'rounded'}"
    result.dtype, result.shape = dtype, value.shape
    graph.insert_after(node, cast)
    return result
