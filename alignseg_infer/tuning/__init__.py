"""What is the fastest for a model on this machine, with labels like those of the model in FP32.

    report = tune(["alignseg.onnx"], "photos/", TuningOptions(seconds=60))
    report.keep()

Candidates are measured with the rounds of `alignseg_infer.benchmark`, and `Predictor` obeys what is
kept with ``runtime="tuned"``.
"""

from alignseg_infer.tuning.candidates import Candidate, Goal
from alignseg_infer.tuning.options import TuningOptions
from alignseg_infer.tuning.report import Outcome, Row, TuningReport
from alignseg_infer.tuning.search import tune

__all__ = [
    "Candidate",
    "Goal",
    "Outcome",
    "Row",
    "TuningOptions",
    "TuningReport",
    "tune",
]
