"""Results in Matplotlib and supervision, and what is said where those are missing."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import pytest
import supervision as sv
from matplotlib.axes import Axes
from matplotlib.legend import Legend

from alignseg_infer.arrays import Floats, Labels
from alignseg_infer.datasets.class_tables import ADE20K, CITYSCAPES
from alignseg_infer.errors import OptionError
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.results.times import StageTimes

LABELS = np.array([[0, 0, 13, 13, 0], [0, 0, 13, 10, 10]], np.uint8).repeat(20, 0).repeat(20, 1)


def segmentation(labels: Labels = LABELS, confidence: Floats | None = None) -> Segmentation:
    image = np.full((*labels.shape, 3), (10, 110, 210), np.uint8)
    times = StageTimes(1.0, 2.0, 3.0, 4.0)
    return Segmentation(labels, image, CITYSCAPES, (64, 64), "fake", times, confidence)


def names_of(detections: sv.Detections) -> list[str]:
    return [str(name) for name in detections.data["class_name"]]


def legend_of(axes: Axes) -> Legend:
    """Of the figure, where a new one was made."""
    (key,) = axes.figure.legends
    return key


@pytest.fixture(autouse=True)
def _no_windows() -> Iterator[None]:
    mpl.use("agg")
    yield
    mpl.pyplot.close("all")


def test_plot_shows_the_overlay_in_rgb() -> None:
    result = segmentation()
    axes = result.plot(opacity=0.25)
    (shown,) = axes.get_images()
    np.testing.assert_array_equal(shown.get_array(), result.overlay(0.25, order="rgb"))


def test_a_new_figure_can_be_closed_as_documented() -> None:
    before = mpl.pyplot.get_fignums()
    figure = segmentation().plot().figure
    assert len(mpl.pyplot.get_fignums()) == len(before) + 1
    assert Segmentation.plot.__doc__ is not None
    assert "plt.close(result.plot().figure)" in Segmentation.plot.__doc__
    mpl.pyplot.close(figure)  # type: ignore[arg-type]
    assert mpl.pyplot.get_fignums() == before


def test_plot_draws_an_outline() -> None:
    (shown,) = segmentation().plot(outline=True).get_images()
    expected = segmentation().overlay(order="rgb", outline=True)
    np.testing.assert_array_equal(shown.get_array(), expected)


def test_plot_lists_the_classes() -> None:
    key = legend_of(segmentation().plot())
    texts = [text.get_text() for text in key.get_texts()]
    assert texts == ["road 50%", "car 30%", "sky 20%"]
    blue = key.get_patches()[1].get_facecolor()
    assert blue == pytest.approx((0, 0, 142 / 255, 1))


EVERYTHING = np.arange(19, dtype=np.uint8).reshape(1, 19)


@pytest.mark.parametrize(
    "labels",
    [EVERYTHING.repeat(8, 0).repeat(8, 1), EVERYTHING.repeat(200, 0), LABELS],
    ids=["low", "high", "few"],
)
def test_plot_legend_lies_within_the_figure(labels: Labels) -> None:
    axes = segmentation(labels).plot()
    axes.figure.canvas.draw()
    key = legend_of(axes)
    box = key.get_window_extent()
    frame = axes.figure.bbox
    assert frame.x0 <= box.x0 < box.x1 <= frame.x1
    assert frame.y0 <= box.y0 < box.y1 <= frame.y1
    assert box.x0 >= axes.get_window_extent().x1


def test_plot_leaves_no_empty_space_below() -> None:
    axes = segmentation().plot()
    axes.figure.canvas.draw()
    assert axes.get_window_extent().y0 < 0.05 * axes.figure.bbox.y1


def test_plot_of_more_classes_than_there_is_room_for() -> None:
    labels = np.repeat(np.arange(60, dtype=np.uint8), 4).reshape(60, 4)
    key = legend_of(replace(segmentation(labels), classes=ADE20K).plot())
    texts = [text.get_text() for text in key.get_texts()]
    assert len(texts) == 40
    assert texts[-1] == "and 21 more"


def test_plot_into_given_axes() -> None:
    _, (left, right) = mpl.pyplot.subplots(1, 2)
    assert segmentation().plot(right, legend=False) is right
    assert right.get_legend() is None
    key = segmentation().plot(right).get_legend()
    assert key is not None
    assert len(key.get_texts()) == 3
    assert not left.get_images()
    with pytest.raises(OptionError):
        segmentation().plot(right, opacity=2)


def test_classes_as_detections() -> None:
    result = segmentation()
    detections = result.to_supervision()
    assert isinstance(detections, sv.Detections)
    assert detections.class_id is not None
    assert detections.class_id.tolist() == [0, 13, 10]
    assert names_of(detections) == ["road", "car", "sky"]
    for mask, name in zip(np.asarray(detections.mask), names_of(detections), strict=True):
        np.testing.assert_array_equal(mask, result.mask(name))
    boxes = [[0, 0, 99, 39], [40, 0, 79, 39], [60, 20, 99, 39]]
    assert detections.xyxy.tolist() == boxes
    assert detections.confidence is None


def test_regions_as_detections() -> None:
    detections = segmentation().to_supervision(regions=True)
    assert names_of(detections) == ["road", "road", "sky", "car"]
    assert detections.area.tolist() == [1600, 400, 800, 1200]
    assert (np.asarray(detections.mask).sum(axis=0) == 1).all()


def test_confidence_is_the_mean_of_the_pixels() -> None:
    confidence = np.where(LABELS == 13, 0.25, 0.75).astype(np.float32)
    confidence[:, -20:] = 0.5
    detections = segmentation(confidence=confidence).to_supervision()
    assert detections.confidence == pytest.approx([0.7, 0.25, 0.625])
    regions = segmentation(confidence=confidence).to_supervision(regions=True)
    assert regions.confidence == pytest.approx([0.75, 0.5, 0.625, 0.25])


@pytest.mark.parametrize(("regions", "left"), [(False, ["road"]), (True, ["road"])])
def test_small_detections_are_left_out(regions: bool, left: list[str]) -> None:
    detections = segmentation().to_supervision(regions=regions, min_area=1500)
    assert names_of(detections) == left
    none = segmentation().to_supervision(regions=regions, min_area=10_000)
    assert len(none) == 0
    assert none.is_empty()


def test_supervision_draws_them() -> None:
    result = segmentation()
    colors = sv.ColorPalette([sv.Color(*color) for color in CITYSCAPES.colors])
    drawn = sv.MaskAnnotator(color=colors, opacity=1).annotate(
        result.image.copy(), result.to_supervision()
    )
    np.testing.assert_array_equal(drawn, result.color())


@pytest.mark.parametrize(
    ("package", "call", "said"),
    [
        ("matplotlib", "plot()", "pip install matplotlib"),
        ("supervision", "to_supervision()", "pip install 'supervision"),
    ],
)
def test_a_missing_package_is_named(package: str, call: str, said: str) -> None:
    """In a process of its own, where the package cannot be imported."""
    program = f"""
import sys
sys.modules["{package}"] = None
import numpy as np
from alignseg_infer import MissingDependencyError, Segmentation, StageTimes
from alignseg_infer.datasets.class_tables import ADE20K, CITYSCAPES
labels, image = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)
result = Segmentation(labels, image, CITYSCAPES, (8, 8), "fake", StageTimes(1, 1, 1, 1))
result._repr_png_()
try:
    result.{call}
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said in done.stdout


@pytest.mark.parametrize("as_array", [False, True])
def test_supervision_reads_our_coco_file(as_array: bool, tmp_path: Path) -> None:
    picture = tmp_path / "street.png"
    done, data = cv2.imencode(".png", np.full((*LABELS.shape, 3), 90, np.uint8))
    assert done
    picture.write_bytes(data.tobytes())
    result = replace(segmentation(), source=None if as_array else str(picture))
    (path,) = result.save(tmp_path / "street", formats=["coco"])
    dataset = sv.DetectionDataset.from_coco(str(tmp_path), str(path), force_masks=True)
    ((name, _, found),) = list(dataset)
    assert Path(name) == picture
    pairs: Any = zip(found.class_id, found.mask, strict=True)  # type: ignore[arg-type]
    masks = {dataset.classes[label]: mask for label, mask in pairs}
    for label in (0, 10, 13):
        np.testing.assert_array_equal(masks[CITYSCAPES.names[label]], label == LABELS)
