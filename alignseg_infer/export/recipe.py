"""The recipe: how a model becomes a graph in some precision. Loads neither PyTorch nor ONNX."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignseg_infer.arrays import Image
from alignseg_infer.choices import choose, convert_choices
from alignseg_infer.datasets.class_tables import class_table_named
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.errors import DatasetError
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.int8.options import (
    Int8Options,
    int8_options_for,
    needs_calibration,
    needs_int8,
)
from alignseg_infer.export.verification.options import DEFAULT_IMAGES
from alignseg_infer.files import user_path
from alignseg_infer.models.checkpoint_options import CheckpointOptions
from alignseg_infer.spec.model import Precision


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model becomes a graph in some precision.

    Attributes:
        precision: Precision of the graph; None for that of the model, which is fp32 for a
            checkpoint.
        graph: The form of a checkpoint's graph; None for the default form.
        checkpoint: Facts that the checkpoint does not contain; None if the user gives none.
        int8: How the model is quantised. The precision int8 requires it, and no other takes it.
        verification: Images to compare labels on: a folder, a list or a video. None for the
            calibration images, or for drawn streets if there are none.
        max_verification_images: Maximum number of images to compare labels on, spread evenly.

    Raises:
        OptionError: `int8` is missing, or was given for another precision.
        DatasetError: A source of images does not exist.
    """

    precision: Precision | None = None
    graph: ExportOptions | None = None
    checkpoint: CheckpointOptions | None = None
    int8: Int8Options | None = None
    verification: Path | None = None
    max_verification_images: int = DEFAULT_IMAGES

    def __post_init__(self) -> None:
        convert_choices(self)
        if (self.precision is Precision.INT8) != (self.int8 is not None):
            raise needs_int8("calibration") if self.int8 else needs_calibration()
        for source in (self._calibration, self.verification):
            if source is not None and not source.exists():
                raise DatasetError(
                    f"{source} does not exist",
                    "a folder, a list, or a video",
                    f"ls {source.parent}",
                )

    @property
    def _calibration(self) -> Path | None:
        return None if self.int8 is None else self.int8.source

    def read_verification_images(self) -> list[Image] | None:
        """Read the images to compare labels on, (H, W, 3) uint8 BGR; None for drawn streets.

        Raises:
            DatasetError: They cannot be read.
            OptionError: Their number is below 1.
        """
        source = self.verification or self._calibration
        if source is None:
            return None
        limit = self.max_verification_images
        return list(choose_images(source, limit).read())


def recipe_for(
    *,
    precision: str | None,
    graph: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    int8: Mapping[str, Any],
    verification: str | Path | None,
    max_verification_images: int,
) -> Recipe:
    """Return the recipe that the arguments of a command or function ask for.

    Args:
        precision: Name of the precision; None for that of the model.
        graph: Fields of `ExportOptions`; a value of None means that it was not given.
        checkpoint: Fields of `CheckpointOptions`; a value of None means that it was not given.
        int8: Arguments of `int8_options_for`.
        verification: Images to compare labels on.
        max_verification_images: Maximum number of images to compare labels on.

    Raises:
        OptionError, SizeError: A value cannot be used.
        DatasetError: A source of images does not exist.
    """
    asked = {name: value for name, value in graph.items() if value is not None}
    said = {name: value for name, value in checkpoint.items() if value is not None}
    if "classes" in said:
        said["classes"] = class_table_named(said["classes"])
    chosen = None if precision is None else choose(Precision, precision, "precision")
    return Recipe(
        precision=chosen,
        graph=ExportOptions(**asked) if asked else None,
        checkpoint=CheckpointOptions(**said) if said else None,
        int8=int8_options_for(chosen, **int8),
        verification=None if verification is None else user_path(verification),
        max_verification_images=max_verification_images,
    )
