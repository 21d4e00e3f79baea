"""Verify a model on images that a user names, and record the result beside an engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alignseg_infer.choices import convert_choices
from alignseg_infer.datasets.image_sets import calibration_images, evenly_spread
from alignseg_infer.datasets.labelled import Dataset, LabelledImages, labelled_images
from alignseg_infer.demo import model_path
from alignseg_infer.errors import OptionError, VerificationError
from alignseg_infer.evaluation.evaluate import Progress
from alignseg_infer.export.verification.verify import DEFAULT_IMAGES, verify
from alignseg_infer.files import written_atomically
from alignseg_infer.pixels.images import Image, read_image
from alignseg_infer.pixels.preprocess import Size
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, Verification, read_facts, sidecar_path


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """On what a model is compared with its reference.

    Attributes:
        images: A folder, a ``.txt`` list or a video; or BGR images (H, W, 3) uint8. None for
            those of the dataset, and for drawn streets, which show gross errors only, where there
            is none.
        max_images: How many of them to use at most, spread evenly; of images in memory, all.
        size: Sizes (height, width) of the network's input, for an ``.onnx`` of any size. Engines
            run at the corners of their profile.
        device: Where the model runs; None for what its kind implies.
        dataset: Layout of labelled images, to compare mean IoU too.
        root: The dataset's folder.
        split: ``train``, ``val`` or ``test``; None for ``val``. A plain folder has none.

    Raises:
        OptionError: A value cannot be used, or not without another.
    """

    images: Path | Sequence[Image] | None = None
    max_images: int = DEFAULT_IMAGES
    size: tuple[Size, ...] = ()
    device: str | None = None
    dataset: Dataset | None = None
    root: Path | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        convert_choices(self)
        together = self.dataset is not None, self.root is not None
        if any(together) != all(together) or (self.split is not None and not all(together)):
            raise OptionError(
                "only some of dataset=, root= and split= were given",
                "dataset= and root= together; split= with them only",
                "dataset='folder' root=FOLDER",
            )

    def labelled(self) -> LabelledImages | None:
        """Find the labelled images, if there are any."""
        if self.dataset is None or self.root is None:
            return None
        return labelled_images(self.dataset, self.root, self.split)

    def chosen_images(self, data: LabelledImages | None) -> Sequence[Image] | None:
        """Read the images to compare labels on; None for drawn streets."""
        if isinstance(self.images, Path):
            return list(calibration_images(self.images, self.max_images).read())
        if self.images is None and data is not None:
            chosen = evenly_spread(len(data.pairs), self.max_images)
            return [read_image(data.pairs[index].image) for index in chosen]
        return self.images


def verify_and_record(
    model: str | Path,
    against: str | Path,
    options: VerificationOptions | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare `model` with `against`; an engine's facts then say how it was verified, or not.

    Args:
        model: An ``.onnx`` file or an engine.
        against: The float32 ``.onnx`` it was made from, or ``demo``.
        options: On what.
        progress: Called with the number of images compared and their total.

    Raises:
        VerificationError: Labels differ in too many pixels, or mean IoU drops too far.
        ModelError: The two are not one model, or cannot be used.
        DatasetError: Images cannot be used.
        OptionError: An option cannot be used.
    """
    options, path = options or VerificationOptions(), model_path(model)
    data = options.labelled()
    images = options.chosen_images(data)
    try:
        found = verify(
            path,
            against,
            images,
            device=options.device,
            sizes=options.size,
            data=data,
            progress=progress,
        )
    except VerificationError:
        _record(path, None)
        raise
    _record(path, found)
    return found


def _record(engine: Path, found: Verification | None) -> None:
    """Write into the facts of an engine how it was verified; None: it was not."""
    if engine.suffix.lower() not in ENGINE_SUFFIXES:
        return
    facts = replace(read_facts(engine), verification=found)
    with written_atomically(sidecar_path(engine)) as temporary:
        temporary.write_text(facts.to_json(), encoding="utf-8")
