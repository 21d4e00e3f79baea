"""What a Segmentation says, draws and saves."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.datasets import CITYSCAPES, class_table_for
from alignseg_infer.errors import OptionError, OutputError
from alignseg_infer.postprocess import Labels
from alignseg_infer.result import Segmentation, StageTimes
from alignseg_infer.spec import ClassSpec

TIMES = StageTimes(load=1.0, preprocess=2.0, infer=30.0, postprocess=4.5)
MANY = class_table_for(300)


def segmentation(labels: Labels, classes: ClassSpec = CITYSCAPES) -> Segmentation:
    return Segmentation(
        labels=labels,
        image=np.full((*labels.shape, 3), (10, 110, 210), np.uint8),
        classes=classes,
        input_size=(64, 64),
        backend="fake",
        times=TIMES,
    )


def halves(*values: int, dtype: type[np.unsignedinteger] = np.uint8) -> Labels:
    """(8, 8 * values) labels, one square block per value."""
    return np.repeat(np.array([values], dtype), 8, axis=0).repeat(8, axis=1)


def pixels_in(path: Path) -> NDArray[Any]:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def test_total_time() -> None:
    assert TIMES.total == 37.5


def test_class_share() -> None:
    shares = segmentation(np.array([[0, 13, 13, 13], [13, 0, 0, 10]], np.uint8)).class_share()
    assert list(shares.items()) == [("car", 0.5), ("road", 0.375), ("sky", 0.125)]


def test_class_share_of_equals_is_in_label_order() -> None:
    assert list(segmentation(halves(13, 0, 10)).class_share()) == ["road", "sky", "car"]


def test_class_share_sums_to_1() -> None:
    labels = np.random.default_rng(0).integers(0, 300, (37, 41)).astype(np.uint16)
    shares = list(segmentation(labels, MANY).class_share().values())
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("order", "car"),
    [({}, (142, 0, 0)), ({"order": "bgr"}, (142, 0, 0)), ({"order": "rgb"}, (0, 0, 142))],
)
def test_color(order: dict[str, str], car: tuple[int, int, int]) -> None:
    color = segmentation(halves(13)).color(**order)
    np.testing.assert_array_equal(color, np.full((8, 8, 3), car, np.uint8))


def test_color_follows_each_pixel() -> None:
    color = segmentation(halves(299, 0, 2, dtype=np.uint16), MANY).color("rgb")
    assert color[0, ::8].tolist() == [list(MANY.colors[299]), [0, 0, 0], [0, 128, 0]]


@pytest.mark.parametrize(
    ("alpha", "bgr"),
    [(0.0, (10, 110, 210)), (1.0, (142, 0, 0)), (0.5, (76, 55, 105)), (0.25, (43, 82.5, 157.5))],
)
def test_overlay(alpha: float, bgr: tuple[float, float, float]) -> None:
    """Car is (142, 0, 0) in BGR, the image (10, 110, 210); a half may go either way."""
    result = segmentation(halves(13))
    np.testing.assert_allclose(result.overlay(alpha), np.full((8, 8, 3), bgr), atol=0.5)
    np.testing.assert_array_equal(
        result.overlay(alpha, order="rgb"), result.overlay(alpha)[..., ::-1]
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_overlay_is_exact_at_the_ends(alpha: float) -> None:
    result = segmentation(halves(13, 0, 8))
    expected = result.color() if alpha else result.image
    np.testing.assert_array_equal(result.overlay(alpha), expected)


def test_refused_options() -> None:
    result = segmentation(halves(13))
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(OptionError):
            result.overlay(alpha)
    for draw in (result.color, lambda order: result.overlay(0.5, order)):
        with pytest.raises(OptionError):
            draw("bgra")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(halves(0, 13, 18), CITYSCAPES), (halves(0, 256, 299, dtype=np.uint16), MANY)],
    ids=["uint8", "uint16"],
)
def test_save(labels: Labels, classes: ClassSpec, tmp_path: Path) -> None:
    result = segmentation(labels, classes)
    paths = result.save(tmp_path / "new" / "folder" / "street.v1")
    names = ["street.v1_labels.png", "street.v1_color.png", "street.v1_overlay.jpg"]
    assert paths == [tmp_path / "new" / "folder" / name for name in names]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(paths)
    saved = pixels_in(paths[0])
    assert saved.dtype == labels.dtype
    np.testing.assert_array_equal(saved, labels)
    np.testing.assert_array_equal(pixels_in(paths[1]), result.color())
    overlay = pixels_in(paths[2]).astype(int)
    assert np.abs(overlay - result.overlay()).mean() < 8  # JPEG


def test_save_takes_a_string_and_replaces(tmp_path: Path) -> None:
    stem = str(tmp_path / "street")
    segmentation(halves(1)).save(stem)
    paths = segmentation(halves(2)).save(stem, alpha=0.0)
    np.testing.assert_array_equal(pixels_in(paths[0]), halves(2))
    assert np.abs(pixels_in(paths[2]).astype(int) - (10, 110, 210)).max() < 6
    assert len(list(tmp_path.iterdir())) == 3


def test_save_of_what_jpeg_cannot_hold(tmp_path: Path) -> None:
    """JPEG ends at 65500 pixels a side."""
    with pytest.raises(OutputError):
        segmentation(np.zeros((2, 70000), np.uint8)).save(tmp_path / "street")


def test_repr() -> None:
    text = repr(segmentation(halves(13, 13, 13, 0)))
    assert text == "Segmentation(8x32: car 75%, road 25%; 38 ms, fake)"
