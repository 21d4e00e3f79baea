"""Colours of labels, by OpenCV's table and by NumPy's."""

import numpy as np
import pytest

from alignseg_infer.datasets.class_tables import ADE20K, CITYSCAPES, class_table_for
from alignseg_infer.drawing.masks import colorize
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
