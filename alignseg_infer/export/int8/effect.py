"""Measures how far INT8 moves a model's labels from the original's, to rank and choose blocks.

Unlike `verification`, it passes no judgement, and it keeps the original's labels, so that many
changed graphs can be compared with them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir

from alignseg_infer.arrays import Labels, Size
from alignseg_infer.datasets.class_tables import class_table
from alignseg_infer.datasets.copies import FilePath
from alignseg_infer.datasets.image_sets import CalibrationImages, ImageFiles
from alignseg_infer.datasets.labelled import (
    Dataset,
    LabelledImages,
    LabelTable,
    read_truth,
    require_usable,
    table_for,
)
from alignseg_infer.errors import ModelError
from alignseg_infer.evaluation.metrics import MAX_CLASSES, ConfusionMatrix
from alignseg_infer.export.graph.onnx_file import save_onnx
from alignseg_infer.export.graph.plugin_nodes import expand_plugin_nodes, runnable_onnx
from alignseg_infer.predictor import Predictor
from alignseg_infer.progress import Progress
from alignseg_infer.spec.model import ModelSpec


@dataclass(frozen=True)
class Effect:
    """How far a changed model is from its original, over all pixels of some images.

    Attributes:
        disagreement: Percentage of pixels that get a different label.
        miou_loss: Mean IoU of the original minus that of the changed model, in percentage points;
            None without true labels. It is negative if the change happens to help.
    """

    disagreement: float
    miou_loss: float | None = None

    @property
    def drop(self) -> float:
        """What a budget limits: the loss of mean IoU if it is known, else the disagreement."""
        return self.disagreement if self.miou_loss is None else self.miou_loss


class EffectMeter:
    """Compares changed models with their original, in ONNX Runtime on the CPU.

    The attribute `images` holds the images it compares on, and `miou` the original's mean IoU in
    percent (None without true labels). The original runs once, at the start.

    Args:
        model: The original's file.
        images: The images to run on.
        folder: An existing folder for the original's labels and for the changed model, since they
            would not all fit in memory.
        labelled: Images with true labels, used instead of `images`.
        size: Network input size, as `Predictor` takes it.
        threads: CPU threads; None for the runtime's choice.
        progress: Called with the number of images done and their total.

    Raises:
        AlignSegError: The model, images or options cannot be used, or do not fit together.
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
        with runnable_onnx(model) as file:
            predictor = self._open_predictor(file)
        self._classes = len(predictor.spec.classes.names)
        self._truths: tuple[FilePath, ...] = ()
        if labelled:
            self._table = _read_label_table(labelled, predictor.spec)
            self._max_pixels = labelled.max_pixels
            paths = tuple(pair.image for pair in labelled.pairs)
            images = ImageFiles(labelled.name, paths, tuple(map(str, paths)), labelled.max_pixels)
            self._truths = tuple(pair.labels for pair in labelled.pairs)
        self.images = images
        for index, labels in enumerate(self._label(predictor, progress)):
            np.save(self._reference_path(index), labels)
        self.miou = self._measure_miou(map(np.load, self._list_references())) if labelled else None

    def measure(self, model: onnx_ir.Model, progress: Progress | None = None) -> Effect:
        """Run a changed model on all images and compare its labels with the original's.

        Args:
            model: The changed model, with its metadata.
            progress: Called with the number of images done and their total.
        """
        path = self._folder / "changed.onnx"
        save_onnx(expand_plugin_nodes(model), path)
        pixels = other = 0
        confusion: ConfusionMatrix | None = None
        labels = self._label(self._open_predictor(path), progress)
        for index, (found, reference) in enumerate(
            zip(labels, self._list_references(), strict=True)
        ):
            other += int(np.count_nonzero(found != np.load(reference)))
            pixels += found.size
            if self._truths:
                one = self._count_confusion(index, found)
                confusion = one if confusion is None else confusion + one
        loss = None if confusion is None else (self.miou or 0.0) - 100 * confusion.mean_iou
        return Effect(100 * other / pixels, loss)

    def _open_predictor(self, model: Path) -> Predictor:
        return Predictor(model, size=self._size, threads=self._threads)

    def _label(self, predictor: Predictor, progress: Progress | None) -> Iterator[Labels]:
        total, done = len(self.images.digests), 0
        images = iter(self.images.read())
        while batch := list(islice(images, predictor.batch)):
            for result in predictor(batch):
                yield result.labels
                done += 1
                if progress:
                    progress(done, total)

    def _reference_path(self, index: int) -> Path:
        return self._folder / f"{index}.npy"

    def _list_references(self) -> list[Path]:
        return [self._reference_path(index) for index in range(len(self.images.digests))]

    def _count_confusion(self, index: int, labels: Labels) -> ConfusionMatrix:
        truth = read_truth(self._truths[index], self._table, self._max_pixels)
        # A label above those of all classes stands for none.
        return ConfusionMatrix.of(truth, np.minimum(labels, self._classes), self._classes)

    def _measure_miou(self, labels: Iterable[Labels]) -> float:
        """Return the mean IoU over all images, in percent."""
        first, *others = (self._count_confusion(index, found) for index, found in enumerate(labels))
        return 100 * sum(others, first).mean_iou


def _read_label_table(labelled: LabelledImages, spec: ModelSpec) -> LabelTable:
    """Return what the label files mean, after reading and checking them all.

    Raises:
        ModelError: The dataset and the model have different numbers of classes.
        DatasetError: Files cannot be used.
    """
    expected = num_classes = len(spec.network_classes)
    if labelled.dataset is not Dataset.FOLDER:
        expected = len(class_table(labelled.dataset).names)
    if expected != num_classes or num_classes > MAX_CLASSES:
        raise ModelError(
            f"the model has {num_classes} classes",
            f"the {expected} of {labelled.name}, and at most {MAX_CLASSES}",
            "dataset= the one that the model was trained for",
        )
    table = table_for(labelled.dataset, spec)
    require_usable(labelled, table)
    return table
