"""Drawing vehicles as boxes with windows, lights and wheels."""

import numpy as np

from alignseg_infer.demo.streets.view import NEAR, Color, Label, View, jitter, pick

CAR_PAINT: tuple[Color, ...] = (
    (45, 40, 40), (190, 190, 190), (225, 228, 230), (110, 60, 30), (40, 40, 150),
    (100, 100, 105), (120, 105, 60), (50, 90, 60), (60, 120, 170), (150, 120, 90),
)  # fmt: skip
TRUCK_PAINT: tuple[Color, ...] = ((215, 215, 215), (150, 165, 170), (60, 100, 190), (110, 140, 100))
CAB_PAINT: tuple[Color, ...] = ((50, 60, 170), (160, 90, 40), (215, 215, 215), (60, 140, 70))
BUS_PAINT: tuple[Color, ...] = ((40, 190, 225), (45, 45, 190), (60, 140, 235), (160, 170, 50))
TRAM_PAINT: tuple[Color, ...] = ((120, 150, 40), (150, 60, 130), (70, 130, 60), (60, 60, 140))
WINDOW: Color = (62, 54, 48)
TYRE: Color = (32, 32, 34)
TAIL: Color = (45, 40, 215)
HEAD: Color = (220, 240, 250)


def _visible_side(view: View, x: float, width: float) -> float | None:
    """Return the x of the long side that the camera sees; None if it sees neither."""
    if view.camera.x < x - width / 2:
        return x - width / 2
    if view.camera.x > x + width / 2:
        return x + width / 2
    return None


def _draw_box(
    view: View,
    extent: tuple[tuple[float, float], tuple[float, float], tuple[float, float]],
    color: Color,
    label: Label,
) -> None:
    """Draw the visible faces of a box, given by its sides, heights and depths."""
    sides, heights, depths = extent
    side = _visible_side(view, sum(sides) / 2, sides[1] - sides[0])
    if side is not None:
        view.wall(side, heights, depths, color, label, brightness=0.78)
    if heights[1] < view.camera.height:
        view.floor(sides, depths, color, label, y=heights[1], brightness=1.15)
    view.front(sides, heights, depths[0], color, label)


def _draw_wheel(view: View, x: float, z: float, radius: float, label: Label) -> None:
    if z - radius <= NEAR:
        return
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    rim = [(x, radius + radius * np.sin(a), z + radius * np.cos(a)) for a in angles]
    view.polygon(rim, TYRE, label)
    hub = [(x, radius + 0.5 * radius * np.sin(a), z + 0.5 * radius * np.cos(a)) for a in angles]
    view.polygon(hub, (140, 140, 140), None)


def _draw_undercarriage(
    view: View, x: float, z: float, size: tuple[float, float, float], label: Label
) -> None:
    """Draw the shadow on the ground, tyres at the near end, and wheels on the visible side."""
    width, length, radius = size
    shadow = view.shade((52, 52, 54), max(z, NEAR))
    near = max(z - 0.1, NEAR)
    if z + length <= near:
        return
    ground = [(x - width * 0.55, 0, near), (x + width * 0.55, 0, near)]
    ground += [(x + width * 0.55, 0, z + length), (x - width * 0.55, 0, z + length)]
    view.flat_polygon(view.project(ground), shadow, None)
    for end in (x - width / 2, x + width / 2 - 0.22):
        view.front((end, end + 0.22), (0, radius * 1.6), z, TYRE, label)
    side = _visible_side(view, x, width)
    if side is not None:
        for place in (z + length * 0.18, z + length * 0.8):
            _draw_wheel(view, side, place, radius, label)


def _draw_lights(
    view: View, place: tuple[float, float, float], width: float, *, facing: bool
) -> None:
    """Draw two lamps and a number plate; `place` is between the lamps."""
    x, y, z = place
    color = HEAD if facing else TAIL
    for end in (x - width / 2 + 0.06, x + width / 2 - 0.36):
        view.front((end, end + 0.3), (y, y + 0.18), z, color, None, brightness=1.1)
    view.front((x - 0.26, x + 0.26), (y - 0.22, y - 0.08), z, (215, 220, 220), None)


def draw_car(view: View, rng: np.random.Generator, x: float, z: float, facing: bool) -> None:
    """Draw a passenger car, which comes towards the camera if `facing`."""
    paint, width = pick(rng, CAR_PAINT), rng.uniform(1.65, 1.85)
    length, height = rng.uniform(3.8, 4.7), rng.uniform(1.4, 1.62)
    belt = height * 0.58
    _draw_undercarriage(view, x, z, (width, length, 0.32), Label.CAR)
    hood = length * (0.26 if facing else rng.choice((0.04, 0.14)))
    trunk = length * (0.05 if facing else 0.26)
    sides = (x - width / 2, x + width / 2)
    body = (z, z + length)
    cabin = (z + hood, z + length - trunk)
    _draw_box(view, (sides, (0.26, belt), body), paint, Label.CAR)
    _draw_cabin(view, sides, (belt, height), cabin, paint)
    _draw_lights(view, (x, belt - 0.26, z), width, facing=facing)


def _draw_cabin(
    view: View,
    sides: tuple[float, float],
    heights: tuple[float, float],
    depths: tuple[float, float],
    paint: Color,
) -> None:
    """Draw the part with windows, which is narrower and shorter at the roof than at the belt."""
    (left, right), (bottom, top), (begin, far) = sides, heights, depths
    inset, slope = 0.16, 0.28 * (top - bottom) + 0.1
    roof = (max(begin + slope, NEAR), far - slope)
    if roof[1] <= NEAR + 0.3:
        return
    side = _visible_side(view, (left + right) / 2, right - left)
    if side is not None:
        _draw_cabin_side(
            view, (side, inset if side == left else -inset), heights, (depths, roof), paint
        )
    if top < view.camera.height:
        across = (left + inset, right - inset)
        view.floor(across, roof, paint, Label.CAR, y=top, brightness=1.2)
    for margin, color in ((0.0, paint), (0.09, WINDOW)) if begin >= NEAR else ():
        corners = [
            (left + margin, bottom + margin * 0.5, begin),
            (left + inset + margin, top - margin, roof[0]),
            (right - inset - margin, top - margin, roof[0]),
            (right - margin, bottom + margin * 0.5, begin),
        ]
        view.polygon(corners, color, Label.CAR)


def _draw_cabin_side(
    view: View,
    place: tuple[float, float],
    heights: tuple[float, float],
    depths: tuple[tuple[float, float], tuple[float, float]],
    paint: Color,
) -> None:
    """Draw the long side of a cabin.

    Args:
        view: Where to draw.
        place: Where the side is, and how far it leans inwards.
        heights: Of the belt line and the roof.
        depths: Begin and end at the belt line, and at the roof.
        paint: Colour of the car.
    """
    (side, inward), (bottom, top), ((begin, far), (roof_near, roof_far)) = place, heights, depths
    for margin, color in ((0.0, paint), (0.08, WINDOW)):
        corners = [
            (side, bottom + margin * 0.5, max(begin, NEAR) + margin * 2),
            (side + inward, top - margin, roof_near + margin * 2),
            (side + inward, top - margin, roof_far - margin * 2),
            (side, bottom + margin * 0.5, far - margin * 2),
        ]
        view.polygon(corners, color, Label.CAR, brightness=0.8)
    middle = (begin + far) / 2
    post = (middle - 0.06, middle + 0.06)
    view.wall(side + inward / 2, heights, post, paint, None, brightness=0.8)


def draw_truck(view: View, rng: np.random.Generator, x: float, z: float, facing: bool) -> None:
    """Draw a truck: a cab and a closed cargo box."""
    cargo, cab = pick(rng, TRUCK_PAINT), pick(rng, CAB_PAINT)
    width, length = rng.uniform(2.2, 2.5), rng.uniform(6.5, 9.0)
    height, nose = rng.uniform(3.0, 3.7), rng.uniform(1.7, 2.1)
    label, sides = Label.TRUCK, (x - width / 2, x + width / 2)
    _draw_undercarriage(view, x, z, (width, length, 0.48), label)
    cab_depths = (z, z + nose) if facing else (z + length - nose, z + length)
    box_depths = (z + nose + 0.3, z + length) if facing else (z, z + length - nose - 0.3)
    _draw_box(view, (sides, (0.55, 0.95), (z, z + length)), (50, 50, 52), label)
    parts = [(cab_depths, (0.5, height * 0.74), cab), (box_depths, (0.95, height), cargo)]
    for depths, heights, paint in parts if not facing else parts[::-1]:
        _draw_box(view, (sides, heights, depths), paint, label)
        if paint is cab:
            _draw_truck_windows(view, sides, heights, depths)
    _draw_lights(view, (x, 0.75 if facing else 0.68, z), width, facing=facing)
    if facing:
        return
    for left, right in ((x - 0.03, x + 0.03), (x - width / 2, x - width / 2 + 0.08)):
        view.front((left, right), (0.95, height), z, jitter(rng, cargo), None, brightness=0.7)
    side = _visible_side(view, x, width)
    if side is not None:
        stripe = (height * 0.6, height * 0.72)
        view.wall(
            side, stripe, (box_depths[0] + 0.4, box_depths[1] - 0.4), cab, None, brightness=0.8
        )


def _draw_truck_windows(
    view: View,
    sides: tuple[float, float],
    heights: tuple[float, float],
    depths: tuple[float, float],
) -> None:
    top = heights[1]
    view.front((sides[0] + 0.15, sides[1] - 0.15), (top - 1.1, top - 0.25), depths[0], WINDOW, None)
    side = _visible_side(view, sum(sides) / 2, sides[1] - sides[0])
    if side is not None:
        view.wall(side, (top - 1.0, top - 0.3), (depths[0] + 0.3, depths[0] + 1.3), WINDOW, None)


def draw_bus(view: View, rng: np.random.Generator, x: float, z: float, facing: bool) -> None:
    """Draw a city bus: one colour, a band of windows, a destination sign."""
    paint, width, length = pick(rng, BUS_PAINT), 2.5, rng.uniform(9.5, 12.0)
    height, label = rng.uniform(2.9, 3.3), Label.BUS
    sides, depths = (x - width / 2, x + width / 2), (z, z + length)
    _draw_undercarriage(view, x, z, (width, length, 0.46), label)
    _draw_box(view, (sides, (0.32, height), depths), paint, label)
    side = _visible_side(view, x, width)
    if side is not None:
        view.wall(side, (1.25, 2.35), (z + 0.3, z + length - 0.3), WINDOW, None)
        for post in np.arange(z + 1.6, z + length - 0.6, 1.6):
            view.wall(side, (1.25, 2.35), (post, post + 0.12), paint, None, brightness=0.8)
        for place in (z + length * 0.18, z + length * 0.8):
            _draw_wheel(view, side, place, 0.46, label)
    lower = 1.0 if facing else 1.4
    view.front((sides[0] + 0.15, sides[1] - 0.15), (lower, 2.4), z, WINDOW, None)
    view.front((x - 0.7, x + 0.7), (height - 0.42, height - 0.12), z, (40, 160, 230), None)
    _draw_lights(view, (x, 0.62, z), width, facing=facing)


def draw_tram(view: View, rng: np.random.Generator, x: float, z: float, facing: bool) -> None:
    """Draw a tram (a train in Cityscapes): two colours, two cars, skirted wheels, a pantograph."""
    paint, width, car = pick(rng, TRAM_PAINT), 2.4, rng.uniform(11, 13)
    white, label, height = (222.0, 226.0, 228.0), Label.TRAIN, 3.5
    sides = (x - width / 2, x + width / 2)
    side = _visible_side(view, x, width)
    for start in (z + car + 0.5, z):
        depths = (start, start + car)
        if depths[1] <= NEAR:
            continue
        _draw_box(view, (sides, (0.12, height), depths), white, label)
        _draw_box(view, (sides, (0.12, 1.25), depths), paint, label)
        roof = (sides, (height, height + 0.3), (start + 1, start + car - 1))
        _draw_box(view, roof, (90, 92, 95), label)
        if side is not None:
            view.wall(side, (1.45, 2.75), (start + 0.5, start + car - 0.5), WINDOW, None)
            for post in np.arange(start + 2.2, start + car - 1, 2.2):
                view.wall(side, (0.4, 2.85), (post, post + 0.2), white, None, brightness=0.8)
    view.front((sides[0] + 0.2, sides[1] - 0.2), (1.35, 2.75), z, WINDOW, None)
    view.front((x - 0.6, x + 0.6), (2.95, 3.3), z, (60, 190, 240), None)
    _draw_lights(view, (x, 0.75, z), width, facing=facing)
    arm = z + 0.6 * car
    if arm > NEAR:
        top = height + 1.3
        frame = [(x, height, arm), (x + 0.5, height + 0.7, arm), (x, top, arm)]
        view.line(frame, 0.07, (60, 60, 62), label)
        view.line([(x - 0.6, top, arm), (x + 0.6, top, arm)], 0.07, (60, 60, 62), label)
