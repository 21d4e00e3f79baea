"""Labelled images: which image belongs to which labels, and what their values mean.

Three layouts below a root folder; sub-folders (cities) belong to a file's name::

    cityscapes   leftImg8bit/SPLIT/CITY/X_leftImg8bit.png   gtFine/SPLIT/CITY/X_gtFine_labelIds.png
    ade20k       images/SPLIT/X.jpg                         annotations/SPLIT/X.png
    folder       images/X.png, .jpg or .jpeg                labels/X.png

Labels are 8-bit gray PNGs. Cityscapes is read from the labelIds that the dataset ships, not from
labelTrainIds, which every user makes with a script and may have made differently. ADE20K is the
MIT Scene Parsing Benchmark, whose split ``val`` lies in a folder ``validation``.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Labels
from alignseg_infer.choices import choose
from alignseg_infer.datasets.class_tables import CITYSCAPES, IGNORED
from alignseg_infer.errors import AlignSegError, DatasetError, OptionError
from alignseg_infer.pixels.images import read_gray_png, read_image
from alignseg_infer.spec.model import ClassSpec

NO_LABEL = -1  # in a label table: a value that must not occur
PROBLEMS_SHOWN = 20
DEFAULT_SPLIT = "val"

LabelTable: TypeAlias = NDArray[np.int16]

# labelId of each trainId, cityscapesScripts helpers/labels.py; all others of 0..33 are ignored
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_ID_COUNT = 34
ADE20K_CLASSES = 150
ADE20K_SPLITS = {"val": "validation", "train": "training"}


class Dataset(StrEnum):
    """How a folder of labelled images is laid out."""

    CITYSCAPES = "cityscapes"
    ADE20K = "ade20k"
    FOLDER = "folder"


@dataclass(frozen=True)
class LabelledImage:
    """An image file and the file of its labels."""

    image: Path
    labels: Path


@dataclass(frozen=True)
class LabelledImages:
    """Image and label files of one dataset, found but not read yet.

    Attributes:
        dataset: Their layout, which says what label values mean.
        name: For people: "cityscapes val, first 10 of 500".
        root: The folder they were found in.
        pairs: In the order of their names.
    """

    dataset: Dataset
    name: str
    root: Path
    pairs: tuple[LabelledImage, ...]


@dataclass(frozen=True)
class _Side:
    """Where images, or labels, lie below the root, and the endings that are cut off their names."""

    folder: str
    endings: tuple[str, ...]


def labelled_images(
    dataset: Dataset, root: Path, split: str | None = None, max_images: int | None = None
) -> LabelledImages:
    """Finds the images of `dataset` and their labels. Opens no file.

    Args:
        dataset: The layout.
        root: The folder that holds its folders.
        split: ``train``, ``val`` or ``test``; None for ``val``. A plain folder has none.
        max_images: How many images to take at most, the first by name; None for all.

    Raises:
        DatasetError: Folders or partners are missing, or there is no image at all.
        OptionError: `split` or `max_images` makes no sense.
    """
    dataset = choose(Dataset, dataset, "dataset")
    if max_images is not None and max_images < 1:
        raise OptionError(f"max_images={max_images}", "1 or more", "max_images=10")
    if dataset is Dataset.FOLDER and split is not None:
        raise OptionError(
            f"split={split!r} was given for a plain folder, which has no splits",
            "no split",
            "leave split= out; root= is the folder that holds images/ and labels/",
        )
    sides = _sides(dataset, split or DEFAULT_SPLIT)
    images, labels = (_files(root, side, sides) for side in sides)
    _require_partners(root, images, labels, sides)
    stems = list(images)[:max_images]
    name = dataset.value if dataset is Dataset.FOLDER else f"{dataset} {split or DEFAULT_SPLIT}"
    if len(stems) < len(images):
        name += f", first {len(stems)} of {len(images)}"
    pairs = tuple(LabelledImage(images[stem][0], labels[stem][0]) for stem in stems)
    return LabelledImages(dataset, name, root, pairs)


def label_table(dataset: Dataset, num_classes: int) -> LabelTable:
    """What the values in label files mean.

    Args:
        dataset: Whose files.
        num_classes: Of the models; a plain folder has labels below it.

    Returns:
        (256,) int16: for each value its label, 255 for ignored, or -1 if it must not occur.
    """
    table = np.full(256, NO_LABEL, np.int16)
    if dataset is Dataset.CITYSCAPES:
        table[:CITYSCAPES_ID_COUNT] = IGNORED
        table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    elif dataset is Dataset.ADE20K:
        table[0] = IGNORED
        table[1 : ADE20K_CLASSES + 1] = np.arange(ADE20K_CLASSES)
    else:
        table[:num_classes] = np.arange(num_classes)
        table[IGNORED] = IGNORED
    return table


def cityscapes_ids(labels: Labels, classes: ClassSpec) -> Image:
    """Labels as the labelIds of Cityscapes, which its test server takes.

    Args:
        labels: (H, W).
        classes: Their names.

    Returns:
        (H, W) uint8: 7 for road, 8 for sidewalk, up to 33 for bicycle.

    Raises:
        OptionError: The classes are not those of Cityscapes.
    """
    require_cityscapes(classes)
    return np.array(CITYSCAPES_IDS, np.uint8)[labels]


def require_cityscapes(classes: ClassSpec) -> None:
    """Checks that labels can be written as labelIds.

    Raises:
        OptionError: The classes are not those of Cityscapes, in their order.
    """
    if classes.names != CITYSCAPES.names:
        raise OptionError(
            f"the {len(classes.names)} classes of {classes.dataset!r} have no Cityscapes labelIds",
            "the 19 classes of Cityscapes in their order",
            "take result.labels, or the file STEM_labels.png; for ADE20K's own files, labels + 1",
        )


def read_truth(path: Path, table: LabelTable) -> Image:
    """The labels in the file `path` as (H, W) uint8, 255 for ignored.

    Args:
        path: An 8-bit gray PNG.
        table: What `label_table` gave.

    Raises:
        ImageError: It is no such file.
        DatasetError: It has values that must not occur.
    """
    values = read_gray_png(path)
    truth = table[values]
    if truth.min() == NO_LABEL:
        wrong = np.unique(values[truth == NO_LABEL])
        raise DatasetError(
            f"{path} has the values {_listed(map(str, wrong), ', ')}",
            f"values among {_known_values(table)}",
            "dataset= the one whose labels these are, and models with its classes",
        )
    return truth.astype(np.uint8)


def require_usable(data: LabelledImages, table: LabelTable) -> None:
    """Decodes every image and label file, so that none of them stops an evaluation on its way.

    Raises:
        DatasetError: Files cannot be read, have values that must not occur, or differ in size
            from their partner (the first problem of each pair is listed); or all is ignored.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = list(pool.map(lambda pair: _check(pair, table), data.pairs))
    problems = [problem for problem, _ in checks if problem]
    if problems:
        raise DatasetError(
            f"{len(problems)} of {len(data.pairs)} labelled images in {data.root} cannot be used:"
            f"{_listed(problems)}",
            f"images, and 8-bit gray PNGs of their size with values among {_known_values(table)}",
            "copy or unpack the dataset again; with Pillow, Image.fromarray(numpy.asarray("
            "Image.open(OLD))).save(NEW) makes a gray PNG of one with a palette",
        )
    if not any(has_labels for _, has_labels in checks):
        raise DatasetError(
            f"every pixel of the {len(data.pairs)} label files in {data.root} is ignored",
            "labels to compare with",
            "a split with public labels, such as split='val'",
        )


def _check(pair: LabelledImage, table: LabelTable) -> tuple[str | None, bool]:
    """What is wrong with a pair, if anything, and whether it has any label."""
    try:
        truth, image = read_truth(pair.labels, table), read_image(pair.image)
    except AlignSegError as error:
        return error.problem, False
    if truth.shape != image.shape[:2]:
        size, other = (f"{shape[0]}x{shape[1]}" for shape in (image.shape, truth.shape))
        return f"{pair.image} is {size} (height x width), {pair.labels} is {other}", False
    return None, bool((truth != IGNORED).any())


def _sides(dataset: Dataset, split: str) -> tuple[_Side, _Side]:
    if dataset is Dataset.CITYSCAPES:
        images = _Side(f"leftImg8bit/{split}", ("_leftImg8bit.png",))
        return images, _Side(f"gtFine/{split}", ("_gtFine_labelIds.png",))
    if dataset is Dataset.ADE20K:
        split = ADE20K_SPLITS.get(split, split)
        return _Side(f"images/{split}", (".jpg",)), _Side(f"annotations/{split}", (".png",))
    return _Side("images", (".png", ".jpg", ".jpeg")), _Side("labels", (".png",))


def _files(root: Path, side: _Side, sides: tuple[_Side, _Side]) -> dict[str, list[Path]]:
    """Files by their path below the side's folder, without ending."""
    folder = root / side.folder
    if not folder.is_dir():
        raise _not_there(root, f"{folder} is no folder", sides)
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("[!.]*")):
        name = path.relative_to(folder).as_posix()
        if "/." in f"/{name}":  # in a hidden folder
            continue
        ending = next((end for end in side.endings if name.lower().endswith(end.lower())), None)
        if ending:
            files.setdefault(name[: -len(ending)], []).append(path)
    return files


def _require_partners(
    root: Path,
    images: dict[str, list[Path]],
    labels: dict[str, list[Path]],
    sides: tuple[_Side, _Side],
) -> None:
    if not images and not labels:
        raise _not_there(root, f"{root} holds no labelled images", sides)
    problems = [f"{paths[0]} has no labels" for key, paths in images.items() if key not in labels]
    problems += [f"{paths[0]} has no image" for key, paths in labels.items() if key not in images]
    problems += [
        f"{paths[0]} and {paths[1]} have one name"
        for paths in (*images.values(), *labels.values())
        if len(paths) > 1
    ]
    if problems:
        raise _not_there(root, f"{len(problems)} files cannot be paired:{_listed(problems)}", sides)


def _not_there(root: Path, problem: str, sides: tuple[_Side, _Side]) -> DatasetError:
    images, labels = (f"{side.folder}/**/*{' or '.join(side.endings)}" for side in sides)
    return DatasetError(
        problem,
        f"below {root}, images {images}, each with labels {labels}",
        f"ls {root}; root= is the folder that holds these, dataset= and split= name them",
    )


def _listed(items: Iterable[str], separator: str = "\n    ") -> str:
    """The items, as many as are worth reading, and how many more there are."""
    every = list(items)
    shown = every[:PROBLEMS_SHOWN]
    if len(every) > len(shown):
        shown.append(f"and {len(every) - len(shown)} more")
    prefix = separator if "\n" in separator else ""
    return prefix + separator.join(shown)


def _known_values(table: LabelTable) -> str:
    """The values that may occur, as ranges: "0..18, 255"."""
    values = np.flatnonzero(table != NO_LABEL)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
