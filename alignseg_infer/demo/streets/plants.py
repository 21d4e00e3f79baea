"""Drawing hedges, trees and bushes."""

import numpy as np

from alignseg_infer.demo.streets.view import NEAR, Color, Label, View, pick

GREENS: tuple[Color, ...] = (
    (45, 95, 60),
    (40, 110, 75),
    (50, 85, 50),
    (45, 120, 95),
    (40, 105, 110),
)
TRUNKS: tuple[Color, ...] = ((45, 60, 80), (60, 70, 85))


def draw_hedge(view: View, rng: np.random.Generator, x: float, depths: tuple[float, float]) -> None:
    """Draw a clipped hedge along the street."""
    color, height = pick(rng, GREENS), rng.uniform(1.0, 2.0)
    view.wall(x, (0, height), depths, color, Label.VEGETATION)
    near, far = max(depths[0], NEAR), depths[1]
    if far <= near:
        return
    for _ in range(int(26 * min(1.0, 15 / near))):
        z, y = rng.uniform(near, far), rng.uniform(0.1, height)
        size = rng.uniform(0.1, 0.25) * view.scale(z)
        shade = view.shade(color, z, rng.uniform(0.7, 1.3))
        view.flat_ellipse(view.spot(x, y, z), (size * 0.7, size), shade, Label.VEGETATION)


def draw_tree(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a trunk and a crown of leaves; both are vegetation, as in Cityscapes."""
    height, girth, crown = rng.uniform(4, 8.5), rng.uniform(0.2, 0.45), rng.uniform(1.4, 2.8)
    trunk = pick(rng, TRUNKS)
    sides = (x - girth / 2, x + girth / 2)
    view.front(sides, (0, height * 0.7), z, trunk, Label.VEGETATION)
    draw_leaves(view, rng, (x, height * 0.75, z), (crown, height * 0.3), 26 if z < 35 else 12)


def draw_bush(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a low plant."""
    radius = rng.uniform(0.4, 0.9)
    draw_leaves(view, rng, (x, radius * 0.8, z), (radius * 1.2, radius * 0.7), 12)


def draw_leaves(
    view: View,
    rng: np.random.Generator,
    center: tuple[float, float, float],
    radii: tuple[float, float],
    count: int,
) -> None:
    """Draw a crown of leaves: `count` overlapping blobs around `center`, with radii in metres."""
    x, y, z = center
    color = pick(rng, GREENS)
    scale = view.scale(z)
    view.flat_ellipse(
        view.spot(*center),
        (radii[0] * 0.75 * scale, radii[1] * 0.8 * scale),
        view.shade(color, z, 0.8),
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
            view.shade(color, z, brightness),
            Label.VEGETATION,
        )
