"""Makes the catalogue of small graphs, ``alignseg_infer/doctor/catalogue.npz``.

    python -m tests.doctor.make_catalogue

Graphs are made with `onnx.helper`, node by node, in the forms that the exporter writes. References
are computed here in float64 by NumPy, from the definitions, and by no runtime. All inputs are small
multiples of 1/16, which float16 and bfloat16 hold exactly. `tests/doctor/test_catalogue.py` makes
the file again and compares; it also compares the references with PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alignseg_infer.doctor.catalogue import CATALOGUE

Floats = NDArray[Any]  # of float64, or of float32 that becomes float64

IR_VERSIONS = {16: 8, 18: 8, 19: 9, 20: 9, 22: 10}
HALF, FLOAT, UINT8, INT64 = (
    TensorProto.FLOAT16,
    TensorProto.FLOAT,
    TensorProto.UINT8,
    TensorProto.INT64,
)


@dataclass(frozen=True)
class Made:
    """A graph with its inputs and its reference."""

    graph: bytes
    inputs: dict[str, NDArray[np.float32]]
    reference: NDArray[Any]


class Nodes:
    """A list of nodes under construction; each method returns the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, kind: type[np.generic] = np.float32) -> str:
        """Add a constant."""
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value, kind)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, value: str, to: int) -> str:
        """Add a Cast."""
        return self.add("Cast", value, to=to)

    def side(self, value: str, axis: int, like: int = INT64) -> str:
        """Return the length of a tensor along an axis, as a number."""
        shape = self.add("Shape", value)
        length = self.add("Gather", shape, self.constant(axis, np.int64), axis=0)
        return length if like == INT64 else self.cast(length, like)

    def count_up(self, length: str) -> str:
        """Return 0 to `length` - 1."""
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        return self.add("Range", zero, length, one)

    def column(self, value: str) -> str:
        """Return a vector as a column."""
        return self.add("Unsqueeze", value, self.constant([1], np.int64))


def finish(
    nodes: Nodes,
    output: str,
    inputs: dict[str, NDArray[np.float32]],
    reference: Floats | NDArray[Any],
    *,
    opset: int = 18,
) -> Made:
    """Return the graph of `nodes`, of any size, as the files that this package exports are."""
    kinds = {np.dtype(np.uint8): UINT8, np.dtype(np.float64): FLOAT}
    kind = kinds[reference.dtype]
    last = nodes.nodes[-1]
    assert last.output[0] == output
    last.output[0] = "out"
    values = [
        helper.make_tensor_value_info(name, FLOAT, [f"{name}_{axis}" for axis in range(array.ndim)])
        for name, array in inputs.items()
    ]
    graph = helper.make_graph(
        nodes.nodes,
        "case",
        values,
        [helper.make_tensor_value_info("out", kind, [f"out_{a}" for a in range(reference.ndim)])],
        nodes.constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSIONS[opset]
    )
    onnx.checker.check_model(model)
    stored = reference if reference.dtype == np.uint8 else reference.astype(np.float32)
    return Made(model.SerializeToString(deterministic=True), inputs, stored)


def numbers(*shape: int, seed: int, largest: float = 2.0) -> NDArray[np.float32]:
    """Return multiples of 1/16 from -`largest` to `largest`, the same on every machine."""
    count = int(np.prod(shape))
    state, drawn = seed * 2 + 1, []
    for _ in range(count):
        state = (state * 1103515245 + 12345) % (1 << 31)
        drawn.append(state >> 12)
    steps = int(largest * 16)
    values = np.array(drawn) % (2 * steps + 1) - steps
    return (values / 16).astype(np.float32).reshape(shape)


# The definitions, in NumPy.


def sample(feature: Floats, x: Floats, y: Floats, *, border: bool = False) -> Floats:
    """Interpolate (N, C, h, w) at pixel positions (N, H, W), of which some lie outside."""
    height, width = feature.shape[2:]
    if border:
        x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    result = np.zeros((*feature.shape[:2], *x.shape[1:]))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for n in range(len(feature)):
        for row in (top[n], top[n] + 1):
            for column in (left[n], left[n] + 1):
                weight = (1 - abs(x[n] - column)) * (1 - abs(y[n] - row))
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                values = feature[n][:, row.clip(0, height - 1), column.clip(0, width - 1)]
                result[n] += values * np.where(inside, weight, 0.0)
    return result


def grid_sample(
    feature: Floats, grid: Floats, *, corners: bool = False, border: bool = False
) -> Floats:
    """ONNX's GridSample, bilinear."""
    height, width = feature.shape[2:]
    x, y = np.asarray(grid, np.float64)[..., 0], np.asarray(grid, np.float64)[..., 1]
    if corners:
        x, y = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
    else:
        x, y = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
    return sample(np.asarray(feature, np.float64), x, y, border=border)


def pooling(size: int, bins: int) -> Floats:
    """Return the matrix of adaptive averaging."""
    matrix = np.zeros((bins, size))
    for index in range(bins):
        start, stop = index * size // bins, -(-(index + 1) * size // bins)
        matrix[index, start:stop] = 1 / (stop - start)
    return matrix


def interpolation(size: int, output: int) -> Floats:
    """Return the matrix of linear interpolation with aligned corners."""
    matrix = np.zeros((output, size))
    for index in range(output):
        position = index * (size - 1) / max(output - 1, 1)
        below = min(int(position), size - 2)
        matrix[index, below : below + 2] = 1 - (position - below), position - below
    return matrix


def upsample(feature: Floats, height: int, width: int) -> Floats:
    """Return a feature, linearly interpolated with aligned corners."""
    rows, columns = interpolation(feature.shape[2], height), interpolation(feature.shape[3], width)
    result: Floats = rows @ np.asarray(feature, np.float64) @ columns.T
    return result


def convolve(feature: Floats, weight: Floats) -> Floats:
    """Return a convolution with zeros around."""
    height, width = feature.shape[2:]
    edge = weight.shape[2] // 2
    padded = np.pad(np.asarray(feature, np.float64), ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    result = np.zeros((len(feature), len(weight), height, width))
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            window = padded[:, :, row : row + height, column : column + width]
            result += np.einsum("nchw,oc->nohw", window, weight[:, :, row, column])
    return result


def quantised(values: Floats, scale: float) -> Floats:
    """Return values, rounded to int8 steps of `scale`; half to even, as ONNX rounds."""
    return np.rint(np.asarray(values, np.float64) / scale).clip(-128, 127) * scale


def half(values: Floats) -> Floats:
    """Return values, rounded to float16."""
    return np.asarray(values).astype(np.float16).astype(np.float64)


# The graphs.

FEATURE = numbers(1, 3, 5, 7, seed=1)
GRID = numbers(1, 4, 6, 2, seed=2, largest=1.25)


def plain_grid_sample(
    opset: int, mode: str, *, corners: bool = False, border: bool = False, batch: int = 1
) -> Made:
    """GridSample of one input at another one's positions."""
    feature = FEATURE if batch == 1 else numbers(batch, 3, 5, 7, seed=3)
    grid = GRID if batch == 1 else numbers(batch, 4, 6, 2, seed=4, largest=1.25)
    nodes = Nodes()
    attributes = {
        "mode": mode,
        "padding_mode": "border" if border else "zeros",
        "align_corners": int(corners),
    }
    out = nodes.add("GridSample", "feature", "grid", **attributes)
    reference = grid_sample(feature, grid, corners=corners, border=border)
    return finish(nodes, out, {"feature": feature, "grid": grid}, reference, opset=opset)


def positions(nodes: Nodes, offset: str, feature: str, *, normalised: bool) -> tuple[str, str]:
    """Return the positions x and y, (N, H, W), that offsets point to: ``x*w/(W-1) + dx/2 - 1/2``.

    That is the convention ``release-2021-12``, which `alignseg_infer.ops.sampling` explains.
    """
    found = []
    for channel, axis in ((0, 3), (1, 2)):
        picked = nodes.add("Gather", offset, nodes.constant(channel, np.int64), axis=1)
        length = nodes.side(offset, axis)
        last = nodes.add("Sub", nodes.cast(length, FLOAT), nodes.constant(1))
        size = nodes.side(feature, axis, FLOAT)
        index = nodes.cast(nodes.count_up(length), FLOAT)
        moved = nodes.add("Mul", index, nodes.add("Div", size, last))
        moved = nodes.add("Sub", moved, nodes.constant(0.5))
        moved = moved if axis == 3 else nodes.column(moved)
        source = nodes.add("Add", nodes.add("Mul", picked, nodes.constant(0.5)), moved)
        if normalised:  # pixel p of n is (2p + 1)/n - 1
            doubled = nodes.add("Mul", source, nodes.constant(2))
            doubled = nodes.add("Add", doubled, nodes.constant(1))
            source = nodes.add("Sub", nodes.add("Div", doubled, size), nodes.constant(1))
        found.append(source)
    return found[0], found[1]


def at_offsets(feature: Floats, offset: Floats) -> Floats:
    """Return what `positions` point to, interpolated."""
    rows, columns = offset.shape[2:]
    height, width = feature.shape[2:]
    x = np.arange(columns) * width / (columns - 1) + np.asarray(offset[:, 0], float) / 2 - 0.5
    y = np.arange(rows)[:, None] * height / (rows - 1) + np.asarray(offset[:, 1], float) / 2 - 0.5
    return sample(np.asarray(feature, np.float64), x, y)


def offset_inputs(batch: int) -> dict[str, NDArray[np.float32]]:
    """Return a feature of 5 x 7 and offsets of 6 x 9, which move by up to two pixels."""
    return {
        "feature": numbers(batch, 4, 5, 7, seed=5),
        "offset": numbers(batch, 2, 6, 9, seed=6, largest=4),
    }


def offset_grid_sample() -> Made:
    """Offsets become a grid in the graph, and the feature arrives with its channels last."""
    inputs = offset_inputs(2)
    nodes = Nodes()
    feature = nodes.add("Transpose", "feature", perm=[0, 3, 1, 2])
    x, y = positions(nodes, "offset", feature, normalised=True)
    last = nodes.constant([-1], np.int64)
    parts = [nodes.add("Unsqueeze", part, last) for part in (x, y)]
    grid = nodes.add("Concat", *parts, axis=-1)
    out = nodes.add("GridSample", feature, grid, mode="bilinear", align_corners=0)
    reference = at_offsets(inputs["feature"], inputs["offset"])
    given = {**inputs, "feature": np.ascontiguousarray(inputs["feature"].transpose(0, 2, 3, 1))}
    return finish(nodes, out, given, reference)


def half_island() -> Made:
    """Convolutions in float16, between them sampling in float32."""
    inputs = {"feature": numbers(1, 4, 5, 7, seed=7), "grid": GRID}
    before, after = numbers(4, 4, 1, 1, seed=8, largest=0.5), numbers(3, 4, 1, 1, seed=9, largest=1)
    nodes = Nodes()
    value = nodes.cast("feature", HALF)
    value = nodes.cast(nodes.add("Conv", value, nodes.constant(before, np.float16)), FLOAT)
    value = nodes.add("GridSample", value, "grid", mode="bilinear", align_corners=0)
    value = nodes.add("Conv", nodes.cast(value, HALF), nodes.constant(after, np.float16))
    out = nodes.cast(value, FLOAT)
    middle = grid_sample(half(convolve(inputs["feature"], before)), inputs["grid"])
    return finish(nodes, out, inputs, convolve(half(middle), after))


def gather(kind: int) -> Made:
    """Sampling by index arithmetic: coordinates in float32, features of another type."""
    inputs = offset_inputs(2)
    nodes = Nodes()
    value = "feature" if kind == FLOAT else nodes.cast("feature", kind)
    x, y = positions(nodes, "offset", value, normalised=False)
    channels = nodes.side(value, 1)
    height, width = nodes.side(value, 2), nodes.side(value, 3)
    minus, flat = nodes.constant([-1], np.int64), nodes.constant([0], np.int64)
    rows = nodes.add("Transpose", value, perm=[0, 2, 3, 1])
    wanted = nodes.add("Concat", minus, nodes.add("Unsqueeze", channels, flat), axis=0)
    table = nodes.add("Reshape", rows, wanted)
    area = nodes.add("Mul", height, width)
    first = nodes.add("Mul", nodes.count_up(nodes.side(value, 0)), area)
    first = nodes.add("Unsqueeze", first, nodes.constant([1, 2], np.int64))
    total = None
    for row, row_weight in neighbours(nodes, y, height):
        for column, column_weight in neighbours(nodes, x, width):
            index = nodes.add("Add", nodes.add("Mul", row, width), column)
            weight = nodes.add("Mul", row_weight, column_weight)
            weight = nodes.add("Unsqueeze", weight, minus)
            weight = weight if kind == FLOAT else nodes.cast(weight, kind)
            corner = nodes.add("Gather", table, nodes.add("Add", index, first), axis=0)
            corner = nodes.add("Mul", corner, weight)
            total = corner if total is None else nodes.add("Add", total, corner)
    assert total is not None
    out = nodes.add("Transpose", total, perm=[0, 3, 1, 2])
    out = out if kind == FLOAT else nodes.cast(out, FLOAT)
    return finish(nodes, out, inputs, at_offsets(inputs["feature"], inputs["offset"]))


def neighbours(nodes: Nodes, source: str, size: str) -> list[tuple[str, str]]:
    """Return the two pixels beside each position with their weights; weight 0 outside."""
    length = nodes.cast(size, FLOAT)
    source = nodes.add("Min", nodes.add("Max", source, nodes.constant(-1)), length)
    below = nodes.add("Floor", source)
    above = nodes.add("Add", below, nodes.constant(1))
    zero = nodes.constant(0)
    found = []
    for pixel, weight in (
        (below, nodes.add("Sub", above, source)),
        (above, nodes.add("Sub", source, below)),
    ):
        inside = nodes.add(
            "And",
            nodes.add("GreaterOrEqual", pixel, zero),
            nodes.add("Less", pixel, length),
        )
        index = nodes.cast(nodes.add("Where", inside, pixel, zero), INT64)
        found.append((index, nodes.add("Where", inside, weight, zero)))
    return found


def resize() -> Made:
    """Resize with aligned corners, of two images."""
    feature = numbers(2, 3, 4, 5, seed=10)
    nodes = Nodes()
    out = resized(nodes, "feature", (2, 3, 9, 13))
    return finish(nodes, out, {"feature": feature}, upsample(feature, 9, 13))


def resized(nodes: Nodes, value: str, shape: tuple[int, ...]) -> str:
    """Add a Resize."""
    return nodes.add(
        "Resize",
        *(value, "", "", nodes.constant(shape, np.int64)),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )


def labels() -> Made:
    """Labels as exported graphs return them: Resize, ArgMax, Cast to uint8."""
    logits = numbers(2, 5, 4, 5, seed=17, largest=8)
    nodes = Nodes()
    big = resized(nodes, "logits", (2, 5, 13, 17))
    best = nodes.add("ArgMax", big, axis=1, keepdims=0)
    out = nodes.cast(nodes.cast(best, FLOAT), UINT8)
    exact = upsample(logits, 13, 17)
    ordered = np.sort(exact, axis=1)
    assert (ordered[:, -1] - ordered[:, -2]).min() > 5e-3  # so that rounding changes no label
    return finish(nodes, out, {"logits": logits}, exact.argmax(1).astype(np.uint8))


def pool_by_matrices() -> Made:
    """Adaptive averages of 3 x 3 bins, with matrices that the graph makes from its own size."""
    feature = numbers(2, 3, 7, 10, seed=12)
    nodes = Nodes()
    matrices = [pooling_nodes(nodes, nodes.side("feature", axis), 3) for axis in (2, 3)]
    columns = nodes.add("Transpose", matrices[1], perm=[1, 0])
    out = nodes.add("MatMul", nodes.add("MatMul", matrices[0], "feature"), columns)
    reference = pooling(7, 3) @ feature.astype(np.float64) @ pooling(10, 3).T
    return finish(nodes, out, {"feature": feature}, reference)


def pooling_nodes(nodes: Nodes, size: str, bins: int) -> str:
    """Return the matrix that `alignseg_infer.ops.resampling.pooling_matrix` makes."""
    one, many = nodes.constant(1, np.int64), nodes.constant(bins, np.int64)
    index = nodes.column(nodes.count_up(many))
    value = nodes.count_up(size)
    end = nodes.add("Mul", nodes.add("Add", value, one), many)
    after = nodes.add("Greater", end, nodes.add("Mul", index, size))
    stop = nodes.add("Mul", nodes.add("Add", index, one), size)
    before = nodes.add("Less", nodes.add("Mul", value, many), stop)
    inside = nodes.cast(nodes.add("And", after, before), FLOAT)
    axis = nodes.constant([1], np.int64)
    return nodes.add("Div", inside, nodes.add("ReduceSum", inside, axis, keepdims=1))


def upsample_by_matrices() -> Made:
    """Upsampling to the size of another input, with matrices that the graph makes."""
    inputs = {"feature": numbers(2, 3, 4, 5, seed=13), "like": numbers(1, 1, 7, 9, seed=14)}
    nodes = Nodes()
    matrices = []
    for axis in (2, 3):
        size, output = nodes.side("feature", axis, FLOAT), nodes.side("like", axis, FLOAT)
        one = nodes.constant(1)
        step = nodes.add("Div", nodes.add("Sub", size, one), nodes.add("Sub", output, one))
        index = nodes.cast(nodes.count_up(nodes.side("like", axis)), FLOAT)
        position = nodes.column(nodes.add("Mul", index, step))
        value = nodes.cast(nodes.count_up(nodes.side("feature", axis)), FLOAT)
        distance = nodes.add("Abs", nodes.add("Sub", position, value))
        matrices.append(nodes.add("Max", nodes.add("Sub", one, distance), nodes.constant(0)))
    columns = nodes.add("Transpose", matrices[1], perm=[1, 0])
    out = nodes.add("MatMul", matrices[0], nodes.add("MatMul", "feature", columns))
    return finish(nodes, out, inputs, upsample(inputs["feature"], 7, 9))


def attention() -> Made:
    """Two images whose pixels attend to each other, as in the block that #4853 reduces."""
    feature = numbers(2, 8, 4, 6, seed=15)
    first = numbers(8, 8, seed=16, largest=0.25)
    nodes = Nodes()
    shape = nodes.constant([0, 8, -1], np.int64)
    flat = nodes.add("Reshape", "feature", shape)
    tokens = nodes.add("Transpose", flat, perm=[0, 2, 1])
    query = nodes.add("MatMul", tokens, nodes.constant(first))
    scores = nodes.add("Softmax", nodes.add("MatMul", query, flat), axis=-1)
    out = nodes.add("Add", nodes.add("MatMul", scores, tokens), tokens)
    exact = feature.astype(np.float64).reshape(2, 8, -1)
    rows = exact.transpose(0, 2, 1)
    powers = np.exp(rows @ first.astype(np.float64) @ exact)
    weights = powers / powers.sum(-1, keepdims=True)
    return finish(nodes, out, {"feature": feature}, weights @ rows + rows)


def convolutions() -> Made:
    """Two convolutions with a ReLU between them, of two images."""
    feature = numbers(2, 3, 6, 9, seed=17)
    first, second = numbers(4, 3, 3, 3, seed=18, largest=0.5), numbers(2, 4, 3, 3, seed=19)
    nodes = Nodes()
    value = nodes.add("Conv", "feature", nodes.constant(first), pads=[1, 1, 1, 1])
    value = nodes.add("Relu", value)
    out = nodes.add("Conv", value, nodes.constant(second), pads=[1, 1, 1, 1])
    reference = convolve(convolve(feature, first).clip(0), second)
    return finish(nodes, out, {"feature": feature}, reference)


def residual(kind: int) -> Made:
    """An INT8 convolution beside a shortcut, both between Q/DQ, with scales of the type `kind`."""
    number = np.float32 if kind == FLOAT else np.float16
    feature = numbers(2, 4, 5, 6, seed=20)
    weight = numbers(4, 4, 3, 3, seed=21, largest=0.5)
    step, steps = 1 / 32, np.array([1 / 128, 1 / 256, 1 / 128, 1 / 256])
    wide = 1 / 8
    nodes = Nodes()
    value = "feature" if kind == FLOAT else nodes.cast("feature", kind)
    value = through_int8(nodes, value, step, number)
    whole = np.rint(weight / steps[:, None, None, None]).clip(-127, 127)
    kernel = nodes.add(
        "DequantizeLinear",
        *(nodes.constant(whole, np.int8), nodes.constant(steps, number)),
        nodes.constant(np.zeros(4), np.int8),
        axis=0,
    )
    moved = nodes.add("Conv", value, kernel, pads=[1, 1, 1, 1])
    added = nodes.add("Add", moved, value)
    out = nodes.add("Relu", through_int8(nodes, added, wide, number))
    out = out if kind == FLOAT else nodes.cast(out, FLOAT)
    given = quantised(feature, step)
    rounded = whole * steps[:, None, None, None]
    return finish(
        nodes,
        out,
        {"feature": feature},
        quantised(convolve(given, rounded) + given, wide).clip(0),
        opset=19,
    )


def through_int8(nodes: Nodes, value: str, step: float, number: type[np.generic]) -> str:
    """Add QuantizeLinear and DequantizeLinear."""
    zero, scale = nodes.constant(0, np.int8), nodes.constant(step, number)
    stored = nodes.add("QuantizeLinear", value, scale, zero)
    return nodes.add("DequantizeLinear", stored, scale, zero)


def matmul() -> Made:
    """A product of two matrices that are large enough for a blocked kernel."""
    inputs = {"a": numbers(64, 192, seed=22, largest=1), "b": numbers(192, 48, seed=23, largest=1)}
    nodes = Nodes()
    out = nodes.add("MatMul", "a", "b")
    return finish(nodes, out, inputs, inputs["a"].astype(np.float64) @ inputs["b"])


def make_all() -> dict[str, Made]:
    """Make every graph of the catalogue, by name."""
    return {
        "grid-sample-16": plain_grid_sample(16, "bilinear"),
        "grid-sample-19": plain_grid_sample(19, "bilinear"),
        "grid-sample-batch": plain_grid_sample(18, "bilinear", batch=3),
        "grid-sample-offsets": offset_grid_sample(),
        "grid-sample-island": half_island(),
        "gather": gather(FLOAT),
        "gather-fp16": gather(HALF),
        "grid-sample-20": plain_grid_sample(20, "linear"),
        "grid-sample-22": plain_grid_sample(22, "linear"),
        "grid-sample-corners": plain_grid_sample(18, "bilinear", corners=True),
        "grid-sample-border": plain_grid_sample(18, "bilinear", border=True),
        "grid-sample-border-corners": plain_grid_sample(18, "bilinear", corners=True, border=True),
        "resize": resize(),
        "labels": labels(),
        "pool-matrices": pool_by_matrices(),
        "upsample-matrices": upsample_by_matrices(),
        "attention-batch": attention(),
        "convolutions-batch": convolutions(),
        "residual-int8": residual(FLOAT),
        "residual-int8-fp16": residual(HALF),
        "matmul": matmul(),
    }


def arrays_of(made: dict[str, Made]) -> dict[str, NDArray[Any]]:
    """Return the arrays that the file holds, by their names in it."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, one in made.items():
        arrays[f"{name}/graph"] = np.frombuffer(one.graph, np.uint8)
        arrays |= {f"{name}/in/{key}": value for key, value in one.inputs.items()}
        arrays[f"{name}/out"] = one.reference
    return arrays


def main(paths: Sequence[Any] = (CATALOGUE,)) -> None:
    """Write the file."""
    for path in paths:
        np.savez_compressed(path, **arrays_of(make_all()))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
