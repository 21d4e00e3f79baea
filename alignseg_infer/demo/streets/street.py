"""A complete street as pictures with labels, for one scene or for a drive."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, plain_value
from alignseg_infer.demo.streets import buildings, ground
from alignseg_infer.demo.streets.ground import Ground
from alignseg_infer.demo.streets.layout import (
    CHUNK,
    LANE,
    SPEED,
    VISIBLE,
    Roadside,
    Thing,
    choose_roadside_things,
)
from alignseg_infer.demo.streets.moving import Traffic
from alignseg_infer.demo.streets.view import (
    SUPERSAMPLING,
    Atmosphere,
    Camera,
    Color,
    View,
    pick,
)
from alignseg_infer.errors import OptionError, SizeError
from alignseg_infer.spec.model import MIN_INPUT_SIDE

MAX_SIDE = 4096  # pixels
LONGEST_DRIVE = 86400.0  # seconds

ASPHALT: tuple[Color, ...] = ((88, 86, 86), (104, 102, 102), (72, 72, 74), (96, 98, 104))
PAVING: tuple[Color, ...] = ((150, 158, 166), (135, 145, 160), (165, 165, 168), (130, 150, 172))
GRASS: tuple[Color, ...] = ((75, 150, 125), (70, 135, 130), (90, 150, 150), (80, 140, 110))


class Scene(NamedTuple):
    """One picture and its labels.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        labels: (H, W) uint8, training ids of Cityscapes, 0..18. Of the 2 x 2 sub-pixels of a pixel,
            the lower right one decides.
    """

    image: Image
    labels: NDArray[np.uint8]


class Street:
    """A street drawn from a seed. The same seed gives the same pictures.

    The nineteen training classes of Cityscapes occur. As there, the wheels of a bicycle are
    labelled bicycle, the gaps of a fence are labelled fence, and a trunk is labelled vegetation.

    Args:
        seed: Any whole number, 0 or more.

    Raises:
        OptionError: `seed` is not such a number.
    """

    def __init__(self, seed: int) -> None:
        seed = plain_value(seed)
        if type(seed) is not int or seed < 0:
            raise OptionError(f"seed={seed!r}", "a whole number, 0 or more", "seed=0")
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        self._lanes = 1 if rng.random() < 0.65 else 2
        parking = (2.2 if rng.random() < 0.55 else 0.0, 2.2 if rng.random() < 0.5 else 0.0)
        self._parking = parking
        self._road = (-self._lanes * LANE - parking[0], self._lanes * LANE + parking[1])
        self._tram = rng.random() < 0.45
        self._layout = tuple(
            Roadside.random(rng, sign, edge, with_track=self._tram and sign < 0)
            for sign, edge in zip((-1, 1), self._road, strict=True)
        )
        self._colors = tuple(pick(rng, palette) for palette in (ASPHALT, PAVING, GRASS))
        self._crossing = float(rng.uniform(4, 40)) if rng.random() < 0.45 else None
        self._camera = Camera(
            x=float(LANE * (self._lanes - 0.5) * rng.uniform(0.5, 1.0)),
            height=float(rng.uniform(1.4, 2.3)),
            focal=float(rng.uniform(0.72, 1.05)),
            horizon=float(rng.uniform(0.38, 0.5)),
            bend=float(rng.normal(0, 0.0012)),
        )
        self._atmosphere = _choose_atmosphere(rng)

    def scene(self, time: float = 0.0, size: tuple[int, int] = (256, 512)) -> Scene:
        """Draw what the camera sees.

        Args:
            time: Seconds since the drive began; the camera moves 8 m per second.
            size: (height, width) of the image.

        Returns:
            The image and its labels.

        Raises:
            OptionError: `time` is negative, or more than a day.
            SizeError: A side is below 32 or above 4096 pixels.
        """
        if not MIN_INPUT_SIDE <= min(size) <= max(size) <= MAX_SIDE:
            raise SizeError(
                f"a street was to be drawn at {size[0]}x{size[1]} (height x width)",
                f"{MIN_INPUT_SIDE} to {MAX_SIDE} pixels per side",
                "scene(size=(256, 512))",
            )
        if not 0 <= time <= LONGEST_DRIVE:
            raise OptionError(
                f"time={time!r}", f"0 to {LONGEST_DRIVE:g} seconds", "scene(time=1.5)"
            )
        view = View(size, self._camera, self._atmosphere)
        travelled = SPEED * time
        backdrop = np.random.default_rng([self.seed, 1])
        ground.draw_sky(view, backdrop, 0.002 * time)
        things = self._gather_things(time)
        shadows = [
            (left, right, thing.z, thing.z + length)
            for thing in things
            if thing.shadow is not None
            for left, right, length in (thing.shadow,)
        ]
        ground.draw_ground(view, self._lay_ground(travelled), travelled)
        ground.texture_ground(view, travelled, shadows)
        buildings.draw_skyline(view, backdrop)
        for thing in sorted(things, key=lambda thing: (thing.layer, -thing.z)):
            thing.draw(view, np.random.default_rng([self.seed, *thing.seed]), thing.z)
        return photograph(view, np.random.default_rng([self.seed, 2, int(time * 1000)]))

    def _lay_ground(self, travelled: float) -> Ground:
        ahead = None
        if self._crossing is not None:
            ahead = (self._crossing - travelled) % 90 - 6
        middle = tuple(LANE * lane for lane in range(-self._lanes + 1, self._lanes))
        return Ground(
            road=self._road,
            sidewalks=tuple(side.sidewalk for side in self._layout if side.sidewalk is not None),
            track=self._layout[0].track,
            lanes=middle,
            crossing=ahead,
            colors=(self._colors[0], self._colors[1], self._colors[2]),
        )

    def _gather_things(self, time: float) -> list[Thing]:
        """Gather everything that stands or moves within sight."""
        travelled = SPEED * time
        first, last = int((travelled - 30) // CHUNK), int((travelled + VISIBLE) // CHUNK)
        things = []
        for number, side in enumerate(self._layout):
            for chunk in range(first, last + 1):
                rng = np.random.default_rng([self.seed, 3, number, chunk + 100])
                start = chunk * CHUNK - travelled
                things += choose_roadside_things(
                    rng,
                    side,
                    start,
                    parking=self._parking[number],
                    seed=(number, chunk + 100),
                    time=time,
                )
        rng = np.random.default_rng([self.seed, 4])
        traffic = Traffic(rng, time)
        traffic.add_lanes(self._lanes)
        traffic.add_riders(self._lanes)
        traffic.add_crossing_people(self._road)
        if (track := self._layout[0].track) is not None:
            traffic.add_tram(track)
        things += traffic.things
        return [thing for thing in things if thing.z < VISIBLE]


def _choose_atmosphere(rng: np.random.Generator) -> Atmosphere:
    """Choose one of five kinds of weather."""
    kind = rng.choice(["clear", "clear", "overcast", "dusk", "fog", "rain"])
    light, shadow, density, rain = rng.uniform(0.9, 1.12), 1.0, rng.uniform(0.002, 0.006), 0.0
    tint, clouds = np.array([1.0, 1.0, 1.0]), rng.uniform(0, 0.8)
    zenith, low = np.array([215.0, 160.0, 105.0]), np.array([235.0, 220.0, 200.0])
    if kind == "clear":
        shadow, tint = rng.uniform(0.5, 0.75), np.array([0.94, 1.0, 1.05])
    elif kind == "dusk":
        light, tint = rng.uniform(0.6, 0.8), np.array([0.95, 0.95, 1.1])
        zenith, low = np.array([150.0, 105.0, 85.0]), np.array([130.0, 165.0, 225.0])
    else:
        grey = rng.uniform(170, 225)
        zenith, low = np.array([grey, grey * 0.97, grey * 0.94]), np.full(3, grey + 15)
        light *= 0.88
    if kind == "fog":
        density = rng.uniform(0.012, 0.022)
    if kind == "rain":
        rain, density = rng.uniform(0.1, 0.35), rng.uniform(0.006, 0.012)
    zenith, low = zenith * rng.uniform(0.92, 1.05), low * rng.uniform(0.94, 1.02)
    tint = tint * light * rng.uniform(0.96, 1.04, 3)
    return Atmosphere(
        light=_color(tint),
        fog=_color(np.clip(low, 0, 250)),
        density=float(density),
        shadow=float(shadow),
        sky=(_color(np.clip(zenith, 0, 250)), _color(np.clip(low, 0, 250))),
        clouds=float(clouds),
        rain=float(rain),
    )


def _color(values: NDArray[np.float64]) -> Color:
    return float(values[0]), float(values[1]), float(values[2])


def photograph(view: View, rng: np.random.Generator) -> Scene:
    """Photograph the canvas through a lens and a sensor: add rain, blur, noise and exposure."""
    size = (view.width // SUPERSAMPLING, view.height // SUPERSAMPLING)
    for _ in range(int(view.atmosphere.rain * view.width)):
        x, y = rng.uniform(0, view.width), rng.uniform(0, view.height)
        length = rng.uniform(0.02, 0.06) * view.height
        streak = [(x, y), (x + length * 0.15, y + length)]
        view.flat_line(streak, 1, (200, 200, 200), None)
    image = cv2.resize(view.image, size, interpolation=cv2.INTER_AREA)
    looks = np.random.default_rng(int(1e6 * view.camera.height))  # the same for every frame
    if (sigma := looks.uniform(0, 0.8)) > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    tone = 255 * (np.arange(256) / 255) ** looks.uniform(0.85, 1.15)
    image = cv2.LUT(image, np.clip(tone, 0, 255).astype(np.uint8))
    noise = rng.normal(0, looks.uniform(1, 5), image.shape[:2]).astype(np.float32)
    noisy = image + noise[..., np.newaxis]
    labels = np.ascontiguousarray(view.labels[1::SUPERSAMPLING, 1::SUPERSAMPLING])
    return Scene(np.clip(noisy, 0, 255).astype(np.uint8), labels)
