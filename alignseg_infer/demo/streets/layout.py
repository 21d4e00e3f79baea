"""Deciding what stands where along a street."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from alignseg_infer.demo.streets import buildings, people, plants, poles, traffic
from alignseg_infer.demo.streets.view import NEAR, View

Rng: TypeAlias = np.random.Generator
Draw: TypeAlias = Callable[
    [View, Rng, float], None
]  # takes the view, random numbers of its own, and the distance

CHUNK = 12.0  # metres of street that are laid out at once
VISIBLE = 84.0  # metres; nothing further away is drawn
SMALL = 45.0  # metres; small things further away are not drawn: they would be a pixel or two
LANE = 3.2  # metres
SPEED = 8.0  # metres per second, speed of the camera


class Layer(IntEnum):
    """Layers in the order in which they are drawn: the furthest from the middle of the road first.

    Seen from a camera on a straight road, things nearer to its middle hide things further to the
    side, so distance ahead matters only within a layer. Where the road bends, this can be wrong for
    things more than 40 m away. It then affects a few pixels, in image and labels alike.
    """

    HOUSES = 0
    YARD = 1
    BORDER = 2
    SIDEWALK = 3
    TRACK = 4
    PARKING = 5
    ROAD = 6


class Thing(NamedTuple):
    """Something to draw.

    Attributes:
        layer: The layer in which it stands; lower layers are drawn first.
        z: Distance to its near end, in metres.
        seed: Seed of its looks.
        draw: Function that draws it.
        shadow: Left edge, right edge and length of its shadow on the ground, in metres.
    """

    layer: Layer
    z: float
    seed: tuple[int, ...]
    draw: Draw
    shadow: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Roadside:
    """Where things are on one side of the road, in metres from the middle of the road.

    Attributes:
        sign: -1 on the left, 1 on the right.
        curb: Position of the edge of the road.
        track: Left and right edge of the tram track next to the road, if there is one.
        sidewalk: Left and right edge of the sidewalk, if there is one.
        border: Position of walls, fences and hedges.
        facades: Position of the facades of houses.
    """

    sign: int
    curb: float
    track: tuple[float, float] | None
    sidewalk: tuple[float, float] | None
    border: float
    facades: float

    @classmethod
    def random(cls, rng: Rng, sign: int, curb: float, *, with_track: bool) -> "Roadside":
        """Return a roadside with random widths."""
        at, track, sidewalk = curb, None, None
        if with_track:
            track, at = _order(at, at + sign * 3.4), at + sign * 3.4
        elif rng.random() < 0.35:
            at += sign * rng.uniform(0.8, 2.5)
        if rng.random() < 0.93:
            width = rng.uniform(1.8, 4.2)
            sidewalk, at = _order(at, at + sign * width), at + sign * width
        yard = 0.0 if rng.random() < 0.25 else rng.uniform(2.0, 6.5)
        return cls(sign, curb, track, sidewalk, at + sign * 0.1, at + sign * (0.2 + yard))


def _order(one: float, other: float) -> tuple[float, float]:
    return min(one, other), max(one, other)


def choose_roadside_things(
    rng: Rng,
    side: Roadside,
    start: float,
    *,
    parking: float,
    seed: tuple[int, ...],
    time: float,
) -> list[Thing]:
    """Choose what stands on one side of a piece of street, which is `CHUNK` metres long.

    Args:
        rng: Random numbers for this piece of street.
        side: Where things are on this side.
        start: Distance from the camera to the beginning of the piece, in metres.
        parking: Width of the parking strip, in metres; 0 for none.
        seed: Seed of the looks of things; each thing adds a number of its own.
        time: Seconds since the drive began.
    """
    things: list[Thing] = []

    def add(layer: Layer, z: float, draw: Draw, shadow: tuple[float, float, float] | None) -> None:
        things.append(Thing(layer, start + z, (*seed, len(things)), draw, shadow))

    _add_house(rng, side, add)
    _add_border(rng, side, add)
    _add_plants(rng, side, add)
    _add_poles(rng, side, add, time)
    _add_people(rng, side, add, time)
    if parking:
        _add_parked(rng, side, parking, add)
    return things


Add: TypeAlias = Callable[[Layer, float, Draw, tuple[float, float, float] | None], None]


def _add_house(rng: Rng, side: Roadside, add: Add) -> None:
    if rng.random() > 0.72:
        return
    gap = rng.uniform(0, 4) if rng.random() < 0.5 else 0.0
    x, length = side.facades + side.sign * rng.uniform(0, 1.5), CHUNK - gap
    shade = _order(x, x - side.sign * 7) if side.sign < 0 else None

    def draw(view: View, own: Rng, z: float) -> None:
        buildings.draw_building(view, own, x, (z, z + length))

    add(Layer.HOUSES, 0.0, draw, None if shade is None else (*shade, length))


def _add_border(rng: Rng, side: Roadside, add: Add) -> None:
    kinds = (
        None,
        buildings.draw_wall,
        buildings.draw_fence,
        plants.draw_hedge,
    )
    kind = kinds[rng.choice(4, p=(0.22, 0.32, 0.32, 0.14))]
    if kind is None or abs(side.facades - side.border) < 1.5:
        return
    length = CHUNK if rng.random() < 0.7 else rng.uniform(5, CHUNK)

    def draw(view: View, own: Rng, z: float) -> None:
        kind(view, own, side.border, (z, z + length))

    add(Layer.BORDER, 0.0, draw, None)


def _add_plants(rng: Rng, side: Roadside, add: Add) -> None:
    yard = abs(side.facades - side.border)
    for _ in range(rng.integers(0, 4) if yard > 1.5 else 0):
        kind = plants.draw_tree if rng.random() < 0.55 else plants.draw_bush
        x = side.border + side.sign * rng.uniform(0.8, yard)
        add(Layer.YARD, rng.uniform(0.5, CHUNK), _place_plant(kind, x), None)
    edge = abs(side.curb - (side.border if side.sidewalk is None else min(side.sidewalk, key=abs)))
    if side.track is None and rng.random() < 0.35:
        x = side.curb + side.sign * (0.7 if edge < 1 else edge / 2)
        add(
            Layer.SIDEWALK,
            rng.uniform(0, CHUNK),
            _place_plant(plants.draw_tree, x),
            (x - 1.5, x + 1.5, 2.5),
        )


def place(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
    """Return a function that draws something at `x`."""
    return lambda view, own, z: draw(view, own, x, z)


def _place_plant(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
    return lambda view, own, z: draw(view, own, x, z) if z > NEAR else None


def place_standing(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
    """Return a function that draws something without length, completely or not at all."""
    return lambda view, own, z: draw(view, own, x, z) if NEAR < z < SMALL else None


def _walkway(side: Roadside) -> tuple[float, float]:
    """Return where people walk: the sidewalk, or a strip beside the road if there is none."""
    return side.sidewalk or _order(side.curb + side.sign * 0.3, side.curb + side.sign * 1.5)


def _add_poles(rng: Rng, side: Roadside, add: Add, time: float) -> None:
    x = min(_walkway(side), key=abs) + side.sign * 0.35
    phase = int(time / 4 + rng.integers(3)) % 3
    for start in (0.0, CHUNK / 2):
        kind = rng.choice(4, p=(0.3, 0.23, 0.27, 0.2))
        z = start + rng.uniform(0, CHUNK / 2)
        if kind == 1:
            add(Layer.SIDEWALK, z, place_standing(poles.draw_lamp, x), None)
        elif kind == 2:
            add(Layer.SIDEWALK, z, place_standing(poles.draw_sign, x), None)
        elif kind == 3:
            light = partial(poles.draw_traffic_light, phase=phase)
            add(Layer.SIDEWALK, z, place_standing(light, x), None)


def _add_people(rng: Rng, side: Roadside, add: Add, time: float) -> None:
    left, right = _walkway(side)
    for _ in range(rng.choice((0, 1, 2, 4), p=(0.25, 0.3, 0.25, 0.2))):
        x, pace = rng.uniform(left + 0.3, right - 0.3), rng.choice((-1.3, 1.3)) * rng.random()
        z, stride = rng.uniform(0, CHUNK) + pace * time, 6.0 * time * pace
        person = partial(people.draw_person, stride=stride)
        add(Layer.SIDEWALK, z, place_standing(person, x), (x - 0.25, x + 0.6, 0.4))
    if rng.random() < 0.5:
        x, z, squeeze = rng.uniform(left + 0.4, right - 0.4), rng.uniform(0, CHUNK), rng.random()
        bicycle = partial(people.draw_bicycle, squeeze=0.35 + 0.65 * squeeze)
        add(Layer.SIDEWALK, z, place_standing(bicycle, x), None)


VEHICLES = {
    "car": (traffic.draw_car, 5.2),
    "truck": (traffic.draw_truck, 9.5),
    "bus": (traffic.draw_bus, 12.5),
}


def _add_parked(rng: Rng, side: Roadside, width: float, add: Add) -> None:
    x, z = side.curb - side.sign * (width / 2 + 0.05), rng.uniform(0, 2)
    while z < CHUNK - 2:
        kind = rng.choice(("car", "truck", "motorcycle", "none"), p=(0.42, 0.07, 0.2, 0.31))
        if kind == "motorcycle":
            motorcycle = partial(people.draw_motorcycle, squeeze=rng.uniform(0.35, 1))
            add(Layer.PARKING, z, place_standing(motorcycle, x), None)
            z += 2.5
        elif kind == "none" or z + VEHICLES[kind][1] > CHUNK + 1:
            z += 3.0
        else:
            draw, length = VEHICLES[kind]
            facing = bool(side.sign < 0 and rng.random() < 0.8)
            add(
                Layer.PARKING,
                z,
                place(partial(draw, facing=facing), x),
                (x - 1.2, x + 1.6, length),
            )
            z += length + rng.uniform(0.3, 1.5)
