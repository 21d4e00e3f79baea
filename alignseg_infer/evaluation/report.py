"""The results of an evaluation: scores of models side by side, as JSON and as Markdown."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field

from alignseg_infer.evaluation.metrics import BoundaryMatches, ConfusionMatrix
from alignseg_infer.results.times import StageTimes
from alignseg_infer.text import markdown_table, markdown_text


@dataclass(frozen=True, eq=False)
class ModelScores:
    """The scores of one model.

    Attributes:
        name: Name of the model.
        backend: What ran it, e.g. ``onnxruntime (CPUExecutionProvider)``.
        confusion: Pixels by true and predicted class.
        boundary: Boundary pixels by class.
        times: Mean milliseconds per image, including the first images.
    """

    name: str
    backend: str
    confusion: ConfusionMatrix
    boundary: BoundaryMatches
    times: StageTimes

    @property
    def images_per_second(self) -> float:
        """Images per second according to `times`, without reading labels and scoring."""
        return 1e3 / self.times.total


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of `evaluate.evaluate`.

    Attributes:
        data: Which images were used, such as "cityscapes val".
        classes: Class names by label.
        images: How many images were counted.
        total: How many there are; more than `images` if the evaluation was interrupted.
        tolerance: Largest distance at which boundary pixels match, in pixels.
        models: The scores of each predictor, in the order given.
        agreement: Names of two models, and the share of all pixels to which both give one label.
        settings: What the caller wants to record, such as how images were tiled.
        warnings: What makes the scores doubtful, such as masks that are 0 and 255.
    """

    data: str
    classes: tuple[str, ...]
    images: int
    total: int
    tolerance: int
    models: tuple[ModelScores, ...]
    agreement: tuple[tuple[str, str, float], ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether the evaluation was interrupted."""
        return self.images < self.total

    def to_json(self) -> str:
        """Return everything as one JSON object; scores are 0..1, and null if they do not exist."""
        facts = {
            "data": self.data,
            "images": self.images,
            "total": self.total,
            "partial": self.partial,
            "boundary_tolerance": self.tolerance,
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
            "models": [self._facts_of(model) for model in self.models],
            "agreement": [
                {"models": [first, second], "pixels": share}
                for first, second, share in self.agreement
            ],
        }
        return json.dumps(facts, default=str)

    def to_markdown(self) -> str:
        """Return tables for people; scores are in percent, and "-" if they do not exist."""
        count = f"{self.images} images"
        if self.partial:
            count = f"**partial: {self.images} of {self.total} images**"
        said = {key: value for key, value in self.settings.items() if value not in (None, False)}
        settings = ", ".join(f"{key} {value}" for key, value in said.items())
        blocks = [
            f"# {markdown_text(self.data)}: {count}",
            *([f"Settings: {markdown_text(settings)}"] if settings else []),
            *(f"Warning: {markdown_text(warning)}" for warning in self.warnings),
            self._summary_table(),
            *([self._agreement_table()] if self.agreement else []),
            self._class_table(),
        ]
        return "\n\n".join(blocks) + "\n"

    def _facts_of(self, model: ModelScores) -> dict[str, object]:
        confusion, boundary = model.confusion, model.boundary
        means = _means(model)
        by_class = zip(
            self.classes,
            confusion.class_iou,
            confusion.class_accuracy,
            boundary.precision,
            boundary.recall,
            boundary.class_f1,
            strict=True,
        )
        keys = ("iou", "accuracy", "boundary_precision", "boundary_recall", "boundary_f1")
        return {
            "name": model.name,
            "backend": model.backend,
            **{key: _number_or_none(value) for key, value in means.items()},
            "images_per_second": model.images_per_second,
            "milliseconds": asdict(model.times),
            "classes": {
                name: dict(zip(keys, map(_number_or_none, scores), strict=True))
                for name, *scores in by_class
            },
            "confusion": confusion.counts.tolist(),
            "missed": confusion.missed.tolist(),
        }

    def _summary_table(self) -> str:
        stages = list(asdict(self.models[0].times))
        header = [
            *("model", "mIoU", "pixel accuracy", "mean accuracy"),
            *(f"boundary F1 ({self.tolerance} px)", "images/s"),
            *(f"{stage} ms" for stage in stages),
            "backend",
        ]
        rows = [
            [
                model.name,
                *map(_percent, _means(model).values()),
                f"{model.images_per_second:.3g}",
                *(f"{time:.1f}" for time in astuple(model.times)),
                model.backend,
            ]
            for model in self.models
        ]
        return markdown_table(header, rows)

    def _agreement_table(self) -> str:
        rows = [[first, second, _percent(share)] for first, second, share in self.agreement]
        return markdown_table(["model", "model", "pixels labelled alike"], rows)

    def _class_table(self) -> str:
        several = len(self.models) > 1
        suffixes = [f" {model.name}" if several else "" for model in self.models]
        header = ["class", *(f"IoU{suffix}" for suffix in suffixes)]
        header += [f"boundary F1{suffix}" for suffix in suffixes]
        columns = [model.confusion.class_iou for model in self.models]
        columns += [model.boundary.class_f1 for model in self.models]
        rows = [
            [name, *(_percent(column[label]) for column in columns)]
            for label, name in enumerate(self.classes)
        ]
        return markdown_table(header, rows)


def _means(model: ModelScores) -> dict[str, float]:
    return {
        "mean_iou": model.confusion.mean_iou,
        "pixel_accuracy": model.confusion.pixel_accuracy,
        "mean_accuracy": model.confusion.mean_accuracy,
        "mean_boundary_f1": model.boundary.mean_f1,
    }


def _number_or_none(score: float) -> float | None:
    return None if math.isnan(score) else float(score)


def _percent(score: float) -> str:
    return "-" if math.isnan(score) else f"{100 * score:.2f}"
