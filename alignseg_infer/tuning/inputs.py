"""What is given to a tuning: files and images, checked and named."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backends.tuned import advice
from alignseg_infer.datasets.image_sets import choose_images, spread_evenly
from alignseg_infer.demo import DEMO, FIRST_HELD_OUT, model_path
from alignseg_infer.errors import ModelFileError, OptionError, TuningError
from alignseg_infer.files.reading import real_path, require_file
from alignseg_infer.pixels.images import ImageSource, load_image
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.onnx_weights import sha256_with_weights
from alignseg_infer.tuning.candidates import (
    Candidate,
    Goal,
    ModelFile,
    list_candidates,
    why_unfit,
)
from alignseg_infer.tuning.options import TuningOptions
from alignseg_infer.tuning.report import Outcome, Row

STREET_SIZE = (256, 512)  # of drawn streets, for the demo model


def names_of(models: Sequence[str | Path]) -> list[str]:
    """Return a name for each model: of its file, or its path if two share that.

    Raises:
        OptionError: There is none, one is given twice, or one is no ``.onnx``.
    """
    paths = [model_path(model) for model in models]
    if not models or len({real_path(path) for path in paths}) < len(paths):
        raise OptionError(
            f"the models are {', '.join(map(str, models)) or 'none'}",
            "one .onnx file or several, each once",
            "alignseg tune alignseg.onnx --images DIR",
        )
    for path in paths:
        if path.suffix.lower() != ".onnx":
            raise OptionError(
                f"{path} cannot be tuned: its ending says what runs it",
                ".onnx files, which several runtimes can run, or demo",
                "alignseg export-onnx CHECKPOINT -o MODEL.onnx",
            )
    names = [DEMO if str(model) == DEMO else Path(model).name for model in models]
    return names if len(set(names)) == len(names) else list(map(str, models))


def open_file(model: str | Path, name: str) -> ModelFile:
    """Return a file with its facts, which are those of the loaded model.

    Raises:
        ModelError: It cannot be used.
    """
    path = model_path(model)
    require_file(path, "an .onnx file to tune", ModelFileError)
    sha256 = sha256_with_weights(path)
    given: str | Path = DEMO if str(model) == DEMO else path
    return ModelFile(given, name, Predictor(given).spec, sha256)


def require_unchanged(files: Sequence[ModelFile]) -> None:
    """Check that the files are those that were opened, so that what was measured is theirs.

    Raises:
        TuningError: One was replaced or removed meanwhile.
    """
    for file in files:
        path = model_path(file.model)
        if not path.is_file() or sha256_with_weights(path) != file.sha256:
            raise TuningError(
                f"{path} was changed while it was tuned, so that nothing is kept",
                "files that stay as they are until the end",
                advice(*(each.model for each in files)),
            )


def require_fit(first: ModelFile, goal: Goal) -> None:
    """Check that the first file can reach the goal.

    Raises:
        OptionError: It takes several images per call, and one is to be fast.
    """
    unfit = why_unfit(first, first, None, goal)
    if unfit:
        raise OptionError(
            f"{first.name} cannot be tuned for one image: {unfit}",
            "a file that takes one image per call, or many images to be fast",
            f"goal={Goal.THROUGHPUT.value!r}",
        )


def require_full_batches(files: Sequence[ModelFile], options: TuningOptions, count: int) -> None:
    """Check that there are images for a whole batch, whose labels are compared as it is timed.

    Raises:
        OptionError: There are fewer images than a call takes.
    """
    for file in files if options.goal is Goal.THROUGHPUT else ():
        batch = file.export.batch or max(options.batches)
        if batch > count:
            fixed = "" if file.export.batch is None else f", which {file.name} takes in each call"
            raise OptionError(
                f"batch={batch}{fixed}, with {count} images",
                "an image or more for each place in the batch, so that labels are compared in the "
                "batch that is timed",
                f"max_images={batch} or more, of a source with as many"
                + (f"; or batch={count}" if not fixed else f"; or leave {file.name} out"),
            )


def list_rows(files: list[ModelFile], reference: Candidate, options: TuningOptions) -> list[Row]:
    """Return a row for each candidate; those of files that cannot stand in say why."""
    first, unfit = files[0], {}
    for file in files[1:]:
        unfit[file.name] = why_unfit(file, first, options.size, options.goal)
    rows = [Row(reference)]
    for candidate in list_candidates(files, options.batches):
        reason = unfit.get(candidate.file.name)
        outcome = Outcome.NOT_OFFERED if reason else Outcome.NOT_MEASURED
        rows.append(Row(candidate, outcome, reason or ""))
    for row in rows:
        usual = row.candidate.required_agreement
        row.required = usual if options.min_agreement is None else options.min_agreement
    return rows


def find_images(
    source: str | Path | Sequence[ImageSource] | None, first: ModelFile, options: TuningOptions
) -> tuple[str, list[Image]]:
    """Return what the images are, and the images, (H, W, 3) uint8 BGR.

    Raises:
        DatasetError: They cannot be read.
        ImageError: One of a list cannot be read.
        OptionError: There are none, and the model is not the one of drawn streets; or they are
            neither a source nor a list.
    """
    if isinstance(source, str | Path):
        chosen = choose_images(source, options.max_images, options.max_pixels)
        return chosen.name, list(chosen.read())
    if source is not None:
        return _load_listed(source, options)
    if first.model != DEMO:
        raise OptionError(
            "images= was not given",
            "images like those that the model will see, to compare labels on",
            advice(first.model),
        )
    size = options.size if isinstance(options.size, tuple) else STREET_SIZE
    streets = list(_draw_streets(options.max_images, size))
    return f"{len(streets)} drawn streets of {size[0]}x{size[1]}", streets


def _load_listed(source: Sequence[ImageSource], options: TuningOptions) -> tuple[str, list[Image]]:
    if not isinstance(source, Sequence) or isinstance(source, bytes | bytearray | memoryview):
        seen = "an array" if isinstance(source, np.ndarray) else type(source).__name__
        raise OptionError(
            f"images= is {seen}",
            "a source of images, such as a folder, or a list of images as Predictor takes them",
            "images=FOLDER, or images=[image, ...]",
        )
    numbers = spread_evenly(len(source), max(options.max_images, 0))
    images = [load_image(source[number], options.max_pixels) for number in numbers]
    of_all = "" if len(images) == len(source) else f" of {len(source)}"
    return f"{len(images)}{of_all} images in memory", images


def _draw_streets(count: int, size: Size) -> Iterator[Image]:
    from alignseg_infer.demo.streets import Street

    for number in range(count):
        yield Street(FIRST_HELD_OUT + number).scene(size=size).image
