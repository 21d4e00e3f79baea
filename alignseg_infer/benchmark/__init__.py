"""How long models take, measured so that the figures can be compared.

    report = benchmark([Variant("fp32", Predictor("alignseg.onnx"))], ["street.jpg"])
    print(report.to_markdown())

What is measured goes through `Predictor`, as it does for everybody.
"""

from alignseg_infer.benchmark.measure import Variant, benchmark, interleaved
from alignseg_infer.benchmark.report import BenchmarkReport, Measured, Ratio, Stage

__all__ = [
    "BenchmarkReport",
    "Measured",
    "Ratio",
    "Stage",
    "Variant",
    "benchmark",
    "interleaved",
]
