"""COCO's run-length encoding and annotations, byte for byte as pycocotools writes them.

A mask is read column by column. Runs of zeros and ones alternate, starting with zeros. From the
fourth run on, the difference to the run two before is stored. Each number is split into groups of
five bits, the lowest first. Each group is one character, counted from ``0``; adding 32 means that
another group follows. (cocoapi ``common/maskApi.c``, ``rleToString``.)
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Labels, Size
from alignseg_infer.backports import NotRequired
from alignseg_infer.results.runs import Positions, Runs, extent_of, runs_by_label

GROUP_BITS = 5
FIRST_CHARACTER = 48


class CocoRle(TypedDict):
    """A mask with ``size``, [height, width], and ``counts``, the compressed runs.

    ``pycocotools.mask.decode`` converts it to (H, W) uint8.
    """

    size: list[int]
    counts: str


class CocoAnnotation(TypedDict):
    """One class of one image, as a COCO stuff annotation.

    ``category_id`` is the label, counted from 0 as in the class table. ``bbox`` is [x, y, width,
    height] in pixels, ``area`` is in pixels, and ``iscrowd`` is 0.
    """

    image_id: NotRequired[int]
    category_id: int
    segmentation: CocoRle
    area: int
    bbox: list[int]
    iscrowd: int


def coco_rle(labels: Labels, label: int) -> CocoRle:
    """Return the mask of one label, which does not have to occur.

    Args:
        labels: (H, W).
        label: The label of the mask's pixels.
    """
    nowhere = np.empty(0, np.int64)
    runs = _runs_along_columns(labels).get(label, Runs(nowhere, nowhere))
    return _rle(runs, (labels.shape[0], labels.shape[1]))


def coco_annotations(
    labels: Labels, count: int, image_id: int | None = None
) -> list[CocoAnnotation]:
    """Return one annotation for each class that occurs, lowest label first.

    Args:
        labels: (H, W).
        count: Number of classes; higher labels stand for none.
        image_id: Number of the image in the dataset; None to leave it out.
    """
    size = (labels.shape[0], labels.shape[1])
    annotations = [
        _annotate(label, runs, size)
        for label, runs in _runs_along_columns(labels).items()
        if label < count
    ]
    if image_id is not None:
        for annotation in annotations:
            annotation["image_id"] = int(image_id)
    return annotations


def coco_dataset(labels: Labels, names: Sequence[str], file_name: str) -> dict[str, Any]:
    """Return a COCO dataset of this one image, as ``pycocotools.coco.COCO`` reads it from JSON.

    Args:
        labels: (H, W); those without a name get no annotation.
        names: Names of the classes, which become the categories 0, 1, 2...
        file_name: Name of the image's file, which readers of COCO ask for.
    """
    annotations = coco_annotations(labels, len(names), image_id=1)
    height, width = labels.shape
    return {
        "images": [{"id": 1, "file_name": file_name, "height": height, "width": width}],
        "categories": [{"id": label, "name": name} for label, name in enumerate(names)],
        "annotations": [
            {"id": number, **annotation} for number, annotation in enumerate(annotations, 1)
        ],
    }


def _runs_along_columns(labels: Labels) -> dict[int, Runs]:
    # cv2.transpose is 8 times as fast as NumPy's copy of labels.T.
    return runs_by_label(np.asarray(cv2.transpose(labels), labels.dtype))


def _annotate(label: int, runs: Runs, size: Size) -> CocoAnnotation:
    left, right, top, bottom = extent_of(runs, size[0])
    return {
        "category_id": label,
        "segmentation": _rle(runs, size),
        "area": int((runs.ends - runs.starts).sum()),
        "bbox": [left, top, right - left + 1, bottom - top + 1],
        "iscrowd": 0,
    }


def _rle(runs: Runs, size: Size) -> CocoRle:
    edges = np.column_stack(runs).ravel()  # (2*R,): start, end, start, end...
    pixels = size[0] * size[1]
    if not edges.size or edges[-1] < pixels:
        edges = np.append(edges, pixels)
    return {"size": [*size], "counts": _compress(np.diff(edges, prepend=0))}


def _compress(counts: Positions) -> str:
    numbers = counts.copy()  # (runs,)
    numbers[3:] -= counts[1:-2]
    columns: list[NDArray[np.int64]] = []
    more = np.ones(numbers.shape, np.bool_)  # (runs,): whether groups are left
    while more.any():
        group = numbers & 31  # (runs,)
        numbers = numbers >> GROUP_BITS  # keeps the sign
        unfinished = more & (numbers != np.where(group & 16, -1, 0))
        columns.append(np.where(more, FIRST_CHARACTER + group + 32 * unfinished, 0))
        more = unfinished
    characters = np.column_stack(columns).ravel()  # (runs, groups), then flat
    return bytes(characters[characters > 0].astype(np.uint8)).decode("ascii")
