"""What stands where along a street."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from alignseg_infer.demo.streets import buildings, people, plants, poles, traffic
from alignseg_infer.demo.streets.view import NEAR, View

Rng: TypeAlias = np.random.Generator
Draw: TypeAlias = Callable[[View, Rng, float], None]  # view, its own random numbers, distance

CHUNK = 12.0  # metres of street that are laid out together
VISIBLE = 84.0  # metres; nothing further away is drawn
SMALL = 45.0  # metres; the same for what would be a pixel or two there
LANE = 3.2  # metres
SPEED = 8.0  # metres per second, of the camera


class Layer(IntEnum):
    """How far from the road's middle things are, the furthest first: their order of drawing.

    From a camera on a straight road, what is nearer to its middle hides what lies further to the
    side; distance ahead decides only within a layer. Where the road bends this can be wrong for
    things more than 40 m away: a few pixels, in image and labels alike.
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
        layer: Where it stands; lower layers are drawn first.
        z: Distance of its near end, metres.
        seed: Of its looks.
        draw: Draws it.
        shadow: Left, right edge and length of its shadow on the ground, metres.
    """

    layer: Layer
    z: float
    seed: tuple[int, ...]
    draw: Draw
    shadow: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Roadside:
    """Where things are on one side of the road, in metres from its middle.

    Attributes:
        sign: -1 on the left, 1 on the right.
        curb: Edge of the road.
        track: Left and right edge of a tram's track, next to the road.
        sidewalk: Left and right edge, if there is one.
        border: Where walls, fences and hedges run.
        facades: Where houses begin.
    """

    sign: int
    curb: float
    track: tuple[float, float] | None
    sidewalk: tuple[float, float] | None
    border: float
    facades: float

    @classmethod
    def random(cls, rng: Rng, sign: int, curb: float, *, with_track: bool) -> "Roadside":
        """A side with widths drawn by `rng`."""
        at, track, sidewalk = curb, None, None
        if with_track:
            track, at = _ordered(at, at + sign * 3.4), at + sign * 3.4
        elif rng.random() < 0.35:
            at += sign * rng.uniform(0.8, 2.5)
        if rng.random() < 0.93:
            width = rng.uniform(1.8, 4.2)
            sidewalk, at = _ordered(at, at + sign * width), at + sign * width
        yard = 0.0 if rng.random() < 0.25 else rng.uniform(2.0, 6.5)
        return cls(sign, curb, track, sidewalk, at + sign * 0.1, at + sign * (0.2 + yard))


def _ordered(one: float, other: float) -> tuple[float, float]:
    return min(one, other), max(one, other)


def roadside_things(
    rng: Rng,
    side: Roadside,
    start: float,
    *,
    parking: float,
    seed: tuple[int, ...],
    time: float,
) -> list[Thing]:
    """What stands on one side of `CHUNK` metres of street that begin `start` metres ahead.

    Args:
        rng: Of this piece of street.
        side: What is where on that side.
        start: Metres ahead of the camera.
        parking: Width of the parking strip, metres; 0 for none.
        seed: Of the looks of things, which get one number more.
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
    shade = _ordered(x, x - side.sign * 7) if side.sign < 0 else None

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
        add(Layer.YARD, rng.uniform(0.5, CHUNK), _plant(kind, x), None)
    edge = abs(side.curb - (side.border if side.sidewalk is None else min(side.sidewalk, key=abs)))
    if side.track is None and rng.random() < 0.35:
        x = side.curb + side.sign * (0.7 if edge < 1 else edge / 2)
        add(
            Layer.SIDEWALK,
            rng.uniform(0, CHUNK),
            _plant(plants.draw_tree, x),
            (x - 1.5, x + 1.5, 2.5),
        )


def placed(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
    """Draws at `x`."""
    return lambda view, own, z: draw(view, own, x, z)


def _plant(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
    return lambda view, own, z: draw(view, own, x, z) if z > NEAR else None


def standing(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
    """Draws what has no length, and so is there as a whole or not at all."""
    return lambda view, own, z: draw(view, own, x, z) if NEAR < z < SMALL else None


def _walkway(side: Roadside) -> tuple[float, float]:
    """Where people walk: the sidewalk, or else a strip beside the road."""
    return side.sidewalk or _ordered(side.curb + side.sign * 0.3, side.curb + side.sign * 1.5)


def _add_poles(rng: Rng, side: Roadside, add: Add, time: float) -> None:
    x = min(_walkway(side), key=abs) + side.sign * 0.35
    phase = int(time / 4 + rng.integers(3)) % 3
    for start in (0.0, CHUNK / 2):
        kind = rng.choice(4, p=(0.3, 0.23, 0.27, 0.2))
        z = start + rng.uniform(0, CHUNK / 2)
        if kind == 1:
            add(Layer.SIDEWALK, z, standing(poles.draw_lamp, x), None)
        elif kind == 2:
            add(Layer.SIDEWALK, z, standing(poles.draw_sign, x), None)
        elif kind == 3:
            light = partial(poles.draw_traffic_light, phase=phase)
            add(Layer.SIDEWALK, z, standing(light, x), None)


def _add_people(rng: Rng, side: Roadside, add: Add, time: float) -> None:
    left, right = _walkway(side)
    for _ in range(rng.choice((0, 1, 2, 4), p=(0.25, 0.3, 0.25, 0.2))):
        x, pace = rng.uniform(left + 0.3, right - 0.3), rng.choice((-1.3, 1.3)) * rng.random()
        z, stride = rng.uniform(0, CHUNK) + pace * time, 6.0 * time * pace
        person = partial(people.draw_person, stride=stride)
        add(Layer.SIDEWALK, z, standing(person, x), (x - 0.25, x + 0.6, 0.4))
    if rng.random() < 0.5:
        x, z, squeeze = rng.uniform(left + 0.4, right - 0.4), rng.uniform(0, CHUNK), rng.random()
        bicycle = partial(people.draw_bicycle, squeeze=0.35 + 0.65 * squeeze)
        add(Layer.SIDEWALK, z, standing(bicycle, x), None)


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
            add(Layer.PARKING, z, standing(motorcycle, x), None)
            z += 2.5
        elif kind == "none" or z + VEHICLES[kind][1] > CHUNK + 1:
            z += 3.0
        else:
            draw, length = VEHICLES[kind]
            facing = bool(side.sign < 0 and rng.random() < 0.8)
            add(
                Layer.PARKING,
                z,
                placed(partial(draw, facing=facing), x),
                (x - 1.2, x + 1.6, length),
            )
            z += length + rng.uniform(0.3, 1.5)
