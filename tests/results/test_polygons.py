"""Polygons: exact outlines of regions, their holes and areas."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alignseg_infer.arrays import Labels
from alignseg_infer.datasets.class_tables import class_table_for
from alignseg_infer.errors import OptionError
from alignseg_infer.results.polygons import Polygon, polygons_of

NAMES = class_table_for(300).names


def drawn(*rows: str) -> Labels:
    """``.`` is label 0, ``#`` label 1."""
    return np.array([[character == "#" for character in row] for row in rows]).astype(np.uint8)


def found(labels: Labels, label: int = 1, **options: float) -> list[Polygon]:
    every = polygons_of(labels, NAMES, **options)  # type: ignore[arg-type]
    return [polygon for polygon in every if polygon.label == label]


def assert_exact(labels: Labels) -> None:
    """The regions are disjoint, cover the image, and are what ``connectedComponents`` finds."""
    covered = np.zeros(labels.shape, np.int64)
    polygons = polygons_of(labels, NAMES)
    for polygon in polygons:
        mask = polygon.mask(labels.shape)
        covered += mask
        assert polygon.area == mask.sum()
        assert polygon.name == NAMES[polygon.label]
        assert (labels[mask] == polygon.label).all()
        for outline in (polygon.exterior, *polygon.holes):
            assert mask[outline[:, 1], outline[:, 0]].all()
    assert (covered == 1).all()
    for label in np.unique(labels):
        count, _ = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=8)
        assert sum(polygon.label == label for polygon in polygons) == count - 1


SIDES = st.integers(1, 12)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.integers(0, 2)))
def test_random_regions_are_exact(labels: Labels) -> None:
    assert_exact(labels)


@settings(deadline=None)
@given(
    hnp.arrays(np.uint16, st.tuples(SIDES, SIDES), elements=st.sampled_from([0, 299])),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_coarse_regions_are_exact(labels: Labels, down: int, right: int) -> None:
    assert_exact(labels.repeat(down, axis=0).repeat(right, axis=1))


def test_what_a_network_gives_is_exact() -> None:
    noise = np.random.default_rng(0).normal(size=(19, 9, 17)).astype(np.float32)
    smooth = [cv2.resize(one, (170, 90), interpolation=cv2.INTER_CUBIC) for one in noise]
    assert_exact(np.argmax(smooth, axis=0).astype(np.uint8))


@pytest.mark.parametrize(
    ("labels", "areas", "holes"),
    [
        (drawn("#"), [1], [0]),
        (drawn("##"), [2], [0]),
        (drawn("....", ".#..", "...."), [1], [0]),
        (drawn("#..", ".#.", "..#"), [3], [0]),  # diagonal neighbours hang together
        (drawn("#.#", "...", "#.#"), [1, 1, 1, 1], [0, 0, 0, 0]),
        (drawn("###", "#.#", "###"), [8], [1]),
        (drawn(".#.", "#.#", ".#."), [4], [1]),
        (drawn("#####", "#...#", "#.#.#", "#...#", "#####"), [16, 1], [1, 0]),
        (drawn("#####", "#.#.#", "#####"), [13], [2]),
        (drawn("####", "#..#", "#.##", "####"), [13], [1]),  # a corner of it reaches into the hole
        (drawn("####", "####", "##.#"), [11], [0]),  # a notch at the border is no hole
        (drawn("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"),
         [24, 8], [1, 1]),
    ],
)  # fmt: skip
def test_regions(labels: Labels, areas: list[int], holes: list[int]) -> None:
    polygons = found(labels)
    assert [polygon.area for polygon in polygons] == areas
    assert [len(polygon.holes) for polygon in polygons] == holes
    assert_exact(labels)


def test_coordinates_are_x_y_of_pixel_centres() -> None:
    (ring,) = found(drawn("......", ".####.", ".#..#.", ".####.", "......", "......"))
    assert ring.exterior.dtype == ring.holes[0].dtype == np.int32
    assert sorted(ring.exterior.tolist()) == [[1, 1], [1, 3], [4, 1], [4, 3]]
    beside_the_hole = [[1, 2], [2, 1], [2, 3], [3, 1], [3, 3], [4, 2]]
    assert sorted(ring.holes[0].tolist()) == beside_the_hole


def test_order_is_by_label_then_largest_first() -> None:
    labels = np.array([[2, 2, 0, 1, 0, 1, 1, 0, 2, 2, 2]], np.uint8)
    order = [(polygon.label, polygon.area) for polygon in polygons_of(labels, NAMES)]
    assert order == [(0, 1), (0, 1), (0, 1), (1, 2), (1, 1), (2, 3), (2, 2)]


def test_small_regions_are_left_out_by_their_pixels() -> None:
    labels = drawn("####...", "#..#.#.", "####...")  # 10 pixels around 2, and 1 pixel
    assert [polygon.area for polygon in found(labels, min_area=2)] == [10]
    assert [polygon.area for polygon in found(labels, min_area=10)] == [10]
    assert found(labels, min_area=11) == []
    assert len(found(labels, min_area=2)[0].holes) == 1


def test_simplified_outlines_are_shorter_and_near() -> None:
    canvas = np.zeros((200, 300), np.uint8)
    cv2.circle(canvas, (150, 100), 90, 1, cv2.FILLED)
    cv2.circle(canvas, (150, 100), 40, 0, cv2.FILLED)
    cv2.circle(canvas, (150, 20), 1, 0, cv2.FILLED)  # gone at a tolerance of 3
    (exact,), (rough,) = found(canvas), found(canvas, tolerance=3)
    assert (len(exact.holes), len(rough.holes)) == (2, 1)
    assert len(rough.exterior) < len(exact.exterior) / 4
    assert rough.area == exact.area == canvas.sum()
    wrong = rough.mask(canvas.shape) != (canvas == 1)
    edges = cv2.distanceTransform((wrong * 255).astype(np.uint8), cv2.DIST_L2, 5)
    assert wrong.any()
    assert edges.max() <= 3


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": -0.5},
        {"tolerance": float("nan")},
        {"tolerance": float("inf")},
        {"min_area": -1},
        {"min_area": float("nan")},
    ],
)
def test_refused_options(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        polygons_of(drawn("#."), NAMES, **options)  # type: ignore[arg-type]


def test_dict_is_json() -> None:
    (ring,) = found(drawn("###", "#.#", "###"))
    facts = ring.to_dict()
    assert (facts["label"], facts["name"], facts["area"]) == (1, "class 1", 8)
    assert facts["exterior"] == ring.exterior.tolist()
    assert facts["holes"] == [hole.tolist() for hole in ring.holes]


@pytest.mark.parametrize("view", [lambda a: a[::2, ::3], lambda a: a.T, np.asfortranarray])
def test_any_memory_layout(view: Callable[[Labels], Labels]) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (30, 40)).astype(np.uint8)
    assert_exact(view(labels))
