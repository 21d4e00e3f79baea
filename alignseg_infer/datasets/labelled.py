"""Labelled images: which image belongs to which labels, and what the label values mean.

There are three layouts below a root folder. Sub-folders (cities) are part of a file's name::

    cityscapes   leftImg8bit/SPLIT/CITY/X_leftImg8bit.png   gtFine/SPLIT/CITY/X_gtFine_labelIds.png
    ade20k       images/SPLIT/X.jpg                         annotations/SPLIT/X.png
    folder       images/X.png, .jpg or .jpeg                labels/X.png

Labels are 8-bit gray PNGs. Cityscapes is read from the labelIds that come with the dataset, not
from labelTrainIds, which each user creates with a script, possibly with changes. ADE20K is the MIT
Scene Parsing Benchmark, whose split ``val`` is the folder ``validation``.

The root may be an address. The files that are used are then fetched when they are read first.
"""

import os
import shlex
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Labels
from alignseg_infer.backports import StrEnum
from alignseg_infer.choices import choose
from alignseg_infer.datasets.addresses import (
    address_below,
    is_address,
    listing_command,
    plain_place,
)
from alignseg_infer.datasets.class_tables import CITYSCAPES, IGNORED
from alignseg_infer.datasets.copies import Copies, FetchedFile, FilePath
from alignseg_infer.datasets.sources import (
    find_at_address,
    find_source_images,
    nothing_found_error,
)
from alignseg_infer.errors import AlignSegError, DatasetError, OptionError, OutputError
from alignseg_infer.files.reading import find_files, is_folder, real_path
from alignseg_infer.pixels.encoded import MAX_PIXELS, require_max_pixels
from alignseg_infer.pixels.images import read_gray_png, read_image
from alignseg_infer.spec.model import ClassSpec, ModelSpec

NO_LABEL = -1  # in a label table: a value that is not allowed
PROBLEMS_SHOWN = 20
DEFAULT_SPLIT = "val"

LabelTable: TypeAlias = NDArray[np.int16]

# labelId of each trainId (cityscapesScripts helpers/labels.py); other values in 0..33 are ignored
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

    image: FilePath
    labels: FilePath


@dataclass(frozen=True)
class LabelledImages:
    """Image and label files of one dataset, which have not been read yet.

    Attributes:
        dataset: Their layout, which determines what label values mean.
        name: Description for people: "cityscapes val, first 10 of 500".
        root: The folder or the address at which they were found.
        pairs: Image and label files, sorted by name.
        max_pixels: The largest number of pixels of a file.
    """

    dataset: Dataset
    name: str
    root: str
    pairs: tuple[LabelledImage, ...]
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class _Side:
    """The folder of images or labels below the root, and the endings removed from their names."""

    folder: str
    endings: tuple[str, ...]


def find_labelled_images(
    dataset: Dataset,
    root: str | Path,
    split: str | None = None,
    max_images: int | None = None,
    *,
    images: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
) -> LabelledImages:
    """Find the images of `dataset` and their labels, without opening any file.

    Args:
        dataset: The layout.
        root: The folder that contains the layout's folders, or its address.
        split: ``train``, ``val`` or ``test``; None for ``val``. A plain folder has no splits.
        max_images: Maximum number of images, the first by name; None for all.
        images: A source as `sources.find_source_images` takes it, whose images are taken only; None
            for all.
        max_pixels: The largest number of pixels of a file, when it is read.

    Raises:
        DatasetError: A folder, a label file or an image is missing, there are no images at all, or
            some of `images` are not in the dataset; or an address cannot be listed.
        OptionError: `split`, `max_images`, `max_pixels` or an address is invalid.
        MissingDependencyError: The package for an address is not installed.
    """
    root = plain_place(root)
    dataset = choose(Dataset, dataset, "dataset")
    require_max_pixels(max_pixels)
    if max_images is not None and max_images < 1:
        raise OptionError(f"max_images={max_images}", "1 or more", "max_images=10")
    if dataset is Dataset.FOLDER and split is not None:
        raise OptionError(
            f"split={split!r} was given, but a plain folder has no splits",
            "no split",
            "leave split= out; root= is the folder that contains images/ and labels/",
        )
    sides = _choose_sides(dataset, split or DEFAULT_SPLIT)
    copies = Copies(max_pixels)
    photos, labels = (_find_files(root, side, sides, copies) for side in sides)
    if images is not None:
        photos = _choose_photos(photos, plain_place(images), _place_below(root, sides[0].folder))
        labels = {stem: labels[stem] for stem in photos if stem in labels}
    _require_partners(root, photos, labels, sides)
    stems = list(photos)[:max_images]
    name = dataset.value if dataset is Dataset.FOLDER else f"{dataset} {split or DEFAULT_SPLIT}"
    if images is not None:
        name += f", those of {images}"
    if len(stems) < len(photos):
        name += f", first {len(stems)} of {len(photos)}"
    pairs = tuple(LabelledImage(photos[stem][0], labels[stem][0]) for stem in stems)
    return LabelledImages(dataset, name, root, pairs, max_pixels)


def label_table(dataset: Dataset, num_classes: int) -> LabelTable:
    """Return what the values in label files mean.

    Args:
        dataset: The dataset of the label files.
        num_classes: Number of classes of the model. In a plain folder, labels are below it.

    Returns:
        (256,) int16: the label for each value, 255 for ignored values, or -1 for values that are
        not allowed.
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


def table_for(dataset: Dataset, spec: ModelSpec) -> LabelTable:
    """Return what the values in label files mean for a model, whose classes may be remapped.

    Pixels of classes that are left out are ignored. Otherwise it is that of `label_table`.
    """
    table = label_table(dataset, len(spec.network_classes))
    if spec.remap is None:
        return table
    remap = spec.remap
    new = np.array([IGNORED if label == remap.void else label for label in remap.labels])
    is_class = (table >= 0) & (table != IGNORED)
    remapped = table.copy()
    remapped[is_class] = new[table[is_class]]
    return remapped


def cityscapes_ids(labels: Labels, classes: ClassSpec) -> Image:
    """Return labels as the labelIds that the test server of Cityscapes expects.

    Args:
        labels: (H, W).
        classes: Names of the labels.

    Returns:
        (H, W) uint8: 7 for road, 8 for sidewalk, up to 33 for bicycle.

    Raises:
        OptionError: The classes are not those of Cityscapes.
    """
    require_cityscapes(classes)
    ids = np.array([*CITYSCAPES_IDS, 0], np.uint8)  # 0, unlabeled, for pixels without a class
    return ids[np.minimum(labels, len(CITYSCAPES_IDS))]


def require_cityscapes(classes: ClassSpec) -> None:
    """Check that labels can be written as labelIds.

    Raises:
        OptionError: The classes are not those of Cityscapes, in their order.
    """
    if classes.names != CITYSCAPES.names:
        raise OptionError(
            f"the {len(classes.names)} classes of {classes.dataset!r} have no Cityscapes labelIds",
            "the 19 classes of Cityscapes in their order",
            "use result.labels or the file STEM_labels.png; ADE20K's label files are labels + 1",
        )


def read_truth(path: FilePath, table: LabelTable, max_pixels: int = MAX_PIXELS) -> Image:
    """Read the labels in the file `path` as (H, W) uint8, 255 for ignored.

    Args:
        path: An 8-bit gray PNG.
        table: The result of `label_table`.
        max_pixels: The largest number of pixels.

    Raises:
        ImageError: The file is not an 8-bit gray PNG, or has too many pixels.
        DatasetError: The file has values that are not allowed.
    """
    values = read_gray_png(path, max_pixels)
    truth = table[values]
    if truth.min() == NO_LABEL:
        wrong = np.unique(values[truth == NO_LABEL])
        raise DatasetError(
            f"{path} has the values {_join_first(map(str, wrong), ', ')}",
            f"values among {_describe_values(table)}",
            "choose the dataset= that these labels belong to, and a model with its classes",
        )
    return truth.astype(np.uint8)


def require_usable(data: LabelledImages, table: LabelTable) -> NDArray[np.int64]:
    """Decode every image and label file, so that no bad file stops an evaluation halfway.

    Returns:
        (256,) int64: how many pixels have each true label; 255 is ignored.

    Raises:
        DatasetError: Files cannot be read, have values that are not allowed, or differ in size
            from their partner (the first problem of each pair is listed); or every pixel is
            ignored.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = list(pool.map(lambda pair: _check_pair(pair, table, data.max_pixels), data.pairs))
    problems = [problem for problem, _ in checks if problem]
    counts: NDArray[np.int64] = np.stack([counts for _, counts in checks]).sum(axis=0)
    if problems:
        raise DatasetError(
            f"{len(problems)} of {len(data.pairs)} labelled images in {data.root} cannot be used:"
            f"{_join_first(problems)}",
            "images, and 8-bit gray PNGs of the same size with values among "
            f"{_describe_values(table)}",
            "copy or unpack the dataset again; with Pillow, Image.fromarray(numpy.asarray("
            "Image.open(OLD))).save(NEW) turns a palette PNG into a gray PNG",
        )
    if not counts[:IGNORED].any():
        raise DatasetError(
            f"every pixel of the {len(data.pairs)} label files in {data.root} is ignored",
            "labels to compare with",
            "choose a split with public labels, such as split='val'",
        )
    return counts


def _check_pair(
    pair: LabelledImage, table: LabelTable, max_pixels: int
) -> tuple[str | None, NDArray[np.int64]]:
    """Return what is wrong with a pair (or None), and how many pixels have each true label."""
    nothing = np.zeros(256, np.int64)
    try:
        truth = read_truth(pair.labels, table, max_pixels)
        image = read_image(pair.image, max_pixels)
    except OutputError:  # no room for a copy of this file, nor of others
        raise
    except AlignSegError as error:
        return error.problem, nothing
    if truth.shape != image.shape[:2]:
        size, other = (f"{shape[0]}x{shape[1]}" for shape in (image.shape, truth.shape))
        return f"{pair.image} is {size} (height x width), {pair.labels} is {other}", nothing
    return None, np.bincount(truth.ravel(), minlength=256)


def _choose_sides(dataset: Dataset, split: str) -> tuple[_Side, _Side]:
    if dataset is Dataset.CITYSCAPES:
        images = _Side(f"leftImg8bit/{split}", ("_leftImg8bit.png",))
        return images, _Side(f"gtFine/{split}", ("_gtFine_labelIds.png",))
    if dataset is Dataset.ADE20K:
        split = ADE20K_SPLITS.get(split, split)
        return _Side(f"images/{split}", (".jpg",)), _Side(f"annotations/{split}", (".png",))
    return _Side("images", (".png", ".jpg", ".jpeg")), _Side("labels", (".png",))


def _find_files(
    root: str, side: _Side, sides: tuple[_Side, _Side], copies: Copies
) -> dict[str, list[FilePath]]:
    """Find the files of one side, by their path below its folder without the ending."""
    place = _place_below(root, side.folder)
    found = _list_address(place, side, copies) if is_address(root) else _list_folder(place, side)
    if found is None:
        raise _layout_error(root, f"{place} is not a folder", sides)
    files: dict[str, list[FilePath]] = {}
    for name, path in found:
        ending = next(end for end in side.endings if name.lower().endswith(end.lower()))
        files.setdefault(name[: -len(ending)], []).append(path)
    return files


def _place_below(root: str, folder: str) -> str:
    """Return the path or the address of a folder below the root."""
    return address_below(root, folder) if is_address(root) else str(Path(root) / folder)


def _list_folder(folder: str, side: _Side) -> list[tuple[str, FilePath]] | None:
    """Return the names and paths of the files in a folder; None if it is not one."""
    path = Path(folder)
    if not is_folder(path, DatasetError):
        return None
    files = find_files(path, side.endings, DatasetError)
    return [(file.relative_to(path).as_posix(), file) for file in files]


def _list_address(address: str, side: _Side, copies: Copies) -> list[tuple[str, FilePath]] | None:
    """Return the names and files below an address; None if there is nothing."""
    try:
        files = list(find_at_address(address, side.endings))
    except DatasetError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return [(file.name, FetchedFile(file, copies)) for file in files]


def _identity_of(path: str | FilePath) -> str:
    """Return what two names of one file have in common."""
    text = str(path)
    return text if is_address(text) else real_path(text)


def _choose_photos(
    photos: dict[str, list[FilePath]], source: str, folder: str
) -> dict[str, list[FilePath]]:
    """Return the images of a dataset that a source names.

    Raises:
        DatasetError: The source has no images, or others.
    """
    wanted = {_identity_of(image.url): image.url for image in find_source_images(source)}
    if not wanted:
        raise nothing_found_error(source)
    chosen = {
        stem: paths
        for stem, paths in photos.items()
        if any(_identity_of(path) in wanted for path in paths)
    }
    known = {_identity_of(path) for paths in chosen.values() for path in paths}
    strange = [url for identity, url in wanted.items() if identity not in known]
    if strange:
        fix = f"find {shlex.quote(folder)} -name '*.*' > list.txt, and keep the lines you want"
        if is_address(folder):
            fix = f"addresses in list.txt that begin with {folder}/"
        raise DatasetError(
            f"{len(strange)} images of {source} are not in the dataset:{_join_first(strange)}",
            f"images of the split that is scored, which are in {folder}",
            fix,
        )
    return chosen


def _require_partners(
    root: str,
    images: dict[str, list[FilePath]],
    labels: dict[str, list[FilePath]],
    sides: tuple[_Side, _Side],
) -> None:
    if not images and not labels:
        raise _layout_error(root, f"{root} contains no labelled images", sides)
    problems = [f"{paths[0]} has no labels" for key, paths in images.items() if key not in labels]
    problems += [f"{paths[0]} has no image" for key, paths in labels.items() if key not in images]
    problems += [
        f"{paths[0]} and {paths[1]} have the same name"
        for paths in (*images.values(), *labels.values())
        if len(paths) > 1
    ]
    if problems:
        listed = _join_first(problems)
        raise _layout_error(root, f"{len(problems)} files cannot be paired:{listed}", sides)


def _layout_error(root: str, problem: str, sides: tuple[_Side, _Side]) -> DatasetError:
    images, labels = (f"{side.folder}/**/*{' or '.join(side.endings)}" for side in sides)
    look = listing_command(root) if is_address(root) else f"ls {root}"
    return DatasetError(
        problem,
        f"images {images} and labels {labels} below {root}",
        f"{look}; root= is the folder that contains these, dataset= and split= name them",
    )


def _join_first(items: Iterable[str], separator: str = "\n    ") -> str:
    """Join the first `PROBLEMS_SHOWN` items, and say how many more there are."""
    every = list(items)
    shown = every[:PROBLEMS_SHOWN]
    if len(every) > len(shown):
        shown.append(f"and {len(every) - len(shown)} more")
    prefix = separator if "\n" in separator else ""
    return prefix + separator.join(shown)


def _describe_values(table: LabelTable) -> str:
    """Return the allowed values as ranges: "0..18, 255"."""
    values = np.flatnonzero(table != NO_LABEL)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
