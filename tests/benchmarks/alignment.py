"""Measures what alignment gains on drawn streets, and how certain that is.

    python -m tests.benchmarks.alignment demo-training

Compares ``aligned/demo.onnx`` with ``frozen/demo.onnx``, both from ``examples/train_demo.py``, on
the streets in ``held-out``. It prints the differences of mean IoU and boundary F1, and the range of
95 % of 2000 bootstrap resamples of the streets. This does not include how much two trainings differ
from each other.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer import Predictor
from alignseg_infer.evaluation.metrics import BoundaryMatches, ConfusionMatrix

RESAMPLES = 2000


def count_streets(model: Path, folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the confusion (streets, C, C) and boundaries (streets, 4, C) of every street."""
    predictor, confusions, boundaries = Predictor(model), [], []
    for path in sorted((folder / "images").glob("*.png")):
        truth = np.asarray(cv2.imread(str(folder / "labels" / path.name), -1), np.uint8)
        labels, classes = predictor(path).labels, len(predictor.spec.classes.names)
        confusions.append(ConfusionMatrix.of(truth, labels, classes).counts)
        found = BoundaryMatches.of(truth, labels, classes)
        boundaries.append((found.predicted, found.predicted_near, found.true, found.true_near))
    return np.array(confusions), np.array(boundaries)


def main() -> int:
    """Print both differences."""
    folder = Path(sys.argv[1])
    models = [folder / name / "demo.onnx" for name in ("aligned", "frozen")]
    counts = [count_streets(model, folder / "held-out") for model in models]
    streets = len(counts[0][0])
    rng = np.random.default_rng(0)
    picks = [np.arange(streets), *rng.integers(streets, size=(RESAMPLES, streets))]
    for name, index in (("mean IoU", 0), ("boundary F1", 1)):
        differences = []
        for pick in picks:
            aligned, frozen = (
                ConfusionMatrix(
                    total := both[0][pick].sum(axis=0), np.zeros_like(total[0])
                ).mean_iou
                if index == 0
                else BoundaryMatches(*both[1][pick].sum(axis=0)).mean_f1
                for both in counts
            )
            differences.append(100 * (aligned - frozen))
        low, high = np.percentile(differences[1:], (2.5, 97.5))
        print(f"{name}: {differences[0]:+.2f} ({low:.2f} to {high:.2f}), {streets} streets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
