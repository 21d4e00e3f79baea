"""Evaluating one or more models on the same labelled images.

    data = find_labelled_images(Dataset.CITYSCAPES, Path("DATA"), "val")
    print(evaluate({"fp32": Predictor("alignseg.onnx")}, data).to_markdown())

Predictions and true labels are compared at the size of the image; neither is resized.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from alignseg_infer.arrays import Image
from alignseg_infer.backports import Self
from alignseg_infer.datasets.class_tables import IGNORED, class_table
from alignseg_infer.datasets.labelled import (
    Dataset,
    LabelledImages,
    LabelTable,
    read_truth,
    require_usable,
    table_for,
)
from alignseg_infer.errors import ModelError, OptionError
from alignseg_infer.evaluation.metrics import (
    BOUNDARY_TOLERANCE,
    MAX_CLASSES,
    BoundaryMatches,
    ConfusionMatrix,
    Counts,
    Floats64,
)
from alignseg_infer.evaluation.report import Evaluation, ModelScores
from alignseg_infer.predictor import Predictor
from alignseg_infer.progress import Progress
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.results.times import StageTimes

MISSING_SHOWN = 3  # classes without a pixel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Tally:
    """Counts for some images, for all models at once, so that all have seen the same images."""

    images: int
    confusions: tuple[ConfusionMatrix, ...]
    boundaries: tuple[BoundaryMatches, ...]
    times: Floats64  # (models, stages), ms, summed over the images
    alike: Counts  # (pairs of models,), pixels with the same label
    pixels: int

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.images + other.images,
            tuple(a + b for a, b in zip(self.confusions, other.confusions, strict=True)),
            tuple(a + b for a, b in zip(self.boundaries, other.boundaries, strict=True)),
            self.times + other.times,
            self.alike + other.alike,
            self.pixels + other.pixels,
        )


def evaluate(
    predictors: Mapping[str, Predictor],
    data: LabelledImages,
    *,
    tolerance: int = BOUNDARY_TOLERANCE,
    settings: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run every predictor on every image and compare the results with the true labels.

    Ctrl-C ends the evaluation early. The images counted until then are returned, marked as partial.

    Args:
        predictors: The predictors by name.
        data: The labelled images.
        tolerance: Largest distance, in pixels, at which boundary pixels match.
        settings: Anything to keep with the result. Its values are written to JSON.
        progress: Called after each image with the number of images counted and their total.

    Raises:
        ModelError: A model does not have the classes of the data or of the other models.
        DatasetError: The data cannot be used. Every file is read at the start to find this out.
        OptionError: There are no predictors, or `tolerance` is negative.
        KeyboardInterrupt: Ctrl-C was pressed before the first image was counted.
    """
    if not predictors or tolerance < 0:
        raise OptionError(
            f"{len(predictors)} models and a tolerance of {tolerance}",
            "at least one model, and a tolerance of 0 or more pixels",
            "evaluate({'mine': Predictor('alignseg.onnx')}, data)",
        )
    classes = _require_common_classes(predictors, data.dataset)
    spec = next(iter(predictors.values())).spec
    table = table_for(data.dataset, spec)
    counts = require_usable(data, table)
    leaves_out = spec.remap is not None and spec.remap.void in spec.remap.labels
    warnings = () if leaves_out else _list_warnings(data, classes, counts)
    for warning in warnings:
        logger.warning("%s: %s", data.root, warning)
    tally: _Tally | None = None
    try:
        for truth, results in _predict(list(predictors.values()), data, table):
            one = _count(truth, results, len(classes), tolerance)
            tally = one if tally is None else tally + one
            if progress:
                progress(tally.images, len(data.pairs))
    except KeyboardInterrupt:
        if tally is None:
            raise
    assert tally is not None  # there is at least one image
    return Evaluation(
        data=data.name,
        classes=classes,
        images=tally.images,
        total=len(data.pairs),
        tolerance=tolerance,
        models=_score_models(predictors, tally),
        agreement=_compare_models(predictors, tally),
        settings=settings or {},
        warnings=warnings,
    )


def _list_warnings(data: LabelledImages, classes: Sequence[str], counts: Counts) -> tuple[str, ...]:
    """Return what in the labels of a plain folder suggests that a class was written as 255.

    The other layouts have a table of their own, in which 255 is no value of a class.

    Args:
        data: The labelled images.
        classes: Class names by label.
        counts: (256,), how many pixels have each true label.
    """
    missing = np.flatnonzero(counts[: len(classes)] == 0)
    if data.dataset is not Dataset.FOLDER or not counts[IGNORED] or not len(missing):
        return ()
    share = f"{100 * counts[IGNORED] / counts.sum():.1f} % of the pixels are 255"
    if len(classes) == 2 and counts[0]:
        return (
            f"the labels are only 0 and 255, and {share}, which is ignored: label 1 "
            f"({classes[1]}) never occurs. In a binary mask, store foreground as 1: "
            "labels[labels == 255] = 1",
        )
    names = ", ".join(f"{label} ({classes[label]})" for label in missing[:MISSING_SHOWN])
    more = f" and {len(missing) - MISSING_SHOWN} more" if len(missing) > MISSING_SHOWN else ""
    return (
        f"no pixel has the label {names}{more}, and {share}, which is ignored. If 255 means a "
        "class, store it as the label of the class",
    )


def _require_common_classes(
    predictors: Mapping[str, Predictor], dataset: Dataset
) -> tuple[str, ...]:
    """Return the class names of the data, after checking that all models have them."""
    first, *others = predictors
    for name in others:
        _require_alike(name, first, predictors)
    expected, whose = predictors[first].spec.network_classes, first
    if dataset is not Dataset.FOLDER:
        expected, whose = class_table(dataset).names, dataset.value
    for name, predictor in predictors.items():
        found = predictor.spec.network_classes
        if found != expected or len(found) > MAX_CLASSES:
            raise ModelError(
                f"{name} has {len(found)} classes ({_first_names(found)})",
                f"the {len(expected)} classes of {whose} ({_first_names(expected)}), "
                f"and at most {MAX_CLASSES}",
                "give models of one dataset, and dataset= of the same; if only the names differ, "
                "export again with the right classes",
            )
    return predictors[first].spec.classes.names


def _require_alike(name: str, first: str, predictors: Mapping[str, Predictor]) -> None:
    """Raise ModelError if one of two models remaps its classes in another way."""
    (one, classes), (other, found) = (
        (spec.remap and spec.remap.labels, spec.classes.names)
        for spec in (predictors[first].spec, predictors[name].spec)
    )
    if one != other or (one is not None and classes != found):
        raise ModelError(
            f"{name} labels {len(found)} classes ({_first_names(found)}), and {first} "
            f"{len(classes)} ({_first_names(classes)})",
            "models whose classes are remapped alike, or not at all",
            "evaluate them one at a time, or export both with the same remap=",
        )


def _first_names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _predict(
    predictors: Sequence[Predictor], data: LabelledImages, table: LabelTable
) -> Iterator[tuple[Image, tuple[Segmentation, ...]]]:
    """Yield the true labels of each image, and the result of each predictor."""
    chunk = max(predictor.batch for predictor in predictors)
    for start in range(0, len(data.pairs), chunk):
        pairs = data.pairs[start : start + chunk]
        found = [predictor([pair.image for pair in pairs]) for predictor in predictors]
        for pair, results in zip(pairs, zip(*found, strict=True), strict=True):
            yield read_truth(pair.labels, table, data.max_pixels), results


def _count(
    truth: Image, results: Sequence[Segmentation], num_classes: int, tolerance: int
) -> _Tally:
    """Count the pixels of one image."""
    # A label above those of all classes stands for none.
    labels = [np.minimum(result.labels, num_classes) for result in results]
    pairs = itertools.combinations(labels, 2)
    return _Tally(
        1,
        tuple(ConfusionMatrix.of(truth, found, num_classes) for found in labels),
        tuple(BoundaryMatches.of(truth, found, num_classes, tolerance) for found in labels),
        np.array([astuple(result.times) for result in results], np.float64),
        np.array([np.count_nonzero(one == other) for one, other in pairs], np.int64),
        truth.size,
    )


def _score_models(predictors: Mapping[str, Predictor], tally: _Tally) -> tuple[ModelScores, ...]:
    times = tally.times / tally.images
    return tuple(
        ModelScores(name, predictor.backend, confusion, boundary, StageTimes(*map(float, mean)))
        for (name, predictor), confusion, boundary, mean in zip(
            predictors.items(), tally.confusions, tally.boundaries, times, strict=True
        )
    )


def _compare_models(
    predictors: Mapping[str, Predictor], tally: _Tally
) -> tuple[tuple[str, str, float], ...]:
    names = itertools.combinations(predictors, 2)
    return tuple(
        (first, second, int(alike) / tally.pixels)
        for (first, second), alike in zip(names, tally.alike, strict=True)
    )
