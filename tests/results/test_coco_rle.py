"""COCO's run-length encoding, compared with pycocotools."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from alignseg_infer.arrays import Labels
from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.results.coco_rle import coco_annotations, coco_dataset, coco_rle


def theirs(labels: Labels, label: int) -> Any:
    return coco_mask.encode(np.asfortranarray(labels == label, np.uint8))


def assert_like_theirs(labels: Labels) -> None:
    annotations = coco_annotations(labels, 1 << 16)
    assert [one["category_id"] for one in annotations] == np.unique(labels).tolist()
    for one in annotations:
        expected = theirs(labels, one["category_id"])
        assert one["segmentation"]["counts"] == expected["counts"].decode()
        assert one["segmentation"]["size"] == list(expected["size"])
        assert one["area"] == coco_mask.area(expected)
        assert one["bbox"] == coco_mask.toBbox(expected).tolist()
        assert one["segmentation"] == coco_rle(labels, one["category_id"])


SIDES = st.integers(1, 14)
SHAPES = st.tuples(SIDES, SIDES)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 3)))
def test_like_pycocotools(labels: Labels) -> None:
    assert_like_theirs(labels)


@settings(deadline=None)
@given(
    hnp.arrays(np.uint16, SHAPES, elements=st.sampled_from([0, 7, 299])),
    st.integers(1, 200),
    st.integers(1, 30),
)
def test_long_runs_like_pycocotools(labels: Labels, down: int, right: int) -> None:
    assert_like_theirs(labels.repeat(down, axis=0).repeat(right, axis=1))


@settings(deadline=None)
@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 1)))
def test_round_trip(labels: Labels) -> None:
    decoded = coco_mask.decode(coco_rle(labels, 1))
    np.testing.assert_array_equal(decoded, labels)


@pytest.mark.parametrize("runs", [(15, 16, 17), (511, 512, 513, 1), (2, 1 << 20, 3, 1, 1 << 20)])
def test_where_numbers_get_another_character(runs: tuple[int, ...]) -> None:
    column = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)[:, np.newaxis]
    for label in (0, 1):
        assert coco_rle(column, label)["counts"] == theirs(column, label)["counts"].decode()


def test_a_label_that_does_not_occur() -> None:
    labels = np.zeros((3, 5), np.uint8)
    assert coco_rle(labels, 4)["counts"] == theirs(labels, 4)["counts"].decode()
    assert coco_mask.area(coco_rle(labels, 4)) == 0


def test_image_id_only_if_given() -> None:
    labels = np.zeros((3, 5), np.uint8)
    assert "image_id" not in coco_annotations(labels, 1 << 16)[0]
    assert coco_annotations(labels, 1 << 16, image_id=0)[0]["image_id"] == 0
    (one,) = coco_annotations(labels, 1 << 16, image_id=np.arange(5)[3])
    assert json.loads(json.dumps(one))["image_id"] == 3


def test_dataset_is_read_by_pycocotools(tmp_path: Path) -> None:
    labels = np.array([[0, 0, 13], [10, 13, 13]], np.uint8)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(coco_dataset(labels, CITYSCAPES.names, "street.png")))
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(path))
    assert dataset.loadImgs([1])[0]["file_name"] == "street.png"
    (car,) = dataset.getCatIds(catNms=["car"])
    (annotation,) = dataset.loadAnns(dataset.getAnnIds(imgIds=[1], catIds=[car]))
    np.testing.assert_array_equal(dataset.annToMask(annotation), labels == 13)
    assert annotation["area"] == 3
    assert len(dataset.getAnnIds()) == 3
