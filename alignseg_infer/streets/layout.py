"""What stands and moves where along a street."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from alignseg_infer.streets import people, surroundings, traffic
from alignseg_infer.streets.view import NEAR, View

Rng: TypeAlias = np.random.Generator
Draw: TypeAlias = Callable[[View, Rng, float], None]  # view, its own random numbers, distance

CHUNK = 12.0  # metres of street that are laid out together
VISIBLE = 84.0  # metres; nothing further away is drawn
SMALL = 45.0  # metres; the same for what would be a pixel or two there
LOOP = 120.0  # metres after which moving traffic comes again
BEHIND = 16.0  # metres of it that lie behind the camera
LANE = 3.2  # metres
SPEED = 8.0  # metres per second, of the camera


class Layer(IntEnum):
    """How far from the road's middle things are, the furthest first: their order of drawing.

    From a camera on the road, what is nearer to its middle hides what lies further to the side;
    distance ahead decides only within a layer.
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
        surroundings.draw_building(view, own, x, (z, z + length))

    add(Layer.HOUSES, 0.0, draw, None if shade is None else (*shade, length))


def _add_border(rng: Rng, side: Roadside, add: Add) -> None:
    kinds = (
        None,
        surroundings.draw_wall,
        surroundings.draw_fence,
        surroundings.draw_hedge,
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
        kind = surroundings.draw_tree if rng.random() < 0.55 else surroundings.draw_bush
        x = side.border + side.sign * rng.uniform(0.8, yard)
        add(Layer.YARD, rng.uniform(0.5, CHUNK), _plant(kind, x), None)
    edge = abs(side.curb - (side.border if side.sidewalk is None else min(side.sidewalk, key=abs)))
    if side.track is None and rng.random() < 0.35:
        x = side.curb + side.sign * (0.7 if edge < 1 else edge / 2)
        add(
            Layer.SIDEWALK,
            rng.uniform(0, CHUNK),
            _plant(surroundings.draw_tree, x),
            (x - 1.5, x + 1.5, 2.5),
        )


def _placed(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
    return lambda view, own, z: draw(view, own, x, z)


def _plant(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
    return lambda view, own, z: draw(view, own, x, z) if z > NEAR else None


def _standing(draw: Callable[[View, Rng, float, float], None], x: float) -> Draw:
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
            add(Layer.SIDEWALK, z, _standing(surroundings.draw_lamp, x), None)
        elif kind == 2:
            add(Layer.SIDEWALK, z, _standing(surroundings.draw_sign, x), None)
        elif kind == 3:
            light = partial(surroundings.draw_traffic_light, phase=phase)
            add(Layer.SIDEWALK, z, _standing(light, x), None)


def _add_people(rng: Rng, side: Roadside, add: Add, time: float) -> None:
    left, right = _walkway(side)
    for _ in range(rng.choice((0, 1, 2, 4), p=(0.25, 0.3, 0.25, 0.2))):
        x, pace = rng.uniform(left + 0.3, right - 0.3), rng.choice((-1.3, 1.3)) * rng.random()
        z, stride = rng.uniform(0, CHUNK) + pace * time, 6.0 * time * pace
        person = partial(people.draw_person, stride=stride)
        add(Layer.SIDEWALK, z, _standing(person, x), (x - 0.25, x + 0.6, 0.4))
    if rng.random() < 0.5:
        x, z, squeeze = rng.uniform(left + 0.4, right - 0.4), rng.uniform(0, CHUNK), rng.random()
        bicycle = partial(people.draw_bicycle, squeeze=0.35 + 0.65 * squeeze)
        add(Layer.SIDEWALK, z, _standing(bicycle, x), None)


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
            add(Layer.PARKING, z, _standing(motorcycle, x), None)
            z += 2.5
        elif kind == "none" or z + VEHICLES[kind][1] > CHUNK + 1:
            z += 3.0
        else:
            draw, length = VEHICLES[kind]
            facing = bool(side.sign < 0 and rng.random() < 0.8)
            add(
                Layer.PARKING,
                z,
                _placed(partial(draw, facing=facing), x),
                (x - 1.2, x + 1.6, length),
            )
            z += length + rng.uniform(0.3, 1.5)


def traffic_things(
    rng: Rng,
    lanes: int,
    road: tuple[float, float],
    track: tuple[float, float] | None,
    time: float,
) -> list[Thing]:
    """What drives: ahead of the camera, towards it, on the track; and who crosses."""
    things: list[Thing] = []

    def add(x: float, z: float, draw: Draw, length: float, layer: Layer = Layer.ROAD) -> None:
        things.append(Thing(layer, z, (5, len(things)), draw, (x - 1.2, x + 1.6, length)))

    def vehicle(x: float, z: float, kinds: tuple[float, ...], facing: bool) -> None:
        name = rng.choice(tuple(VEHICLES), p=kinds)
        draw, length = VEHICLES[name]
        add(x, z, _placed(partial(draw, facing=facing), x), length)

    mix = (0.4, 0.27, 0.33)
    for lane in range(lanes):
        x = LANE * (lane + 0.5)
        sway = 1.5 * np.sin(time * rng.uniform(0.3, 0.8) + rng.uniform(0, 6))
        if rng.random() < 0.75:
            vehicle(x, rng.uniform(7, 40) + sway, mix, facing=False)
        speed, z = rng.uniform(6, 10), rng.uniform(0, 25)
        for _ in range(rng.integers(0, 4)):
            vehicle(-x, _looped(z - (speed + SPEED) * time), mix, facing=True)
            z += rng.uniform(16, 40)
    for _ in range(rng.choice((0, 1, 2, 3), p=(0.25, 0.35, 0.25, 0.15))):
        x = rng.uniform(lanes * LANE - 1.4, lanes * LANE - 0.5) * (1 if rng.random() < 0.7 else -1)
        motorized = bool(rng.random() < 0.45)
        squeeze = rng.uniform(0.12, 0.3) if rng.random() < 0.75 else rng.uniform(0.75, 1)
        sway = 2.0 * np.sin(time * 0.5 + rng.uniform(0, 6))
        rider = partial(people.draw_rider, squeeze=squeeze, motorized=motorized)
        add(x, rng.uniform(5, 28) + sway, _standing(rider, x), 1.5)
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 5)):
            pace = rng.choice((-1.2, 1.2))
            z, start = rng.uniform(6, 30) - SPEED * time, rng.uniform(*road)
            x = road[0] + (start + pace * time - road[0]) % (road[1] - road[0])
            walker = partial(people.draw_person, stride=6.0 * time)
            add(x, _looped(z), _standing(walker, x), 0.4)
    if track is not None and rng.random() < 0.85:
        facing, x = bool(rng.random() < 0.5), sum(track) / 2
        speed = -10.0 if facing else 3.0
        z = _looped(rng.uniform(-5, 50) + (speed - SPEED * (speed < 0)) * time, 30.0)
        add(x, z, _placed(partial(traffic.draw_tram, facing=facing), x), 25.0, Layer.TRACK)
    return things


def _looped(z: float, behind: float = BEHIND) -> float:
    """`z` brought to where it can be seen, from `behind` metres behind the camera on."""
    return (z + behind) % (LOOP + behind) - behind
