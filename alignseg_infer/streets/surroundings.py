"""What stands still: sky, ground, buildings, walls, fences, plants, poles."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.streets.view import (
    NEAR,
    SUPERSAMPLING,
    Color,
    Label,
    View,
    pick,
)

FAR = 110.0  # metres; the street ends in the skyline here
_TEXTURE = 256  # side of the repeating ground texture

FACADES: tuple[Color, ...] = (
    (150, 175, 200), (120, 150, 190), (170, 185, 195), (95, 120, 165), (140, 165, 175),
    (185, 195, 205), (110, 135, 150), (100, 105, 150), (160, 160, 165), (145, 185, 205),
)  # fmt: skip
ROOFS: tuple[Color, ...] = ((60, 70, 130), (70, 70, 85), (50, 60, 100))
WALLS: tuple[Color, ...] = ((105, 110, 118), (80, 95, 130), (125, 130, 135), (70, 80, 105))
FENCES: tuple[Color, ...] = ((70, 75, 70), (85, 110, 140), (175, 180, 180), (65, 85, 60))
GREENS: tuple[Color, ...] = (
    (45, 95, 60),
    (40, 110, 75),
    (50, 85, 50),
    (45, 120, 95),
    (40, 105, 110),
)
TRUNKS: tuple[Color, ...] = ((45, 60, 80), (60, 70, 85))
METALS: tuple[Color, ...] = ((95, 95, 95), (70, 72, 70), (130, 130, 128), (60, 75, 60))
GLASS: tuple[Color, ...] = ((105, 90, 75), (80, 70, 60), (150, 135, 115), (120, 165, 190))


@dataclass(frozen=True)
class Ground:
    """Strips of ground by their edges, in metres from the road's middle, and their colours.

    Attributes:
        road: Left and right edge.
        sidewalks: Left and right edge of each.
        track: Left and right edge of a tram's track, if there is one.
        lanes: Where dashed lines run.
        crossing: Distance of a zebra crossing, if there is one ahead.
        colors: Of road, sidewalk and terrain.
    """

    road: tuple[float, float]
    sidewalks: tuple[tuple[float, float], ...]
    track: tuple[float, float] | None
    lanes: tuple[float, ...]
    crossing: float | None
    colors: tuple[Color, Color, Color]


def draw_sky(view: View, rng: np.random.Generator, drift: float) -> None:
    """Gradient and clouds; the clouds move with `drift` (radians)."""
    rows = int(np.clip(view.horizon + 2, 1, view.height))
    share = np.linspace(0, 1, rows)[:, np.newaxis] ** 0.8
    top, bottom = (np.array(color) for color in view.atmosphere.sky)
    view.image[:rows] = (top + (bottom - top) * share)[:, np.newaxis]
    view.labels[:rows] = Label.SKY
    white = np.clip(bottom * 1.12 + 8, 0, 255)
    for _ in range(int(view.atmosphere.clouds * 14)):
        angle, up, width = rng.uniform(-0.9, 0.9), rng.uniform(0.02, 1), rng.uniform(0.03, 0.12)
        column = view.width / 2 + (angle + drift) * view.width
        tint = tuple(float(c) for c in top + (white - top) * rng.uniform(0.5, 0.95))
        for _ in range(5):
            shift = rng.normal(0, width * view.width, 2) * (1, 0.12)
            center = (column + shift[0], rows * (1 - up) + shift[1])
            axes = (width * view.width * rng.uniform(0.5, 1), width * view.width * 0.16)
            view.flat_ellipse(center, axes, (tint[0], tint[1], tint[2]), None)
    view.image[rows:] = bottom
    view.image[:rows] = cv2.GaussianBlur(view.image[:rows], (0, 0), view.width / 250)


def draw_ground(view: View, ground: Ground, travelled: float) -> None:
    """Road, sidewalks, terrain and markings; `travelled` metres anchor them to the street."""
    road, sidewalk, terrain = ground.colors
    first = int(np.clip(np.ceil(view.horizon), 0, view.height))
    view.image[first:] = view.shaded(terrain, 40.0)
    view.labels[first:] = Label.TERRAIN
    _strip(view, (-60, 60), terrain, Label.TERRAIN)
    for edges in ground.sidewalks:
        _strip(view, edges, sidewalk, Label.SIDEWALK)
        inner = min(edges, key=abs)
        outward = 0.18 if inner > 0 else -0.18
        _strip(view, (inner, inner + outward), jittered_down(sidewalk), None)
        _slabs(view, edges, sidewalk, travelled)
    _strip(view, ground.road, road, Label.ROAD)
    if ground.track is not None:
        _strip(view, ground.track, terrain, Label.TERRAIN)
        middle = sum(ground.track) / 2
        for rail in (middle - 0.72, middle + 0.72):
            _strip(view, (rail - 0.1, rail + 0.1), (70, 75, 85), None)
    _markings(view, ground, travelled)


def jittered_down(color: Color) -> Color:
    """`color`, a fifth darker."""
    return color[0] * 0.8, color[1] * 0.8, color[2] * 0.8


def _strip(view: View, edges: tuple[float, float], color: Color, label: Label | None) -> None:
    """A strip of ground along the whole street, in pieces so that it bends and fades."""
    depths = np.geomspace(NEAR, FAR, 18)
    for near, far in itertools.pairwise(depths):
        view.floor(edges, (near, far), color, label)


def _slabs(view: View, edges: tuple[float, float], color: Color, travelled: float) -> None:
    """Joints across a sidewalk, every two metres."""
    for z in np.arange(2.0 - travelled % 2.0, 18.0, 2.0):
        view.floor(edges, (z, z + 0.06), jittered_down(color), None)


def _markings(view: View, ground: Ground, travelled: float) -> None:
    white = (205.0, 208.0, 210.0)
    for x in ground.lanes:
        for z in np.arange(-(travelled % 6.0), 60.0, 6.0):
            view.floor((x - 0.08, x + 0.08), (z, z + 3.0), white, None)
    for x in (ground.road[0] + 0.25, ground.road[1] - 0.25):
        _strip(view, (x - 0.06, x + 0.06), white, None)
    if ground.crossing is not None and ground.crossing < 50:
        for x in np.arange(ground.road[0] + 0.5, ground.road[1] - 0.5, 1.0):
            view.floor((x, x + 0.5), (ground.crossing, ground.crossing + 3.0), white, None)


def texture_ground(view: View, travelled: float, shadows: Sequence[tuple[float, ...]]) -> None:
    """Grain that lies on the ground and fades with distance, and the sun's shadows.

    Args:
        view: Holds the plain ground.
        travelled: Metres, anchors the grain to the street.
        shadows: (left, right, near, far) on the ground, metres.
    """
    first = int(np.clip(view.horizon + view.height * 0.01, 0, view.height - 1))
    rows = np.arange(first, view.height, dtype=np.float32)[:, np.newaxis]
    columns = np.arange(view.width, dtype=np.float32)[np.newaxis]
    z = view.focal * view.camera.height / (rows - view.horizon + 0.5)
    x = (columns - view.width / 2) * z / view.focal + view.camera.x - view.camera.bend * z * z
    across = np.mod(x * 24, _TEXTURE).astype(np.float32)
    along = np.broadcast_to(np.mod((z + travelled) * 24, _TEXTURE), across.shape)
    grain = cv2.remap(
        _grain(), across, along.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    factor: NDArray[np.float32] = np.asarray(1 + grain * np.minimum(1, 7 / z), np.float32)
    if shadows and view.atmosphere.shadow < 1:
        factor *= _shadow(view, shadows)[first:]
    ground = view.image[first:]
    is_ground = view.labels[first:] != Label.SKY
    factor[~is_ground] = 1
    scaled = ground * factor[..., np.newaxis]
    view.image[first:] = np.clip(scaled, 0, 255).astype(np.uint8)


@cache
def _grain() -> NDArray[np.float32]:
    """Repeating noise about zero, fine and coarse."""
    rng = np.random.default_rng(1)
    fine = rng.normal(0, 0.05, (_TEXTURE, _TEXTURE))
    coarse = cv2.resize(rng.normal(0, 0.05, (16, 16)), (_TEXTURE, _TEXTURE))
    return (fine + coarse).astype(np.float32)


def _shadow(view: View, shadows: Sequence[tuple[float, ...]]) -> NDArray[np.float32]:
    mask = np.full((view.height, view.width), 255, np.uint8)
    for left, right, begin, end in shadows:
        near, far = max(begin, NEAR), min(end, FAR)
        if far > near:
            corners = [(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)]
            pixels = np.clip(np.array(view.project(corners)), -16000, 16000)
            cv2.fillPoly(mask, [np.rint(pixels).astype(np.int32)], 255 * view.atmosphere.shadow)
    soft = cv2.GaussianBlur(mask, (0, 0), SUPERSAMPLING * 1.5)
    return np.asarray(soft, np.float32) / np.float32(255)


def draw_skyline(view: View, rng: np.random.Generator) -> None:
    """What closes the street far away: roofs and trees."""
    for _ in range(26):
        x, width = rng.uniform(-75, 75), rng.uniform(8, 20)
        height = rng.uniform(3, 13)
        if rng.random() < 0.55:
            color = pick(rng, FACADES)
            view.front((x, x + width), (0, height), FAR - 5, color, Label.BUILDING)
        else:
            _blobs(view, rng, (x, height * 0.4, FAR - 10), (width * 0.5, height * 0.45), 6)


def draw_building(
    view: View,
    rng: np.random.Generator,
    x: float,
    depths: tuple[float, float],
    *,
    with_front: bool = True,
) -> None:
    """A house whose facade lies along the street at `x`, its depth pointing away from the road."""
    color, floors = pick(rng, FACADES), int(rng.integers(2, 8))
    story, plinth = rng.uniform(2.8, 3.6), pick(rng, FACADES, 0.3)
    height, outward = floors * story, (1 if x > 0 else -1) * rng.uniform(8, 14)
    lit = (0.82, 1.0) if rng.random() < 0.5 else (1.0, 0.85)
    sides = (min(x, x + outward), max(x, x + outward))
    glass, spacing = pick(rng, GLASS), rng.uniform(2.2, 3.4)
    roof = pick(rng, ROOFS) if rng.random() < 0.45 else None
    if depths[1] <= NEAR:
        return
    if with_front and depths[0] > NEAR:
        view.front(sides, (0, height), depths[0], color, Label.BUILDING, brightness=lit[0])
        for level in range(floors if depths[0] < 60 else 0):
            y = level * story
            for left in np.arange(sides[0] + 1, sides[1] - 1.5, spacing):
                window = ((left, left + 1.2), (y + 0.9, y + story - 0.7))
                view.front(*window, depths[0], glass, None, brightness=lit[0])
        if roof is not None:
            middle, eaves = sum(sides) / 2, depths[0]
            gable = [(sides[0], height, eaves), (middle, height + 3, eaves)]
            gable.append((sides[1], height, eaves))
            view.polygon(gable, color, Label.BUILDING, brightness=lit[0])
    view.wall(x, (0, height), depths, color, Label.BUILDING, brightness=lit[1])
    view.wall(x, (0, story), depths, plinth, None, brightness=lit[1])
    if roof is not None:
        _roof(view, (x, x + outward / 2), height, depths, roof)
    else:
        view.wall(x, (height - 0.4, height), depths, jittered_down(color), None, brightness=lit[1])
    for level in range(floors):
        heights = (level * story + 0.8, (level + 1) * story - 0.6)
        for z in np.arange(depths[0] + 0.8, depths[1] - 1.6, spacing):
            if NEAR < z < 75:
                view.wall(x, heights, (z, z + 1.3), glass, None, brightness=lit[1])
                if z < 25:
                    view.wall(
                        x,
                        (heights[0] - 0.12, heights[0]),
                        (z, z + 1.3),
                        color,
                        None,
                        brightness=1.15,
                    )


def _roof(
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
    """A wall of stone or brick along the street, with courses and a coping."""
    color, height = pick(rng, WALLS), rng.uniform(1.6, 2.8)
    view.wall(x, (0, height), depths, color, Label.WALL)
    course = rng.uniform(0.25, 0.5)
    for number, y in enumerate(np.arange(course, height, course)):
        if max(depths[0], NEAR) > 35:
            break
        view.wall(x, (y, y + 0.03), depths, jittered_down(color), None)
        for z in np.arange(depths[0] + (number % 2) * 0.4, min(depths[1], 15.0), 0.8):
            view.wall(x, (y - course, y), (z, z + 0.03), jittered_down(color), None)
    view.wall(x, (height - 0.14, height), depths, color, None, brightness=1.2)


def draw_fence(view: View, rng: np.random.Generator, x: float, depths: tuple[float, float]) -> None:
    """Rails and pickets. As in Cityscapes, the gaps count as fence; the image shows through."""
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


def draw_hedge(view: View, rng: np.random.Generator, x: float, depths: tuple[float, float]) -> None:
    """A clipped hedge along the street."""
    color, height = pick(rng, GREENS), rng.uniform(1.0, 2.0)
    view.wall(x, (0, height), depths, color, Label.VEGETATION)
    near, far = max(depths[0], NEAR), depths[1]
    if far <= near:
        return
    for _ in range(int(26 * min(1.0, 15 / near))):
        z, y = rng.uniform(near, far), rng.uniform(0.1, height)
        size = rng.uniform(0.1, 0.25) * view.scale(z)
        shade = view.shaded(color, z, rng.uniform(0.7, 1.3))
        view.flat_ellipse(view.spot(x, y, z), (size * 0.7, size), shade, Label.VEGETATION)


def draw_tree(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """A trunk and a crown of leaves; all of it is vegetation, as in Cityscapes."""
    height, girth, crown = rng.uniform(4, 8.5), rng.uniform(0.2, 0.45), rng.uniform(1.4, 2.8)
    trunk = pick(rng, TRUNKS)
    sides = (x - girth / 2, x + girth / 2)
    view.front(sides, (0, height * 0.7), z, trunk, Label.VEGETATION)
    _blobs(view, rng, (x, height * 0.75, z), (crown, height * 0.3), 26 if z < 35 else 12)


def draw_bush(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """A low plant."""
    radius = rng.uniform(0.4, 0.9)
    _blobs(view, rng, (x, radius * 0.8, z), (radius * 1.2, radius * 0.7), 12)


def _blobs(
    view: View,
    rng: np.random.Generator,
    center: tuple[float, float, float],
    radii: tuple[float, float],
    count: int,
) -> None:
    x, y, z = center
    color = pick(rng, GREENS)
    scale = view.scale(z)
    view.flat_ellipse(
        view.spot(*center),
        (radii[0] * 0.75 * scale, radii[1] * 0.8 * scale),
        view.shaded(color, z, 0.8),
        Label.VEGETATION,
    )
    for index in range(count):
        angle, out = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()) * 0.75
        side, up = radii[0] * out * np.cos(angle), radii[1] * out * np.sin(angle)
        size = rng.uniform(0.2, 0.38) * scale
        brightness = 0.72 + 0.3 * index / count + 0.16 * up / radii[1] + rng.uniform(-0.1, 0.1)
        view.flat_ellipse(
            view.spot(x + side, y + up, z),
            (radii[0] * size, radii[1] * size * rng.uniform(0.7, 1)),
            view.shaded(color, z, brightness),
            Label.VEGETATION,
        )


def draw_lamp(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """A street lamp that reaches over the road."""
    color, height = pick(rng, METALS), rng.uniform(5, 7.5)
    width, reach = rng.uniform(0.2, 0.3), -np.sign(x) * rng.uniform(1.2, 2.2)
    view.line([(x, 0, z), (x, height, z), (x + reach, height + 0.4, z)], width, color, Label.POLE)
    head = (x + reach * 0.8, x + reach * 1.25)
    view.front(
        (min(head), max(head)), (height + 0.3, height + 0.55), z, color, Label.POLE, brightness=1.3
    )


def draw_sign(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign on its pole: a disc, a triangle or a plate, sometimes two of them."""
    y, size = rng.uniform(2.3, 3.0), rng.uniform(0.42, 0.55)
    width = rng.uniform(0.14, 0.2)
    view.line([(x, 0, z), (x, y + size, z)], width, pick(rng, METALS), Label.POLE)
    _plate(view, rng, (x, y, z), size)
    if rng.random() < 0.4:
        _plate(view, rng, (x, y - 2 * size, z), size * 0.9)


def _plate(
    view: View, rng: np.random.Generator, center: tuple[float, float, float], size: float
) -> None:
    x, y, z = center
    red, blue, yellow, white = (45, 40, 200), (185, 95, 30), (40, 190, 235), (235, 235, 235)
    kind, label = rng.integers(4), Label.TRAFFIC_SIGN
    pixels = size * view.scale(z)
    middle = view.spot(*center)
    if kind == 0:
        view.flat_ellipse(middle, (pixels, pixels), view.shaded(red, z), label)
        view.flat_ellipse(middle, (pixels * 0.68, pixels * 0.68), view.shaded(white, z), None)
    elif kind == 1:
        view.flat_ellipse(middle, (pixels, pixels), view.shaded(blue, z), label)
        arrow = (x - size * 0.15, x + size * 0.15), (y - size * 0.6, y + size * 0.6)
        view.front(*arrow, z, white, None)
    elif kind == 2:
        for share, color in ((1.15, red), (0.75, white)):
            base = y - size * 0.7 * share
            corners = [(x - size * share, base, z), (x + size * share, base, z)]
            tip = (x, y + size * share, z)
            view.polygon([*corners, tip], color, label if share > 1 else None)
    else:
        color = blue if rng.random() < 0.5 else yellow
        sides, heights = (x - size, x + size), (y - size, y + size)
        view.front(sides, heights, z, white, label)
        inner = (x - size * 0.85, x + size * 0.85), (y - size * 0.85, y + size * 0.85)
        view.front(*inner, z, color, None)


def draw_traffic_light(
    view: View, rng: np.random.Generator, x: float, z: float, phase: int
) -> None:
    """A pole with one or two dark boxes of three lamps; `phase` 0 to 2 says which one is lit."""
    metal, y = pick(rng, METALS), rng.uniform(2.7, 3.4)
    inward = -float(np.sign(x))
    view.line([(x, 0, z), (x, y + 0.5, z)], rng.uniform(0.17, 0.24), metal, Label.POLE)
    places = [(x + inward * 0.05, y)]
    if rng.random() < 0.5:
        reach = inward * rng.uniform(2.0, 3.2)
        arm = [(x, y + 0.5, z), (x, y + 2.4, z), (x + reach, y + 2.5, z)]
        view.line(arm, 0.18, metal, Label.POLE)
        places.append((x + reach, y + 2.3))
    for column, row in places:
        _lamps(view, (column, row, z), phase)


def _lamps(view: View, center: tuple[float, float, float], phase: int) -> None:
    x, y, z = center
    box = (x - 0.3, x + 0.3), (y - 0.75, y + 0.75)
    view.front(*box, z, (38, 42, 38), Label.TRAFFIC_LIGHT)
    radius = 0.19 * view.scale(z)
    for index, lit in enumerate(((60, 60, 245), (50, 190, 250), (110, 220, 80))):
        color = lit if index == phase else (lit[0] * 0.3, lit[1] * 0.3, lit[2] * 0.3)
        place = view.spot(x, y + 0.46 - 0.46 * index, z)
        view.flat_ellipse(place, (radius, radius), color, None)
