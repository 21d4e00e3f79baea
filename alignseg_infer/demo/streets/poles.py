"""Drawing street lamps, traffic signs and traffic lights."""

import numpy as np

from alignseg_infer.demo.streets.view import Color, Label, View, pick

METALS: tuple[Color, ...] = ((95, 95, 95), (70, 72, 70), (130, 130, 128), (60, 75, 60))


def draw_lamp(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a street lamp that reaches over the road."""
    color, height = pick(rng, METALS), rng.uniform(5, 7.5)
    width, reach = rng.uniform(0.2, 0.3), -np.sign(x) * rng.uniform(1.2, 2.2)
    view.line([(x, 0, z), (x, height, z), (x + reach, height + 0.4, z)], width, color, Label.POLE)
    head = (x + reach * 0.8, x + reach * 1.25)
    view.front(
        (min(head), max(head)), (height + 0.3, height + 0.55), z, color, Label.POLE, brightness=1.3
    )


def draw_sign(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw one or two traffic signs on a pole: discs, triangles or plates."""
    y, size = rng.uniform(2.3, 3.0), rng.uniform(0.42, 0.55)
    width = rng.uniform(0.14, 0.2)
    view.line([(x, 0, z), (x, y + size, z)], width, pick(rng, METALS), Label.POLE)
    _draw_plate(view, rng, (x, y, z), size)
    if rng.random() < 0.4:
        _draw_plate(view, rng, (x, y - 2 * size, z), size * 0.9)


def _draw_plate(
    view: View, rng: np.random.Generator, center: tuple[float, float, float], size: float
) -> None:
    x, y, z = center
    red, blue, yellow, white = (45, 40, 200), (185, 95, 30), (40, 190, 235), (235, 235, 235)
    kind, label = rng.integers(4), Label.TRAFFIC_SIGN
    pixels = size * view.scale(z)
    middle = view.spot(*center)
    if kind == 0:
        view.flat_ellipse(middle, (pixels, pixels), view.shade(red, z), label)
        view.flat_ellipse(middle, (pixels * 0.68, pixels * 0.68), view.shade(white, z), None)
    elif kind == 1:
        view.flat_ellipse(middle, (pixels, pixels), view.shade(blue, z), label)
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
    """Draw a pole with one or two dark boxes of three lamps; lamp `phase` (0 to 2) is lit."""
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
        _draw_lamps(view, (column, row, z), phase)


def _draw_lamps(view: View, center: tuple[float, float, float], phase: int) -> None:
    x, y, z = center
    box = (x - 0.3, x + 0.3), (y - 0.75, y + 0.75)
    view.front(*box, z, (38, 42, 38), Label.TRAFFIC_LIGHT)
    radius = 0.19 * view.scale(z)
    for index, lit in enumerate(((60, 60, 245), (50, 190, 250), (110, 220, 80))):
        color = lit if index == phase else (lit[0] * 0.3, lit[1] * 0.3, lit[2] * 0.3)
        place = view.spot(x, y + 0.46 - 0.46 * index, z)
        view.flat_ellipse(place, (radius, radius), color, None)
