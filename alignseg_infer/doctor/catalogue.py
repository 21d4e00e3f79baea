"""The catalogue: small graphs of a few operators each, with references that no runtime computed.

The graphs have the forms that the exporter writes, and some that it avoids. They are stored in
``catalogue.npz``, so that running them needs no package but NumPy and the runtime;
``tests/doctor/make_catalogue.py`` makes that file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.spec.model import Precision, Sampler

CATALOGUE = Path(__file__).parent / "catalogue.npz"

ALL, HALVES = tuple(Precision), (Precision.FP16, Precision.INT8)
FP32_TOLERANCE, FP16_TOLERANCE, BF16_TOLERANCE = 1e-4, 4e-3, 3e-2
# One step of the last quantisation, 1/8 of at most 6.125: float16 sums may round to the other side.
STEP_TOLERANCE = 0.021


@dataclass(frozen=True, kw_only=True)
class Case:
    """A graph of the catalogue, without its arrays.

    Attributes:
        name: Its name.
        what: What it computes.
        tolerance: Largest error, as a share of the reference's largest value; 0 for labels.
        sampler: The sampler whose graphs have this part; None for parts of all graphs.
        precisions: The precisions whose graphs have this part; none if this package does not
            export it.
        sampling: How TensorRT should describe its grid-sample layer.
        resizing: How TensorRT should describe its resize layer.
        bf16: Whether it is also run in bfloat16, where the runtime and the CPU offer it.
    """

    name: str
    what: str
    tolerance: float = FP32_TOLERANCE
    sampler: Sampler | None = None
    precisions: tuple[Precision, ...] = ALL
    sampling: tuple[str, str, bool] | None = None
    resizing: tuple[str, str] | None = None
    bf16: bool = False


ZEROS = ("LINEAR", "FILL", False)
_LINEAR, _CORNERS = "LINEAR", "ALIGN_CORNERS"
_NATIVE, _GATHER = Sampler.NATIVE, Sampler.GATHER

CASES = (
    Case(name="grid-sample-16", what="GridSample of opset 16", sampler=_NATIVE, sampling=ZEROS),
    Case(name="grid-sample-19", what="GridSample of opset 19", sampler=_NATIVE, sampling=ZEROS),
    Case(
        name="grid-sample-batch",
        what="GridSample of three images",
        sampler=_NATIVE,
        sampling=ZEROS,
    ),
    Case(
        name="grid-sample-offsets",
        what="GridSample at offsets, of two images with their channels last",
        sampler=_NATIVE,
        sampling=ZEROS,
    ),
    Case(
        name="grid-sample-island",
        what="GridSample in float32 between float16 convolutions",
        tolerance=FP16_TOLERANCE,
        sampler=_NATIVE,
        precisions=HALVES,
        sampling=ZEROS,
    ),
    Case(name="gather", what="sampling by Gather", sampler=_GATHER),
    Case(
        name="gather-fp16",
        what="sampling float16 features by Gather, with float32 coordinates",
        tolerance=FP16_TOLERANCE,
        sampler=_GATHER,
        precisions=HALVES,
    ),
    Case(name="grid-sample-20", what="GridSample of opset 20", precisions=(), sampling=ZEROS),
    Case(name="grid-sample-22", what="GridSample of opset 22", precisions=(), sampling=ZEROS),
    Case(
        name="grid-sample-corners",
        what="GridSample with aligned corners",
        precisions=(),
        sampling=("LINEAR", "FILL", True),
    ),
    Case(
        name="grid-sample-border",
        what="GridSample that repeats the border",
        precisions=(),
        sampling=("LINEAR", "CLAMP", False),
    ),
    Case(
        name="grid-sample-border-corners",
        what="GridSample that repeats the border, with aligned corners",
        precisions=(),
        sampling=("LINEAR", "CLAMP", True),
    ),
    Case(name="resize", what="Resize with aligned corners", resizing=(_LINEAR, _CORNERS)),
    Case(
        name="labels",
        what="labels: Resize, ArgMax, Cast to uint8",
        tolerance=0.0,
        resizing=(_LINEAR, _CORNERS),
    ),
    Case(name="pool-matrices", what="pooling by matrices", bf16=True),
    Case(name="upsample-matrices", what="upsampling by matrices", bf16=True),
    Case(name="attention-batch", what="attention in two images", precisions=(), bf16=True),
    Case(name="convolutions-batch", what="convolutions of two images", bf16=True),
    Case(
        name="residual-int8",
        what="an INT8 convolution beside a shortcut",
        tolerance=STEP_TOLERANCE,
        precisions=(),
    ),
    Case(
        name="residual-int8-fp16",
        what="an INT8 convolution beside a shortcut, with float16 scales",
        tolerance=STEP_TOLERANCE,
        precisions=(Precision.INT8,),
    ),
    Case(name="matmul", what="a product of matrices", bf16=True),
)
CASE_NAMES = {case.name: case for case in CASES}


@dataclass(frozen=True)
class Graph:
    """The arrays of a case.

    Attributes:
        model: The ONNX file.
        inputs: What it is given, by name.
        reference: What it should return.
    """

    model: bytes
    inputs: dict[str, NDArray[np.float32]]
    reference: NDArray[Any]


def read_graphs(path: Path = CATALOGUE) -> dict[str, Graph]:
    """Read the arrays of all cases, by name."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    return {case.name: _graph_from(arrays, case.name) for case in CASES}


def _graph_from(arrays: Mapping[str, NDArray[Any]], name: str) -> Graph:
    start = f"{name}/in/"
    inputs = {key.removeprefix(start): arrays[key] for key in arrays if key.startswith(start)}
    return Graph(arrays[f"{name}/graph"].tobytes(), inputs, arrays[f"{name}/out"])


def error_of(result: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the largest error, as a share of the reference's largest value.

    It is infinite for another shape, and for results that are not finite.
    """
    if result.shape != reference.shape or not np.isfinite(result).all():
        return float("inf")
    exact = reference.astype(np.float64)
    return float(np.abs(result.astype(np.float64) - exact).max() / max(np.abs(exact).max(), 1e-30))
