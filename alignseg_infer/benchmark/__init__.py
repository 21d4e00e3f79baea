"""How long models take, measured so that the figures can be compared.

    report = benchmark([Variant("fp32", Predictor("alignseg.onnx"))], ["street.jpg"])
    print(report.to_markdown())

Models are measured through `Predictor`, which is how everybody uses them.
"""

from alignseg_infer.benchmark.measure import Variant, benchmark, interleave
from alignseg_infer.benchmark.report import BenchmarkReport, Measured, Ratio, Stage

__all__ = [
    "BenchmarkReport",
    "Measured",
    "Ratio",
    "Stage",
    "Variant",
    "benchmark",
    "interleave",
]
