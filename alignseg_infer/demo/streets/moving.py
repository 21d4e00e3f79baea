"""Traffic and people that move along a street, relative to the moving camera."""

from functools import partial

import numpy as np

from alignseg_infer.demo.streets import people, traffic
from alignseg_infer.demo.streets.layout import (
    LANE,
    SPEED,
    VEHICLES,
    Draw,
    Layer,
    Rng,
    Thing,
    place,
    place_standing,
)

LOOP = 120.0  # metres after which moving traffic repeats
BEHIND = 16.0  # metres of the loop that are behind the camera
MIX = (0.4, 0.27, 0.33)  # shares of `VEHICLES` in moving traffic


class Traffic:
    """Vehicles ahead of the camera, towards it and on the track, and people who cross the road.

    Args:
        rng: Random numbers, the same for every instant of a drive.
        time: Seconds since the drive began.

    Attributes:
        things: Everything added so far.
    """

    def __init__(self, rng: Rng, time: float) -> None:
        self.things: list[Thing] = []
        self._rng, self._time = rng, time

    def add_lanes(self, lanes: int) -> None:
        """Add vehicles on `lanes` lanes in each direction."""
        rng, time = self._rng, self._time
        for lane in range(lanes):
            x = LANE * (lane + 0.5)
            sway = 1.5 * np.sin(time * rng.uniform(0.3, 0.8) + rng.uniform(0, 6))
            if rng.random() < 0.75:
                self._add_vehicle(x, rng.uniform(7, 40) + sway, facing=False)
            speed, z = rng.uniform(6, 10), rng.uniform(0, 25)
            for _ in range(rng.integers(0, 4)):
                self._add_vehicle(-x, _wrap(z - (speed + SPEED) * time), facing=True)
                z += rng.uniform(16, 40)

    def add_riders(self, lanes: int) -> None:
        """Add bicycles and motorcycles at the edge of the outer lanes."""
        rng = self._rng
        for _ in range(rng.choice((0, 1, 2, 3), p=(0.25, 0.35, 0.25, 0.15))):
            x = rng.uniform(lanes * LANE - 1.4, lanes * LANE - 0.5)
            x *= 1 if rng.random() < 0.7 else -1
            motorized = bool(rng.random() < 0.45)
            squeeze = rng.uniform(0.12, 0.3) if rng.random() < 0.75 else rng.uniform(0.75, 1)
            sway = 2.0 * np.sin(self._time * 0.5 + rng.uniform(0, 6))
            rider = partial(people.draw_rider, squeeze=squeeze, motorized=motorized)
            self._add(x, rng.uniform(5, 28) + sway, place_standing(rider, x), 1.5)

    def add_crossing_people(self, road: tuple[float, float]) -> None:
        """Add people who walk across the road, from edge to edge."""
        rng, time = self._rng, self._time
        if rng.random() >= 0.3:
            return
        for _ in range(rng.integers(1, 5)):
            pace = rng.choice((-1.2, 1.2))
            z, start = rng.uniform(6, 30) - SPEED * time, rng.uniform(*road)
            x = road[0] + (start + pace * time - road[0]) % (road[1] - road[0])
            walker = partial(people.draw_person, stride=6.0 * time)
            self._add(x, _wrap(z), place_standing(walker, x), 0.4)

    def add_tram(self, track: tuple[float, float]) -> None:
        """Add a tram, most of the time."""
        rng = self._rng
        if rng.random() >= 0.85:
            return
        facing, x = bool(rng.random() < 0.5), sum(track) / 2
        speed = -10.0 - SPEED if facing else 3.0  # seen from the camera
        z = _wrap(rng.uniform(-5, 50) + speed * self._time, 30.0)
        tram = partial(traffic.draw_tram, facing=facing)
        self._add(x, z, place(tram, x), 25.0, Layer.TRACK)

    def _add_vehicle(self, x: float, z: float, *, facing: bool) -> None:
        draw, length = VEHICLES[self._rng.choice(tuple(VEHICLES), p=MIX)]
        self._add(x, z, place(partial(draw, facing=facing), x), length)

    def _add(
        self, x: float, z: float, draw: Draw, length: float, layer: Layer = Layer.ROAD
    ) -> None:
        shadow = (x - 1.2, x + 1.6, length)
        self.things.append(Thing(layer, z, (5, len(self.things)), draw, shadow))


def _wrap(z: float, behind: float = BEHIND) -> float:
    """Return `z` moved into the loop, which begins `behind` metres behind the camera."""
    return (z + behind) % (LOOP + behind) - behind
