"""Measures what float16 sampling coordinates would cost, in pixels and labels.

    python -m tests.benchmarks.precision --streets 2

The result is the reason why they stay float32. It runs the demo model on drawn streets, rounded as
float16 hardware rounds, and prints Markdown.
"""

import argparse
from collections.abc import Callable
from unittest import mock

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.export import half_precision as precision
from alignseg_infer.export.verification.half_rounding import round_like_hardware
from alignseg_infer.pixels.postprocess import scores_from_logits
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import SPEC_KEY, ModelSpec

WIDTHS = (512, 1024, 2048, 4096)  # feature widths 129, 257, 513, 1025
GRID = "grid of the finest sampling"


def half_model() -> ir.Model:
    """Convert the demo model as the export does, with coordinates in float32."""
    model = ir.load(model_path("demo"))
    precision.to_half_precision(model)
    return model


def model_with_half_coordinates() -> ir.Model:
    """Convert the demo model as a converter does that knows nothing about coordinates."""
    with mock.patch.object(precision, "find_coordinate_nodes", return_value=set()):
        return half_model()


VARIANTS: dict[str, Callable[[], ir.Model]] = {
    "float32": lambda: ir.load(model_path("demo")),
    "half": half_model,
    "half coordinates": model_with_half_coordinates,
}


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    """Make a session that rounds like hardware and returns logits and the last sampling grid."""
    round_like_hardware(model)
    samplers = [node for node in model.graph if node.op_type == "GridSample"]
    grid = samplers[-1].inputs[1]
    assert grid is not None
    identity = ir.node("Identity", [grid])
    identity.outputs[0].name, identity.outputs[0].type = GRID, grid.type
    identity.outputs[0].shape = ir.Shape([None, None, None, 2])
    model.graph.insert_after(samplers[-1], identity)
    model.graph.outputs[:] = [model.graph.outputs[0], identity.outputs[0]]
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())


def grid_error(grid: NDArray[np.float32], exact: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance along each axis, in pixels of the feature."""
    height, width = grid.shape[1:3]
    scale = np.array([width / 2, height / 2], np.float32)
    return np.asarray(np.abs(grid - exact) * scale, np.float32)


def measure(
    sessions: dict[str, onnxruntime.InferenceSession], spec: ModelSpec, seed: int, width: int
) -> dict[str, tuple[float, float, float]]:
    """Measure the mean and largest error of the grid, and the share of equal labels, by variant."""
    size = (width // 2, width)
    tensor = preprocess(Street(FIRST_HELD_OUT + seed).scene(size=size).image, size, spec.input)
    found = {name: run.run(None, {"image": tensor}) for name, run in sessions.items()}
    labels = {name: scores_from_logits(out[0][0], size).labels for name, out in found.items()}
    rows = {}
    for name, (_, grid) in found.items():
        error = grid_error(grid, found["float32"][1])
        alike = float(np.mean(labels[name] == labels["float32"]))
        rows[name] = (float(error.mean()), float(error.max()), alike)
    return rows


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streets", type=int, default=2)
    streets = parser.parse_args().streets
    spec = ModelSpec.from_json(half_model().metadata_props[SPEC_KEY])
    sessions = {name: session(make()) for name, make in VARIANTS.items()}
    header = ["feature width"]
    for kind in ("half coordinates", "FP32 coordinates"):
        header += [f"{kind}: mean error, px", "largest", "labels alike"]
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for width in WIDTHS:
        rows = [measure(sessions, spec, seed, width) for seed in range(streets)]
        cells = [np.array([row[name] for row in rows]) for name in ("half coordinates", "half")]
        text = [
            f"{c[:, 0].mean():.4f} | {c[:, 1].max():.3f} | {100 * c[:, 2].mean():.3f} %"
            for c in cells
        ]
        print(f"| {width // 4 + 1} | {' | '.join(text)} |", flush=True)


if __name__ == "__main__":
    main()
