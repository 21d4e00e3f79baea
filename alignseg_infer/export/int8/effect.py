"""How far a changed model is from its original, on images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx_ir

from alignseg_infer.datasets.class_tables import class_table
from alignseg_infer.datasets.image_sets import CalibrationImages, ImageFiles
from alignseg_infer.datasets.labelled import (
    Dataset,
    LabelledImages,
    LabelTable,
    label_table,
    read_truth,
    require_usable,
)
from alignseg_infer.errors import ModelError
from alignseg_infer.evaluation.metrics import MAX_CLASSES, ConfusionMatrix
from alignseg_infer.export.graph.plugin_nodes import expanded, runnable
from alignseg_infer.pixels.postprocess import Labels
from alignseg_infer.pixels.preprocess import Size
from alignseg_infer.predictor import Predictor

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Effect:
    """How far a changed model is from its original, over all pixels of some images.

    Attributes:
        disagreement: Percent of the pixels that get another label.
        miou_loss: Mean IoU of the original minus that of the changed model, in percent points;
            None without true labels. Below 0 where the change happens to help.
    """

    disagreement: float
    miou_loss: float | None = None

    @property
    def drop(self) -> float:
        """What a budget limits: the loss of mean IoU where it is known, else the disagreement."""
        return self.disagreement if self.miou_loss is None else self.miou_loss


class Comparison:
    """Compares changed models with their original, in ONNX Runtime on the CPU.

    `images` is what it compares on, `miou` the original's mean IoU in percent, None without true
    labels. The original runs once, at the start.

    Args:
        model: The original's file.
        images: What to run on.
        folder: An existing one for labels of the original and for the changed model, which would
            not all fit in memory.
        labelled: Images with true labels, to be taken instead of `images`.
        size: Network input size, as `Predictor` takes it.
        threads: CPU threads; None for the runtime's choice.
        progress: Called with the number of images done and their total.

    Raises:
        AlignSegError: The model, images or options cannot be used, or not together.
    """

    def __init__(
        self,
        model: Path,
        images: CalibrationImages,
        folder: Path,
        *,
        labelled: LabelledImages | None = None,
        size: str | int | Size | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._folder, self._size, self._threads = folder, size, threads
        with runnable(model) as file:
            predictor = self._predictor(file)
        self._classes = len(predictor.spec.classes.names)
        self._truths: tuple[Path, ...] = ()
        if labelled:
            self._table = _usable_table(labelled, self._classes)
            paths = tuple(pair.image for pair in labelled.pairs)
            images = ImageFiles(labelled.name, paths, tuple(map(str, paths)))
            self._truths = tuple(pair.labels for pair in labelled.pairs)
        self.images = images
        for index, labels in enumerate(self._labels(predictor, progress)):
            np.save(self._reference(index), labels)
        self.miou = self._miou(map(np.load, self._references())) if labelled else None

    def effect(self, model: onnx_ir.Model, progress: Progress | None = None) -> Effect:
        """Runs a changed model on all images.

        Args:
            model: The changed model, its metadata kept.
            progress: Called with the number of images done and their total.
        """
        path = self._folder / "changed.onnx"
        onnx_ir.save(expanded(model), path)
        pixels = other = 0
        confusion: ConfusionMatrix | None = None
        labels = self._labels(self._predictor(path), progress)
        for index, (found, reference) in enumerate(zip(labels, self._references(), strict=True)):
            other += int(np.count_nonzero(found != np.load(reference)))
            pixels += found.size
            if self._truths:
                one = self._confusion(index, found)
                confusion = one if confusion is None else confusion + one
        loss = None if confusion is None else (self.miou or 0.0) - 100 * confusion.mean_iou
        return Effect(100 * other / pixels, loss)

    def _predictor(self, model: Path) -> Predictor:
        return Predictor(model, size=self._size, threads=self._threads)

    def _labels(self, predictor: Predictor, progress: Progress | None) -> Iterator[Labels]:
        total, done = len(self.images.digests), 0
        images = iter(self.images.read())
        while batch := list(islice(images, predictor.batch)):
            for result in predictor(batch):
                yield result.labels
                done += 1
                if progress:
                    progress(done, total)

    def _reference(self, index: int) -> Path:
        return self._folder / f"{index}.npy"

    def _references(self) -> list[Path]:
        return [self._reference(index) for index in range(len(self.images.digests))]

    def _confusion(self, index: int, labels: Labels) -> ConfusionMatrix:
        truth = read_truth(self._truths[index], self._table)
        return ConfusionMatrix.of(truth, labels, self._classes)

    def _miou(self, labels: Iterable[Labels]) -> float:
        """Of all images, in percent."""
        first, *others = (self._confusion(index, found) for index, found in enumerate(labels))
        return 100 * sum(others, first).mean_iou


def _usable_table(labelled: LabelledImages, num_classes: int) -> LabelTable:
    """What the label files mean, after reading them all.

    Raises:
        ModelError: The dataset has another number of classes.
        DatasetError: Files cannot be used.
    """
    expected = num_classes
    if labelled.dataset is not Dataset.FOLDER:
        expected = len(class_table(labelled.dataset).names)
    if expected != num_classes or num_classes > MAX_CLASSES:
        raise ModelError(
            f"the model has {num_classes} classes",
            f"the {expected} of {labelled.name}, and at most {MAX_CLASSES}",
            "dataset= the one that the model was trained for",
        )
    table = label_table(labelled.dataset, num_classes)
    require_usable(labelled, table)
    return table
