"""Drawing the sky, the ground, and what is painted on the ground."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.demo.streets.view import NEAR, SUPERSAMPLING, Color, Label, View, darken

FAR = 110.0  # metres; here the street ends at the skyline
_TEXTURE = 256  # pixels, side of the repeating ground texture


@dataclass(frozen=True)
class Ground:
    """Strips of ground and their colours; edges are metres from the middle of the road.

    Attributes:
        road: Left and right edge of the road.
        sidewalks: Left and right edge of each sidewalk.
        track: Left and right edge of the tram track, if there is one.
        lanes: Positions of the dashed lines.
        crossing: Distance to the zebra crossing, if there is one ahead.
        colors: Colours of road, sidewalk and terrain.
    """

    road: tuple[float, float]
    sidewalks: tuple[tuple[float, float], ...]
    track: tuple[float, float] | None
    lanes: tuple[float, ...]
    crossing: float | None
    colors: tuple[Color, Color, Color]


def draw_sky(view: View, rng: np.random.Generator, drift: float) -> None:
    """Draw a gradient and clouds, which move with `drift` (radians)."""
    rows = int(np.clip(view.horizon + 2, 1, view.height))
    share = np.linspace(0, 1, rows)[:, np.newaxis] ** 0.8  # (rows, 1)
    top, bottom = (np.array(color) for color in view.atmosphere.sky)
    view.image[:rows] = (top + (bottom - top) * share)[:, np.newaxis]  # (rows, 1, 3)
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
    """Draw road, sidewalks, terrain and markings, for a camera that has `travelled` (metres)."""
    road, sidewalk, terrain = ground.colors
    first = int(np.clip(np.ceil(view.horizon), 0, view.height))
    view.image[first:] = view.shade(terrain, 40.0)
    view.labels[first:] = Label.TERRAIN
    _draw_strip(view, (-60, 60), terrain, Label.TERRAIN)
    for edges in ground.sidewalks:
        _draw_strip(view, edges, sidewalk, Label.SIDEWALK)
        inner = min(edges, key=abs)
        outward = 0.18 if inner > 0 else -0.18
        _draw_strip(view, (inner, inner + outward), darken(sidewalk), None)
        _draw_joints(view, edges, sidewalk, travelled)
    _draw_strip(view, ground.road, road, Label.ROAD)
    if ground.track is not None:
        _draw_strip(view, ground.track, terrain, Label.TERRAIN)
        middle = sum(ground.track) / 2
        for rail in (middle - 0.72, middle + 0.72):
            _draw_strip(view, (rail - 0.1, rail + 0.1), (70, 75, 85), None)
    _draw_markings(view, ground, travelled)


def _draw_strip(view: View, edges: tuple[float, float], color: Color, label: Label | None) -> None:
    """Draw a strip of ground along the whole street, in pieces so that it can bend and fade."""
    depths = np.geomspace(NEAR, FAR, 18)
    for near, far in itertools.pairwise(depths):
        view.floor(edges, (near, far), color, label)


def _draw_joints(view: View, edges: tuple[float, float], color: Color, travelled: float) -> None:
    """Draw the joints across a sidewalk, every two metres."""
    for z in np.arange(2.0 - travelled % 2.0, 18.0, 2.0):
        view.floor(edges, (z, z + 0.06), darken(color), None)


def _draw_markings(view: View, ground: Ground, travelled: float) -> None:
    white = (205.0, 208.0, 210.0)
    for x in ground.lanes:
        for z in np.arange(-(travelled % 6.0), 60.0, 6.0):
            view.floor((x - 0.08, x + 0.08), (z, z + 3.0), white, None)
    for x in (ground.road[0] + 0.25, ground.road[1] - 0.25):
        _draw_strip(view, (x - 0.06, x + 0.06), white, None)
    if ground.crossing is not None and ground.crossing < 50:
        for x in np.arange(ground.road[0] + 0.5, ground.road[1] - 0.5, 1.0):
            view.floor((x, x + 0.5), (ground.crossing, ground.crossing + 3.0), white, None)


def texture_ground(view: View, travelled: float, shadows: Sequence[tuple[float, ...]]) -> None:
    """Add grain, which fades with distance, and shadows of the sun to the ground.

    Args:
        view: The view, with the plain ground already drawn.
        travelled: Metres that the camera has travelled; the grain stays where it is on the street.
        shadows: (left, right, near, far) of each shadow on the ground, in metres.
    """
    first = int(np.clip(view.horizon + view.height * 0.01, 0, view.height - 1))
    rows = np.arange(first, view.height, dtype=np.float32)[:, np.newaxis]  # (R, 1)
    columns = np.arange(view.width, dtype=np.float32)[np.newaxis]  # (1, W)
    z = view.focal * view.camera.height / (rows - view.horizon + 0.5)  # (R, 1)
    x = (columns - view.width / 2) * z / view.focal + view.camera.x - view.camera.bend * z * z
    across = np.mod(x * 24, _TEXTURE).astype(np.float32)
    along = np.broadcast_to(np.mod((z + travelled) * 24, _TEXTURE), across.shape)
    grain = cv2.remap(
        _make_grain(),
        across,
        along.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    factor: NDArray[np.float32] = np.asarray(1 + grain * np.minimum(1, 7 / z), np.float32)
    if shadows and view.atmosphere.shadow < 1:
        factor *= _cast_shadows(view, shadows)[first:]
    ground = view.image[first:]
    is_ground = view.labels[first:] != Label.SKY
    factor[~is_ground] = 1
    scaled = ground * factor[..., np.newaxis]  # (R, W, 3)
    view.image[first:] = np.clip(scaled, 0, 255).astype(np.uint8)


@cache
def _make_grain() -> NDArray[np.float32]:
    """Return repeating noise around zero, fine and coarse, (256, 256) float32."""
    rng = np.random.default_rng(1)
    fine = rng.normal(0, 0.05, (_TEXTURE, _TEXTURE))
    coarse = cv2.resize(rng.normal(0, 0.05, (16, 16)), (_TEXTURE, _TEXTURE))
    return (fine + coarse).astype(np.float32)


def _cast_shadows(view: View, shadows: Sequence[tuple[float, ...]]) -> NDArray[np.float32]:
    mask = np.full((view.height, view.width), 255, np.uint8)
    for left, right, begin, end in shadows:
        near, far = max(begin, NEAR), min(end, FAR)
        if far > near:
            corners = [(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)]
            pixels = np.clip(np.array(view.project(corners)), -view.reach, view.reach)
            cv2.fillPoly(mask, [np.rint(pixels).astype(np.int32)], 255 * view.atmosphere.shadow)
    soft = cv2.GaussianBlur(mask, (0, 0), SUPERSAMPLING * 1.5)
    return np.asarray(soft, np.float32) / np.float32(255)
