"""COCO's run-length encoding and its annotations, byte for byte as pycocotools makes them.

A mask is read column by column. Runs of zeros and ones take turns, beginning with zeros; from the
fourth on, the difference to the last but one is stored. Each number goes into groups of five bits,
the lowest first, in characters from ``0`` on; 32 more says that another group follows. (cocoapi
``common/maskApi.c``, ``rleToString``.)
"""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Labels, Size
from alignseg_infer.results.runs import Positions, Runs, extent_of, runs_by_label

GROUP_BITS = 5
FIRST_CHARACTER = 48


class CocoRle(TypedDict):
    """A mask. ``size``: [height, width]; ``counts``: compressed runs.

    ``pycocotools.mask.decode`` takes it, and gives (H, W) uint8.
    """

    size: list[int]
    counts: str


class CocoAnnotation(TypedDict):
    """One class of one image, as COCO lists stuff.

    ``category_id`` is the label, counted from 0 as in the class table. ``bbox`` is [x, y, width,
    height] in pixels, ``area`` is in pixels, ``iscrowd`` 0.
    """

    image_id: NotRequired[int]
    category_id: int
    segmentation: CocoRle
    area: int
    bbox: list[int]
    iscrowd: int


def coco_rle(labels: Labels, label: int) -> CocoRle:
    """The pixels of one label, which need not occur.

    Args:
        labels: (H, W).
        label: Of the pixels that belong to the mask.
    """
    nowhere = np.empty(0, np.int64)
    runs = _runs_along_columns(labels).get(label, Runs(nowhere, nowhere))
    return _rle(runs, (labels.shape[0], labels.shape[1]))


def coco_annotations(labels: Labels, image_id: int | None = None) -> list[CocoAnnotation]:
    """One annotation for each label that occurs, lowest first.

    Args:
        labels: (H, W).
        image_id: Of the image in the dataset; None to leave it out.
    """
    size = (labels.shape[0], labels.shape[1])
    annotations = [
        _annotation(label, runs, size) for label, runs in _runs_along_columns(labels).items()
    ]
    if image_id is not None:
        for annotation in annotations:
            annotation["image_id"] = image_id
    return annotations


def coco_dataset(labels: Labels, names: Sequence[str]) -> dict[str, Any]:
    """A COCO dataset of this one image, as ``pycocotools.coco.COCO`` reads it from JSON.

    Args:
        labels: (H, W), each below the number of names.
        names: Of the classes, which become categories 0, 1, 2...
    """
    annotations = coco_annotations(labels, image_id=1)
    return {
        "images": [{"id": 1, "height": labels.shape[0], "width": labels.shape[1]}],
        "categories": [{"id": label, "name": name} for label, name in enumerate(names)],
        "annotations": [
            {"id": number, **annotation} for number, annotation in enumerate(annotations, 1)
        ],
    }


def _runs_along_columns(labels: Labels) -> dict[int, Runs]:
    # 8 times as fast as NumPy's copy of labels.T
    return runs_by_label(np.asarray(cv2.transpose(labels), labels.dtype))


def _annotation(label: int, runs: Runs, size: Size) -> CocoAnnotation:
    left, right, top, bottom = extent_of(runs, size[0])
    return {
        "category_id": label,
        "segmentation": _rle(runs, size),
        "area": int((runs.ends - runs.starts).sum()),
        "bbox": [left, top, right - left + 1, bottom - top + 1],
        "iscrowd": 0,
    }


def _rle(runs: Runs, size: Size) -> CocoRle:
    edges = np.column_stack(runs).ravel()  # start, end, start, end...
    pixels = size[0] * size[1]
    if not edges.size or edges[-1] < pixels:
        edges = np.append(edges, pixels)
    return {"size": [*size], "counts": _compressed(np.diff(edges, prepend=0))}


def _compressed(counts: Positions) -> str:
    numbers = counts.copy()
    numbers[3:] -= counts[1:-2]
    columns: list[NDArray[np.int64]] = []
    more = np.ones(numbers.shape, np.bool_)
    while more.any():
        group = numbers & 31
        numbers = numbers >> GROUP_BITS  # keeps the sign
        unfinished = more & (numbers != np.where(group & 16, -1, 0))
        columns.append(np.where(more, FIRST_CHARACTER + group + 32 * unfinished, 0))
        more = unfinished
    characters = np.column_stack(columns).ravel()
    return bytes(characters[characters > 0].astype(np.uint8)).decode("ascii")
