"""What a Segmentation says, draws and saves."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.arrays import Labels
from alignseg_infer.datasets.class_tables import ADE20K, CITYSCAPES, class_table_for
from alignseg_infer.datasets.labelled import Dataset, label_table
from alignseg_infer.drawing.masks import draw_legend, share_text
from alignseg_infer.errors import OptionError, OutputError
from alignseg_infer.results.saving import SavedFormat, paths_to_save
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.results.times import StageTimes
from alignseg_infer.spec.model import ClassSpec

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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counts_of_an_image_larger_than_a_block(dtype: type[np.unsignedinteger]) -> None:
    labels = np.random.default_rng(0).integers(0, 19, (1500, 1501)).astype(dtype)
    counts = segmentation(labels).pixel_counts()
    expected = {name: int((labels == i).sum()) for i, name in enumerate(CITYSCAPES.names)}
    assert counts == expected
    assert sum(counts.values()) == labels.size


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


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_counting_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignseg_infer.results.segmentation.BLOCK", block)
    labels = np.random.default_rng(0).integers(0, 19, (37, 23), np.uint8)
    found = segmentation(labels).pixel_counts()
    expected = np.bincount(labels.ravel(), minlength=19)
    assert sorted(found.values()) == sorted(expected[expected > 0].tolist())
    assert sum(found.values()) == labels.size


def test_counting_takes_little_memory() -> None:
    result = segmentation(np.zeros((4000, 4000), np.uint8))
    tracemalloc.start()
    try:
        assert "16000000" not in repr(result)
        assert tracemalloc.get_traced_memory()[1] < 40e6  # 128e6 for all pixels at once
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_no_stem(kind: type, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    result = segmentation(halves(1))
    for stem in (kind(tmp_path / "out"), f"{tmp_path}/new/"):
        with pytest.raises(OptionError, match="names a folder") as caught:
            result.save(stem)
        assert "street" in caught.value.fix
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]
    assert len(result.save(kind(tmp_path / "out" / "street"))) == 3  # what the error advises


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
    paths = segmentation(halves(2)).save(stem, opacity=0.0)
    np.testing.assert_array_equal(pixels_in(paths[0]), halves(2))
    assert np.abs(pixels_in(paths[2]).astype(int) - (10, 110, 210)).max() < 6
    assert len(list(tmp_path.iterdir())) == 3


def test_save_with_an_outline(tmp_path: Path) -> None:
    result = segmentation(halves(0, 13))
    (path,) = result.save(tmp_path / "street", opacity=0.0, formats=["overlay"], outline=True)
    seen = pixels_in(path).astype(int)
    assert seen[:, 8].mean() > 200
    assert np.abs(seen[:, :5] - result.image[:, :5]).max() < 60


def test_save_of_what_jpeg_cannot_hold(tmp_path: Path) -> None:
    """JPEG ends at 65500 pixels a side."""
    with pytest.raises(OutputError):
        segmentation(np.zeros((2, 70000), np.uint8)).save(tmp_path / "street")


def test_save_of_everything(tmp_path: Path) -> None:
    result = segmentation(halves(0, 13, 13, 18))
    formats = [kind.value for kind in SavedFormat]
    paths = result.save(tmp_path / "street", formats=formats)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths == paths_to_save(tmp_path / "street", formats)
    files = dict(zip(formats, paths, strict=True))
    np.testing.assert_array_equal(pixels_in(files["label-ids"]), result.label_ids())
    polygons = json.loads(files["polygons"].read_text())
    assert (polygons["height"], polygons["width"]) == (8, 32)
    assert polygons["polygons"] == [polygon.to_dict() for polygon in result.polygons()]
    coco = json.loads(files["coco"].read_text())
    assert [{**one, "id": None} for one in coco["annotations"]] == [
        {**one, "id": None} for one in result.to_coco(image_id=1)
    ]
    assert json.loads(files["summary"].read_text()) == result.to_dict()


def test_saved_polygons_are_simplified_on_request(tmp_path: Path) -> None:
    canvas = np.zeros((64, 64), np.uint8)
    cv2.circle(canvas, (32, 32), 25, 1, cv2.FILLED)
    result = segmentation(canvas)
    (exact,) = result.save(tmp_path / "a", formats=["polygons"])
    (rough,) = result.save(tmp_path / "b", formats=["polygons"], tolerance=2)
    assert rough.stat().st_size < exact.stat().st_size / 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"formats": ["color", "polygon"]}, "'polygon'"),
        ({"formats": []}, "no format"),
        ({"formats": "overlay,color"}, "'overlay,color'"),
        ({"formats": ["polygons"], "tolerance": -1}, "tolerance=-1"),
        ({"formats": ["labels", "overlay"], "opacity": 2}, "opacity=2"),
    ],
)
def test_nothing_is_saved_with_refused_options(
    options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=problem):
        segmentation(halves(0)).save(tmp_path / "street", **options)
    assert not list(tmp_path.iterdir())


def test_one_format_as_text_and_none_twice() -> None:
    assert paths_to_save("a/b.c", "overlay") == [Path("a/b.c_overlay.jpg")]
    assert len(paths_to_save("a/b.c", ["coco", "color", "coco"])) == 2


def test_pixel_counts() -> None:
    counts = segmentation(np.array([[0, 13, 13, 13], [13, 0, 0, 10]], np.uint8)).pixel_counts()
    assert list(counts.items()) == [("car", 4), ("road", 3), ("sky", 1)]
    assert all(type(count) is int for count in counts.values())


@pytest.mark.parametrize("which", ["car", 13, np.uint8(13)])
def test_mask(which: str | int) -> None:
    mask = segmentation(halves(0, 13)).mask(which)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, halves(0, 1) == 1)
    assert not segmentation(halves(0)).mask(which).any()


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("cars", "did you mean 'car'"),
        ("CAR", "did you mean 'car'"),
        ("xyzzy", "result.classes"),
        (19, "labels 0 to 18"),
        (-1, "labels 0 to 18"),
        (1.0, "an integer"),
        (None, "an integer"),
    ],
)
def test_unknown_classes(which: Any, said: str) -> None:
    for ask in (segmentation(halves(0)).mask, segmentation(halves(0)).coco_rle):
        with pytest.raises(OptionError, match=said):
            ask(which)


def test_polygons_and_rle_have_the_names_and_labels() -> None:
    result = segmentation(halves(0, 13, 0))
    polygons = result.polygons()
    assert [polygon.name for polygon in polygons] == ["road", "road", "car"]
    assert len(result.polygons(min_area=65)) == 0
    rles = {one["category_id"]: one["segmentation"] for one in result.to_coco()}
    assert rles == {0: result.coco_rle("road"), 13: result.coco_rle(13)}


def test_label_ids_are_read_as_the_labels() -> None:
    labels = np.arange(19, dtype=np.uint8).reshape(1, 19)
    ids = segmentation(labels).label_ids()
    assert ids.dtype == np.uint8
    assert ids[0, [0, 1, 18]].tolist() == [7, 8, 33]
    np.testing.assert_array_equal(label_table(Dataset.CITYSCAPES, 19)[ids], labels)


def test_label_ids_of_other_classes(tmp_path: Path) -> None:
    reordered = replace(CITYSCAPES, names=CITYSCAPES.names[::-1])
    for classes in (ADE20K, MANY, reordered):
        result = segmentation(halves(0), classes)
        with pytest.raises(OptionError, match=classes.dataset):
            result.label_ids()
        with pytest.raises(OptionError):
            result.save(tmp_path / "street", formats=["labels", "label-ids"])
    assert not list(tmp_path.iterdir())


def test_dict_and_json() -> None:
    result = segmentation(halves(13, 0, 13))
    facts = result.to_dict()
    assert (facts["height"], facts["width"], facts["input_size"]) == (8, 24, [64, 64])
    assert facts["times_ms"]["total"] == 37.5
    assert (facts["backend"], facts["dataset"]) == ("fake", "cityscapes")
    assert [(one["label"], one["name"], one["pixels"]) for one in facts["classes"]] == [
        (13, "car", 128),
        (0, "road", 64),
    ]
    assert facts["classes"][0]["share"] == pytest.approx(2 / 3)
    assert facts["classes"][0]["color"] == [0, 0, 142]
    assert json.loads(result.to_json()) == facts
    with_masks = json.loads(result.to_json(rle=True))["classes"]
    assert [one.pop("rle") for one in with_masks] == [result.coco_rle(13), result.coco_rle(0)]
    assert with_masks == facts["classes"]


def boxes_in(picture: NDArray[np.uint8], classes: ClassSpec) -> list[tuple[int, int, str]]:
    """(row, column, class name) of the boxes of a BGR legend, which are 19x17 pixels."""
    names = {color[::-1]: name for name, color in zip(classes.names, classes.colors, strict=True)}
    boxes = []
    for top in range(6, picture.shape[0] - 17, 24):
        middle = picture[top + 8].astype(int)
        inside = [tuple(pixel) in names for pixel in middle.tolist()]
        for left in np.flatnonzero(np.diff(inside, prepend=False)):
            box = picture[top : top + 17, left : left + 19]
            name = names.get(tuple(box[0, 0].tolist()))  # None: smooth text, white beside it
            if name and box.shape[:2] == (17, 19) and (box == box[0, 0]).all():
                boxes.append((top, int(left), name))
    return boxes


def test_legend_shows_what_is_there_largest_first() -> None:
    result = segmentation(halves(13, 13, 13, 0, 10, 10))
    picture = result.legend(400)
    assert [name for _, _, name in boxes_in(picture, CITYSCAPES)] == ["car", "sky", "road"]
    np.testing.assert_array_equal(result.legend(400, "rgb"), picture[..., ::-1])
    assert picture.shape[1] == 400
    assert result.legend().shape[1] == 320


@pytest.mark.parametrize(
    ("width", "rows"), [(600, [4, 4, 4, 4, 3]), (1024, [7, 7, 5]), (64, [1] * 19)]
)
def test_rows_of_a_legend_are_of_one_length(width: int, rows: list[int]) -> None:
    boxes = boxes_in(draw_legend(CITYSCAPES, width), CITYSCAPES)
    tops = [top for top, _, _ in boxes]
    assert [tops.count(top) for top in sorted(set(tops))] == rows
    assert [name for _, _, name in boxes] == list(CITYSCAPES.names)


def test_the_size_of_a_legend_does_not_depend_on_the_shares() -> None:
    """The frames of a video have one size."""
    for width in range(64, 700, 7):
        shapes = {
            draw_legend(CITYSCAPES, width, dict.fromkeys(CITYSCAPES.names, share)).shape
            for share in (0.0, 0.001, 0.5, 1.0)
        }
        assert len(shapes) == 1, width


def test_a_class_without_pixels_is_pale_and_has_no_share() -> None:
    shares = dict.fromkeys(CITYSCAPES.names, 0.0) | {"car": 1.0}
    picture = draw_legend(CITYSCAPES, 600, shares)
    assert [name for _, _, name in boxes_in(picture, CITYSCAPES)] == ["car"]
    paler = 255 - 0.35 * (255 - np.array(CITYSCAPES.colors[0][::-1]))
    assert np.abs(picture[14, 14] - paler).max() < 1  # road, the first box


@pytest.mark.parametrize("width", [64, 150, 200, 600, 2048])
@pytest.mark.parametrize("classes", [CITYSCAPES, ADE20K], ids=["cityscapes", "ade20k"])
def test_no_name_of_a_legend_reaches_the_next(classes: ClassSpec, width: int) -> None:
    """Left of each box, and at the picture's right edge, there is white."""
    picture = draw_legend(classes, width)
    assert (picture[:, -1] == 255).all()
    columns = {left for _, left, _ in boxes_in(picture, classes)}
    assert columns
    for left in columns:
        assert (picture[:, max(0, left - 3) : left] == 255).all()


def test_text_of_a_legend_gets_smaller_only_where_no_name_fits() -> None:
    """The first row begins with *wall*; the longest of the names is *television receiver*."""
    first = [draw_legend(ADE20K, width)[:24, 28:60] for width in (4000, 600, 250, 100)]
    assert (first[0] != 255).any()
    np.testing.assert_array_equal(first[1], first[0])
    np.testing.assert_array_equal(first[2], first[0])
    assert (first[3] != first[0]).any()


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100%"), (0.376, "38%"), (0.01, "1%"), (0.0099, "<1%"), (0, "0%")]
)
def test_share_text(share: float, text: str) -> None:
    assert share_text(share) == text


def test_a_legend_too_narrow() -> None:
    with pytest.raises(OptionError, match="width=63"):
        segmentation(halves(0)).legend(63)


@pytest.mark.parametrize(("height", "width"), [(8, 24), (600, 90), (300, 3000)])
def test_notebooks_show_overlay_and_legend(height: int, width: int) -> None:
    labels = np.zeros((height, width), np.uint8)
    labels[: height // 2] = 13
    result = segmentation(labels)
    picture = cv2.imdecode(np.frombuffer(result._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert max(picture.shape) <= 1024
    shown = picture[: min(height, round(height * 1024 / width))]
    np.testing.assert_array_equal(shown[0, 0], result.overlay()[0, 0])
    np.testing.assert_array_equal(shown[-1, 0], result.overlay()[-1, 0])
    key = picture[len(shown) :].astype(np.uint8)
    np.testing.assert_array_equal(key, result.legend(picture.shape[1]))


def test_repr() -> None:
    text = repr(segmentation(halves(13, 13, 13, 0)))
    assert text == "Segmentation(8x32: car 75%, road 25%; 38 ms, fake)"
