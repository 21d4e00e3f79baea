"""Houses, walls and fences."""

from typing import NamedTuple

import numpy as np

from alignseg_infer.demo.streets.ground import FAR
from alignseg_infer.demo.streets.plants import draw_leaves
from alignseg_infer.demo.streets.view import NEAR, Color, Label, View, darken, pick

FACADES: tuple[Color, ...] = (
    (150, 175, 200), (120, 150, 190), (170, 185, 195), (95, 120, 165), (140, 165, 175),
    (185, 195, 205), (110, 135, 150), (100, 105, 150), (160, 160, 165), (145, 185, 205),
)  # fmt: skip
ROOFS: tuple[Color, ...] = ((60, 70, 130), (70, 70, 85), (50, 60, 100))
WALLS: tuple[Color, ...] = ((105, 110, 118), (80, 95, 130), (125, 130, 135), (70, 80, 105))
FENCES: tuple[Color, ...] = ((70, 75, 70), (85, 110, 140), (175, 180, 180), (65, 85, 60))
GLASS: tuple[Color, ...] = ((105, 90, 75), (80, 70, 60), (150, 135, 115), (120, 165, 190))


class _House(NamedTuple):
    """What a house looks like; lengths in metres.

    Attributes:
        x: Position of the facade, which runs along the street.
        sides: Left and right end of the front, which runs across the street.
        floors: How many floors it has.
        story: Height of a floor.
        spacing: Distance from window to window.
        color: Colour of the walls.
        glass: Colour of the windows.
        lit: Brightness of the front and of the facade.
    """

    x: float
    sides: tuple[float, float]
    floors: int
    story: float
    spacing: float
    color: Color
    glass: Color
    lit: tuple[float, float]

    @property
    def height(self) -> float:
        """Height of the eaves."""
        return self.floors * self.story


def draw_building(
    view: View, rng: np.random.Generator, x: float, depths: tuple[float, float]
) -> None:
    """Draw a house with its facade along the street at `x`; it extends away from the road."""
    color, floors = pick(rng, FACADES), int(rng.integers(2, 8))
    story, plinth = rng.uniform(2.8, 3.6), pick(rng, FACADES, 0.3)
    outward = (1 if x > 0 else -1) * rng.uniform(8, 14)
    lit = (0.82, 1.0) if rng.random() < 0.5 else (1.0, 0.85)
    sides = (min(x, x + outward), max(x, x + outward))
    glass, spacing = pick(rng, GLASS), rng.uniform(2.2, 3.4)
    roof = pick(rng, ROOFS) if rng.random() < 0.45 else None
    house = _House(x, sides, floors, story, spacing, color, glass, lit)
    if depths[1] <= NEAR:
        return
    if depths[0] > NEAR:
        _draw_front(view, house, depths[0], with_gable=roof is not None)
    height = house.height
    view.wall(x, (0, height), depths, color, Label.BUILDING, brightness=lit[1])
    view.wall(x, (0, story), depths, plinth, None, brightness=lit[1])
    if roof is not None:
        _draw_roof(view, (x, x + outward / 2), height, depths, roof)
    else:
        view.wall(x, (height - 0.4, height), depths, darken(color), None, brightness=lit[1])
    _draw_facade_windows(view, house, depths)


def _draw_front(view: View, house: _House, z: float, *, with_gable: bool) -> None:
    """Draw the side of a house that faces the camera."""
    (left_end, right_end), lit = house.sides, house.lit[0]
    view.front(house.sides, (0, house.height), z, house.color, Label.BUILDING, brightness=lit)
    for level in range(house.floors if z < 60 else 0):
        heights = (level * house.story + 0.9, (level + 1) * house.story - 0.7)
        for left in np.arange(left_end + 1, right_end - 1.5, house.spacing):
            view.front((left, left + 1.2), heights, z, house.glass, None, brightness=lit)
    if with_gable:
        eaves, middle = house.height, (left_end + right_end) / 2
        gable = [(left_end, eaves, z), (middle, eaves + 3, z), (right_end, eaves, z)]
        view.polygon(gable, house.color, Label.BUILDING, brightness=lit)


def _draw_facade_windows(view: View, house: _House, depths: tuple[float, float]) -> None:
    x, lit = house.x, house.lit[1]
    for level in range(house.floors):
        bottom, top = level * house.story + 0.8, (level + 1) * house.story - 0.6
        for z in np.arange(depths[0] + 0.8, depths[1] - 1.6, house.spacing):
            if NEAR < z < 75:
                view.wall(x, (bottom, top), (z, z + 1.3), house.glass, None, brightness=lit)
                if z < 25:
                    sill = (bottom - 0.12, bottom)
                    view.wall(x, sill, (z, z + 1.3), house.color, None, brightness=1.15)


def _draw_roof(
    view: View,
    sides: tuple[float, float],
    height: float,
    depths: tuple[float, float],
    color: Color,
) -> None:
    (eaves, ridge), near, far = sides, max(depths[0], NEAR), depths[1]
    top = height + 3
    corners = [(eaves, height, near), (ridge, top, near), (ridge, top, far), (eaves, height, far)]
    view.polygon(corners, color, Label.BUILDING)


def draw_wall(view: View, rng: np.random.Generator, x: float, depths: tuple[float, float]) -> None:
    """Draw a wall of stone or brick along the street, with courses and a coping."""
    color, height = pick(rng, WALLS), rng.uniform(1.6, 2.8)
    view.wall(x, (0, height), depths, color, Label.WALL)
    course = rng.uniform(0.25, 0.5)
    for number, y in enumerate(np.arange(course, height, course)):
        if max(depths[0], NEAR) > 35:
            break
        view.wall(x, (y, y + 0.03), depths, darken(color), None)
        for z in np.arange(depths[0] + (number % 2) * 0.4, min(depths[1], 15.0), 0.8):
            view.wall(x, (y - course, y), (z, z + 0.03), darken(color), None)
    view.wall(x, (height - 0.14, height), depths, color, None, brightness=1.2)


def draw_fence(view: View, rng: np.random.Generator, x: float, depths: tuple[float, float]) -> None:
    """Draw rails and pickets. As in Cityscapes, gaps are labelled fence, but one sees through."""
    color, height, gap = pick(rng, FENCES), rng.uniform(1.2, 2.0), rng.uniform(0.22, 0.4)
    near, far = max(depths[0], NEAR), depths[1]
    if far <= near:
        return
    corners = [(x, 0, near), (x, height, near), (x, height, far), (x, 0, far)]
    view.flat_polygon(view.project(corners), None, Label.FENCE)
    for z in np.arange(depths[0], far, gap if near < 30 else 3 * gap):
        if z > NEAR:
            view.wall(x, (0, height), (z, z + gap * 0.42), color, Label.FENCE)
    for y in (0.15, height - 0.22):
        view.wall(x, (y, y + 0.16), depths, color, Label.FENCE, brightness=0.9)


def draw_skyline(view: View, rng: np.random.Generator) -> None:
    """Draw the roofs and trees at the far end of the street."""
    for _ in range(26):
        x, width = rng.uniform(-75, 75), rng.uniform(8, 20)
        height = rng.uniform(3, 13)
        if rng.random() < 0.55:
            color = pick(rng, FACADES)
            view.front((x, x + width), (0, height), FAR - 5, color, Label.BUILDING)
        else:
            draw_leaves(view, rng, (x, height * 0.4, FAR - 10), (width * 0.5, height * 0.45), 6)
