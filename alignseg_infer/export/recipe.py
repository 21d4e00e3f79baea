"""The recipe: how a model becomes a graph in some precision. Loads neither PyTorch nor ONNX."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignseg_infer.arrays import Image
from alignseg_infer.choices import choose, convert_choices
from alignseg_infer.datasets.addresses import plain_place
from alignseg_infer.datasets.class_tables import class_table_named
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.datasets.remapping import remapping_named
from alignseg_infer.datasets.sources import require_source
from alignseg_infer.errors import OptionError
from alignseg_infer.export.graph.options import AUTO_SAMPLER, FORM_NAMES, ExportOptions
from alignseg_infer.export.int8.options import (
    Int8Options,
    int8_options_for,
    needs_calibration,
    needs_int8,
)
from alignseg_infer.export.verification.options import DEFAULT_IMAGES, require_share
from alignseg_infer.models.checkpoint_options import CheckpointOptions
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.spec.model import Precision, Sampler, Target

GRAPH_NAMES = tuple(field.name for field in dataclasses.fields(ExportOptions))
CHECKPOINT_NAMES = tuple(field.name for field in dataclasses.fields(CheckpointOptions))
INT8_NAMES = tuple(inspect.signature(int8_options_for).parameters)[1:]  # the first: precision


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model becomes a graph in some precision.

    Attributes:
        precision: Precision of the graph; None for that of the model, which is fp32 for a
            checkpoint.
        graph: The form of a checkpoint's graph; None for the default form.
        auto_sampler: Whether the sampler is to be the one that is right in the runtime.
        sampler_choice: Which sampler that was, and why; None until it was chosen.
        checkpoint: Facts that the checkpoint does not contain; None if the user gives none.
        fixed: Names of options that were given, with any value, and that only a checkpoint takes.
        target: Hardware that the graph is for; None for no choice. It decides the form of int8 and
            how a checkpoint's graph upsamples.
        int8: How the model is quantised. The precision int8 requires it, and no other takes it.
        verification: Images to compare labels on: a folder, a list or a video. None for the
            calibration images, or for drawn streets if there are none.
        max_verification_images: Maximum number of images to compare labels on, spread evenly.
        max_pixels: The largest number of pixels of an image file to compare labels on.
        min_agreement: As in `VerificationOptions`.
        keep_rejected: Whether a graph whose labels differ too much is kept under another name.

    Raises:
        OptionError: `int8` is missing, or was given for another precision; or the target cannot
            use the precision or the sampler.
        DatasetError: A source of images does not exist.
    """

    precision: Precision | None = None
    graph: ExportOptions | None = None
    auto_sampler: bool = False
    sampler_choice: str | None = None
    checkpoint: CheckpointOptions | None = None
    fixed: tuple[str, ...] = ()
    target: Target | None = None
    int8: Int8Options | None = None
    verification: str | Path | None = None
    max_verification_images: int = DEFAULT_IMAGES
    max_pixels: int = MAX_PIXELS
    min_agreement: float | None = None
    keep_rejected: bool = True

    def __post_init__(self) -> None:
        convert_choices(self)
        require_share(self.min_agreement)
        if (self.precision is Precision.INT8) != (self.int8 is not None):
            raise needs_int8("calibration") if self.int8 else needs_calibration()
        if self.target is Target.CPU:
            self._require_cpu_can_run()
        for source in (self._calibration, self.verification):
            if source is not None:
                require_source(plain_place(source))

    def _require_cpu_can_run(self) -> None:
        if self.precision is Precision.FP16:
            raise OptionError(
                "precision='fp16' with target='cpu': CPUs compute float16 in float32, so it costs "
                "time and accuracy and gains nothing",
                "fp32 or int8 for a CPU",
                "precision='int8' and calibration=FOLDER, or leave target= out",
            )
        if self.graph is not None and self.graph.sampler is Sampler.PLUGIN:
            raise OptionError(
                "sampler='plugin' with target='cpu'",
                "native or gather, since only TensorRT has plugins",
                "sampler='native', or leave target= out",
            )

    @property
    def _calibration(self) -> str | Path | None:
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
        return list(choose_images(source, limit, self.max_pixels).read())


def recipe_for(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that the arguments of a command or function ask for.

    Args:
        values: Values by the names of their parameters: ``precision``, ``target``,
            ``verification``, ``max_verification_images``, ``max_pixels``, ``min_agreement``, the
            fields of `ExportOptions` and `CheckpointOptions`, and the parameters of
            `int8_options_for`. None,
            or no entry, means that nothing was given. Other names are ignored.

    Raises:
        OptionError, SizeError: A value cannot be used.
        DatasetError: A source of images does not exist.
    """
    given = {name: value for name, value in values.items() if value is not None}
    checkpoint_only = {*GRAPH_NAMES, *CHECKPOINT_NAMES} - set(FORM_NAMES)
    fixed = tuple(name for name in given if name in checkpoint_only)
    auto_sampler = given.get("sampler") == AUTO_SAMPLER
    if auto_sampler:
        del given["sampler"]
    graph, checkpoint, int8 = (
        {name: given[name] for name in names if name in given}
        for names in (GRAPH_NAMES, CHECKPOINT_NAMES, INT8_NAMES)
    )
    if "classes" in checkpoint:
        checkpoint["classes"] = class_table_named(checkpoint["classes"])
    if "remap" in graph:
        graph["remap"] = remapping_named(graph["remap"])
    precision = choose(Precision, given["precision"], "precision") if "precision" in given else None
    target = choose(Target, given["target"], "target") if "target" in given else None
    return Recipe(
        precision=precision,
        graph=ExportOptions(**graph) if graph else None,
        auto_sampler=auto_sampler,
        checkpoint=CheckpointOptions(**checkpoint) if checkpoint else None,
        fixed=fixed,
        target=target,
        int8=int8_options_for(precision, **int8),
        verification=plain_place(given["verification"]) if "verification" in given else None,
        max_verification_images=given.get("max_verification_images", DEFAULT_IMAGES),
        max_pixels=given.get("max_pixels", MAX_PIXELS),
        min_agreement=given.get("min_agreement"),
    )
