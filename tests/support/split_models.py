"""Models whose weights are in a second file."""

from pathlib import Path

import onnx


def write_with_data(path: Path, source: Path, location: str) -> str:
    """Write `source` with its largest weight at `location`; return the weight's name."""
    model = onnx.load(source)
    largest = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    content = largest.raw_data
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(content)))):
        entry = largest.external_data.add()
        entry.key, entry.value = key, value
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    (path.parent / location).write_bytes(content)
    return str(largest.name)
