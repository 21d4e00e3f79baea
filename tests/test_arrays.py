"""Plain Python values from what callers give."""

from typing import Any

import numpy as np
import pytest

from alignseg_infer.arrays import Image, plain_value
from alignseg_infer.errors import OptionError
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.predictor import Predictor
from alignseg_infer.video.options import VideoOptions
from tests.support.models import FakeBackend


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.25), 0.25),
        (np.bool_(True), True),
        (np.array([1, 2]), (1, 2)),
        (np.array(7), 7),
        ([1, [np.int8(2)]], (1, (2,))),
        ("native", "native"),
        (None, None),
    ],
)
def test_plain_value(given: object, expected: object) -> None:
    found = plain_value(given)
    assert found == expected
    assert type(found) is type(expected)


def test_images_stay_arrays() -> None:
    images = [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    found = plain_value(images)
    assert found[0] is images[0]
    assert found[1] is images[1]


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"batch": np.int64(2)}, {"batch": 2}),
        ({"size": tuple(np.array([128, 256]))}, {"size": (128, 256)}),
        ({"size": np.int64(256)}, {"size": 256}),
        ({"size": [128, 256]}, {"size": (128, 256)}),
        ({"mode": "slide", "tile": np.int64(64)}, {"mode": "slide", "tile": 64}),
        ({"mode": "slide", "tile": [64, 32]}, {"mode": "slide", "tile": (64, 32)}),
        (
            {"mode": "slide", "tile": 64, "overlap": np.float32(0.25)},
            {"mode": "slide", "tile": 64, "overlap": 0.25},
        ),
        ({"scales": np.array([0.5, 1.0])}, {"scales": (0.5, 1.0)}),
        ({"flip": np.bool_(True)}, {"flip": True}),
    ],
)
def test_predictor_takes_numbers_of_numpy(
    given: dict[str, Any], plain: dict[str, Any], image: Image
) -> None:
    one, other = Predictor(FakeBackend(), **given), Predictor(FakeBackend(), **plain)
    np.testing.assert_array_equal(one(image).labels, other(image).labels)
    assert one._stages.policy == other._stages.policy
    assert one._stages.averaging == other._stages.averaging
    assert one.batch == other.batch


def test_options_take_numbers_of_numpy() -> None:
    options = ExportOptions(size=[64, 96], batch=np.int64(1))  # type: ignore[arg-type]
    assert options == ExportOptions(size=(64, 96), batch=1)
    assert type(options.batch) is int
    video = VideoOptions(crf=np.int64(3), opacity=np.float32(0.5), max_frames=np.int8(4))  # type: ignore[arg-type]
    assert (video.crf, video.max_frames) == (3, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": np.float64(2.0)},
        {"size": np.array([1.5, 2.0])},
        {"flip": np.int64(1)},
        {"scales": np.array(["1"])},
        {"batch": np.bool_(True)},
    ],
)
def test_wrong_kinds_of_numbers_are_still_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Predictor(FakeBackend(), **options)
