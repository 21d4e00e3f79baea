"""The camera and the two pictures it draws at once: colours and labels."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image

Color: TypeAlias = tuple[float, float, float]  # blue, green, red, 0..255
Pixel: TypeAlias = tuple[float, float]  # column, row

NEAR = 1.5  # metres; nothing nearer to the camera is drawn
SUPERSAMPLING = 2  # canvas pixels per image pixel, along each axis
_FRACTION_BITS = 4  # of the pixel coordinates passed to OpenCV
_REACH = 15.625  # canvas widths; corners further out are moved there to fit OpenCV's integers


class Label(IntEnum):
    """Training ids of the 19 Cityscapes classes, as in `datasets.CITYSCAPES`."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18


@dataclass(frozen=True)
class Camera:
    """Where the camera is, and how the street bends ahead of it.

    Attributes:
        x: Metres to the right of the middle of the road.
        height: Metres above the road.
        focal: Focal length in image widths.
        horizon: Row of the horizon, as a share of the image height.
        bend: At distance z, the middle of the street is ``bend * z**2`` metres to the right.
    """

    x: float
    height: float
    focal: float
    horizon: float
    bend: float


@dataclass(frozen=True)
class Atmosphere:
    """Light and air.

    Attributes:
        light: Factor on blue, green and red.
        fog: Colour to which things fade.
        density: Share of fog per metre, at small distances.
        shadow: Brightness of the ground in shadows of the sun; 1 for no shadows.
        sky: Colours of the sky at the top and at the horizon.
        clouds: Share of the sky covered by clouds, 0..1.
        rain: Number of streaks divided by the width of the canvas in pixels.
    """

    light: Color
    fog: Color
    density: float
    shadow: float
    sky: tuple[Color, Color]
    clouds: float
    rain: float


class View:
    """A canvas seen through a camera. Points are (x, y, z) in metres: right, up, ahead.

    Args:
        size: (height, width) of the image; the canvas is twice as large.
        camera: Where it stands.
        atmosphere: Light and air.

    Attributes:
        image: (2*height, 2*width, 3) uint8 BGR.
        labels: (2*height, 2*width) uint8.
        reach: Distance in canvas pixels beyond which nothing is drawn.
    """

    def __init__(self, size: tuple[int, int], camera: Camera, atmosphere: Atmosphere) -> None:
        self.height, self.width = (SUPERSAMPLING * side for side in size)
        self.camera = camera
        self.atmosphere = atmosphere
        self.focal = camera.focal * self.width
        self.reach = _REACH * self.width
        self.horizon = camera.horizon * self.height
        self.image: Image = np.zeros((self.height, self.width, 3), np.uint8)
        self.labels = np.zeros((self.height, self.width), np.uint8)

    def scale(self, z: float) -> float:
        """Return the canvas pixels per metre at distance `z`."""
        return self.focal / z

    def project(self, points: Iterable[Sequence[float]]) -> list[Pixel]:
        """Return the canvas (column, row) of points (x, y, z) that are ahead of the camera."""
        camera, focal = self.camera, self.focal
        return [
            (
                self.width / 2 + focal * ((x - camera.x) / z + camera.bend * z),
                self.horizon + focal * (camera.height - y) / z,
            )
            for x, y, z in points
        ]

    def spot(self, x: float, y: float, z: float) -> Pixel:
        """Return the canvas (column, row) of one point."""
        return self.project([(x, y, z)])[0]

    def shade(self, color: Color, z: float, brightness: float = 1.0) -> Color:
        """Return `color` as it looks in this light from `z` metres away."""
        light, fog = self.atmosphere.light, self.atmosphere.fog
        air = math.exp(-self.atmosphere.density * z)
        b, g, r = (
            min(color[i] * light[i] * brightness, 255.0) * air + fog[i] * (1 - air)
            for i in range(3)
        )
        return b, g, r

    def polygon(
        self,
        points: Sequence[Sequence[float]],
        color: Color,
        label: Label | None,
        *,
        brightness: float = 1.0,
    ) -> None:
        """Fill a polygon of points (x, y, z); without a label, only the colours change."""
        z = sum(point[2] for point in points) / len(points)
        self.flat_polygon(self.project(points), self.shade(color, z, brightness), label)

    def _to_fixed_point(self, pixels: Sequence[Pixel]) -> NDArray[np.int32] | None:
        """Return the pixels as OpenCV takes them; None if all are off the canvas on one side."""
        limit, one = self.reach, 1 << _FRACTION_BITS
        columns, rows = zip(*pixels, strict=True)
        if max(columns) < 0 or max(rows) < 0 or min(columns) > self.width:
            return None
        inside = [
            (round(min(max(x, -limit), limit) * one), round(min(max(y, -limit), limit) * one))
            for x, y in pixels
        ]
        return np.array(inside, np.int32)

    def flat_polygon(
        self, pixels: Sequence[Pixel], color: Color | None, label: Label | None
    ) -> None:
        """Fill a polygon of canvas pixels, in either picture or both."""
        fixed = self._to_fixed_point(pixels)
        if fixed is None:
            return
        if color is not None:
            cv2.fillPoly(self.image, [fixed], color, shift=_FRACTION_BITS)
        if label is not None:
            cv2.fillPoly(self.labels, [fixed], int(label), shift=_FRACTION_BITS)

    def flat_ellipse(
        self, center: Sequence[float], axes: Sequence[float], color: Color, label: Label | None
    ) -> None:
        """Fill an upright ellipse; its centre and half-axes are in canvas pixels."""
        if not -self.reach < min(center) <= max(center) < self.reach:
            return
        x, y = (round(float(value) * (1 << _FRACTION_BITS)) for value in center)
        a, b = (round(float(value) * (1 << _FRACTION_BITS)) for value in axes)
        for target, ink in ((self.image, color), (self.labels, label)):
            if ink is not None:
                value = ink if isinstance(ink, tuple) else int(ink)
                cv2.ellipse(
                    target, (x, y), (a, b), 0, 0, 360, value, -1, cv2.LINE_8, _FRACTION_BITS
                )

    def line(
        self, points: Sequence[Sequence[float]], thickness: float, color: Color, label: Label | None
    ) -> None:
        """Draw a line through points (x, y, z); `thickness` is in metres."""
        z = sum(point[2] for point in points) / len(points)
        width, seen = thickness * self.scale(z), self.shade(color, z)
        self.flat_line(self.project(points), width, seen, label)

    def flat_line(
        self, pixels: Sequence[Pixel], thickness: float, color: Color, label: Label | None
    ) -> None:
        """Draw a line through canvas pixels; `thickness` is in canvas pixels too."""
        points, width = self._to_fixed_point(pixels), max(1, round(thickness))
        if points is None:
            return
        fixed = [points]
        shift = _FRACTION_BITS
        cv2.polylines(self.image, fixed, False, color, width, cv2.LINE_8, shift)
        if label is not None:
            cv2.polylines(self.labels, fixed, False, int(label), width, cv2.LINE_8, shift)

    def wall(
        self,
        x: float,
        heights: tuple[float, float],
        depths: tuple[float, float],
        color: Color,
        label: Label | None,
        *,
        brightness: float = 1.0,
    ) -> None:
        """Fill the visible part of an upright rectangle along the street."""
        (bottom, top), near, far = heights, max(depths[0], NEAR), depths[1]
        if far > near:
            corners = [(x, bottom, near), (x, top, near), (x, top, far), (x, bottom, far)]
            self.polygon(corners, color, label, brightness=brightness)

    def front(
        self,
        sides: tuple[float, float],
        heights: tuple[float, float],
        z: float,
        color: Color,
        label: Label | None,
        *,
        brightness: float = 1.0,
    ) -> None:
        """Fill an upright rectangle across the street, at distance `z`."""
        if z >= NEAR:
            (left, right), (bottom, top) = sides, heights
            corners = [(left, bottom, z), (left, top, z), (right, top, z), (right, bottom, z)]
            self.polygon(corners, color, label, brightness=brightness)

    def floor(
        self,
        sides: tuple[float, float],
        depths: tuple[float, float],
        color: Color,
        label: Label | None,
        *,
        y: float = 0.0,
        brightness: float = 1.0,
    ) -> None:
        """Fill a level rectangle at height `y`."""
        (left, right), near, far = sides, max(depths[0], NEAR), depths[1]
        if far > near:
            corners = [(left, y, near), (right, y, near), (right, y, far), (left, y, far)]
            self.polygon(corners, color, label, brightness=brightness)


def jitter(rng: np.random.Generator, color: Color, amount: float = 0.12) -> Color:
    """Return `color` a little brighter or darker, and with a slightly different hue."""
    one, *three = rng.random(4).tolist()
    brighter = 1 + amount * (2 * one - 1)
    b, g, r = (
        min(channel * brighter * (0.94 + 0.12 * off), 255.0)
        for channel, off in zip(color, three, strict=True)
    )
    return b, g, r


def pick(rng: np.random.Generator, palette: Sequence[Color], amount: float = 0.12) -> Color:
    """Return a random colour of `palette`, varied a little."""
    return jitter(rng, palette[int(rng.integers(len(palette)))], amount)


def darken(color: Color) -> Color:
    """Return `color` a fifth darker."""
    return color[0] * 0.8, color[1] * 0.8, color[2] * 0.8
