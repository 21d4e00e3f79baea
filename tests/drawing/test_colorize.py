"""Colours of labels, by OpenCV's table and by NumPy's, and the lines between them."""

import numpy as np
import pytest

from alignseg_infer.datasets.class_tables import ADE20K, CITYSCAPES, class_table_for
from alignseg_infer.drawing.masks import colorize, outline_regions
from alignseg_infer.spec.model import ChannelOrder, ClassSpec


@pytest.mark.parametrize("order", list(ChannelOrder))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "classes", [CITYSCAPES, ADE20K, class_table_for(1), class_table_for(256), class_table_for(300)]
)
def test_each_label_gets_its_color(
    classes: ClassSpec, dtype: type[np.unsignedinteger], order: ChannelOrder
) -> None:
    count = min(len(classes.names), np.iinfo(dtype).max + 1)
    labels = np.random.default_rng(0).integers(0, count, (37, 53)).astype(dtype)
    picture = colorize(labels, classes, order)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    expected = [[classes.colors[label] for label in row] for row in labels.tolist()]
    step = -1 if order is ChannelOrder.BGR else 1
    np.testing.assert_array_equal(picture, np.array(expected)[..., ::step])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("longest", "width"), [(64, 1), (1024, 1), (2048, 2), (3072, 3)])
def test_an_outline_lies_where_classes_meet(
    longest: int, width: int, dtype: type[np.unsignedinteger]
) -> None:
    labels = np.zeros((8, longest), dtype)
    labels[:, 20:] = 1
    labels[:, 40:] = np.iinfo(dtype).max
    picture = np.full((8, longest, 3), (10, 0, 200), np.uint8)
    drawn = outline_regions(picture, labels)
    white = (drawn == 255).all(axis=2)
    assert (white == white[0]).all()
    columns = np.flatnonzero(white[0])
    assert len(columns) == 2 * width
    assert abs(columns[:width].mean() - 19.5) <= 0.5
    assert abs(columns[width:].mean() - 39.5) <= 0.5
    np.testing.assert_array_equal(drawn[~white], picture[~white])
    assert not (picture == 255).any()


def test_one_class_has_no_outline() -> None:
    picture = np.full((32, 48, 3), 100, np.uint8)
    np.testing.assert_array_equal(outline_regions(picture, np.full((32, 48), 7, np.uint8)), picture)
