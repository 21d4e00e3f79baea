"""Drawing people, bicycles and motorcycles."""

import numpy as np

from alignseg_infer.demo.streets.view import Color, Label, Pixel, View, pick

SKIN: tuple[Color, ...] = ((150, 180, 225), (90, 130, 185), (60, 85, 130), (130, 165, 210))
CLOTHES: tuple[Color, ...] = (
    (50, 50, 180), (160, 80, 40), (60, 150, 60), (50, 180, 220), (150, 60, 150),
    (200, 200, 205), (60, 60, 65), (40, 110, 220), (180, 160, 60),
)  # fmt: skip
TROUSERS: tuple[Color, ...] = ((70, 50, 40), (50, 50, 52), (110, 90, 70), (60, 80, 110))
HAIR: tuple[Color, ...] = ((30, 35, 45), (50, 80, 120), (60, 60, 62), (90, 140, 180))
FRAMES: tuple[Color, ...] = ((60, 60, 190), (160, 90, 40), (60, 120, 60), (60, 60, 64))
RUBBER: Color = (34, 34, 36)


class _Figure:
    """Draws in a plane across the street, with lengths in metres from a point on the ground.

    Args:
        view: Where to draw.
        x: Metres to the right of the middle of the road.
        z: Distance, in metres.
        squeeze: Factor on widths: 1 for things seen from the side, near 0 for head on.
    """

    def __init__(self, view: View, x: float, z: float, squeeze: float = 1.0) -> None:
        self.view, self.z, self.squeeze = view, z, squeeze
        self.base = view.spot(x, 0, z)
        self.scale = view.scale(z)

    def pixels(self, places: list[tuple[float, float]]) -> list[Pixel]:
        """Convert positions (right, up), in metres, to canvas pixels."""
        (column, row), across = self.base, self.squeeze * self.scale
        return [(column + x * across, row - y * self.scale) for x, y in places]

    def limb(
        self, places: list[tuple[float, float]], width: float, color: Color, label: Label | None
    ) -> None:
        """Draw a line through positions (right, up), `width` metres thick."""
        seen = self.view.shade(color, self.z)
        self.view.flat_line(self.pixels(places), width * self.scale, seen, label)

    def shape(self, places: list[tuple[float, float]], color: Color, label: Label) -> None:
        """Draw a filled polygon."""
        self.view.flat_polygon(self.pixels(places), self.view.shade(color, self.z), label)

    def disc(
        self, place: tuple[float, float], radii: tuple[float, float], color: Color, label: Label
    ) -> None:
        """Draw a filled ellipse."""
        axes = (radii[0] * self.scale, radii[1] * self.scale)
        seen = self.view.shade(color, self.z)
        self.view.flat_ellipse(self.pixels([place])[0], axes, seen, label)


def draw_person(view: View, rng: np.random.Generator, x: float, z: float, stride: float) -> None:
    """Draw someone on foot; `stride` (radians) moves legs and arms."""
    figure = _Figure(view, x, z)
    tall, swing = rng.uniform(1.5, 1.9), 0.22 * np.sin(stride + rng.uniform(0, 6))
    shirt, trousers, skin = pick(rng, CLOTHES), pick(rng, TROUSERS), pick(rng, SKIN)
    label, hip, shoulder = Label.PERSON, tall * 0.5, tall * 0.82
    if rng.random() < 0.25:
        skirt = [(-0.13, hip + 0.1), (0.13, hip + 0.1), (0.25, hip * 0.5), (-0.25, hip * 0.5)]
        trousers = skin
    else:
        skirt = []
    for side in (-1, 1):
        knee = (side * (0.09 + abs(swing) / 3) + side * swing * 0.3, hip * 0.5)
        foot = (side * (0.1 + swing), 0.03)
        figure.limb([(side * 0.08, hip), knee, foot], 0.17, trousers, label)
        hand = (side * 0.3 - side * swing * 0.8, hip * 0.95)
        figure.limb([(side * 0.22, shoulder - 0.08), hand], 0.12, shirt, label)
    if skirt:
        figure.shape(skirt, shirt, label)
    torso = [(-0.24, shoulder), (0.24, shoulder), (0.18, hip - 0.05), (-0.18, hip - 0.05)]
    figure.shape(torso, shirt, label)
    if rng.random() < 0.3:
        side = 1 if rng.random() < 0.5 else -1
        bag = [(side * 0.2, hip), (side * 0.42, hip), (side * 0.42, hip - 0.32)]
        figure.shape([*bag, (side * 0.2, hip - 0.32)], pick(rng, CLOTHES), label)
    _draw_head(figure, rng, (0, tall * 0.92), tall * 0.072, skin)


def _draw_head(
    figure: _Figure,
    rng: np.random.Generator,
    place: tuple[float, float],
    radius: float,
    skin: Color,
) -> None:
    label = Label.PERSON
    figure.limb([(place[0], place[1] - 0.2), place], 0.1, skin, label)
    above = (place[0], place[1] + radius * 0.35)
    figure.disc(above, (radius, radius), pick(rng, HAIR), label)
    figure.disc(place, (radius * 0.9, radius), skin, label)


def draw_bicycle(view: View, rng: np.random.Generator, x: float, z: float, squeeze: float) -> None:
    """Draw a bicycle. As in Cityscapes, labels fill the wheels, but one sees through them."""
    figure, label = _Figure(view, x, z, squeeze), Label.BICYCLE
    frame, radius = pick(rng, FRAMES), 0.36
    for side in (-0.52, 0.52):
        angles = np.linspace(0, 2 * np.pi, 17)
        rim = [(side + radius * np.cos(a), radius + radius * np.sin(a)) for a in angles]
        pixels = figure.pixels(rim)
        view.flat_polygon(pixels, None, label)
        figure.limb(rim, 0.075, RUBBER, label)
        if figure.scale > 40:
            for a in (0.3, 1.3, 2.4):
                spoke = (radius * np.cos(a), radius * np.sin(a))
                ends = [(side - spoke[0], radius - spoke[1]), (side + spoke[0], radius + spoke[1])]
                figure.limb(ends, 0.015, (150, 150, 150), None)
    saddle, pedal, head, hub = (-0.2, 0.88), (-0.05, 0.36), (0.36, 0.86), (0.52, 0.36)
    back = (-0.52, 0.36)
    figure.limb([back, pedal, head, hub], 0.08, frame, label)
    figure.limb([back, (-0.17, 0.76), head], 0.07, frame, label)
    figure.limb([pedal, saddle], 0.07, frame, label)
    figure.limb([(-0.32, 0.92), (-0.1, 0.92)], 0.09, RUBBER, label)
    figure.limb([head, (0.34, 1.02), (0.5, 1.06)], 0.07, RUBBER, label)
    if squeeze < 0.5:  # handlebars are seen from the front
        across = _Figure(view, x, z)
        across.limb([(-0.28, 1.02), (0.28, 1.02)], 0.07, RUBBER, label)
        across.limb([(0, 0.05), (0, 0.95)], 0.09, RUBBER, label)


def draw_motorcycle(
    view: View, rng: np.random.Generator, x: float, z: float, squeeze: float
) -> None:
    """Draw a motorcycle: fat tyres, a tank, an engine, a seat."""
    figure, label = _Figure(view, x, z, squeeze), Label.MOTORCYCLE
    paint, radius = pick(rng, FRAMES), 0.34
    for side in (-0.68, 0.68):
        figure.disc((side, radius), (radius * squeeze, radius), RUBBER, label)
        figure.disc((side, radius), (radius * 0.5 * squeeze, radius * 0.5), (130, 130, 130), label)
    figure.shape([(-0.45, 0.3), (0.35, 0.3), (0.45, 0.7), (-0.4, 0.7)], (70, 70, 74), label)
    figure.shape([(-0.05, 0.68), (0.5, 0.66), (0.45, 1.0), (0.0, 0.98)], paint, label)
    figure.shape([(-0.9, 0.75), (-0.05, 0.68), (0.0, 0.9), (-0.85, 0.92)], RUBBER, label)
    figure.limb([(0.45, 0.9), (0.68, 0.34)], 0.12, (150, 150, 152), label)
    figure.limb([(0.4, 1.0), (0.3, 1.15), (0.2, 1.17)], 0.09, RUBBER, label)
    if squeeze < 0.6:  # seen from behind: a wide tail with a light
        across = _Figure(view, x, z)
        across.limb([(0, 0.08), (0, 0.6)], 0.24, RUBBER, label)
        across.shape([(-0.2, 0.5), (0.2, 0.5), (0.24, 0.95), (-0.24, 0.95)], paint, label)
        across.limb([(-0.38, 1.1), (0.38, 1.1)], 0.1, RUBBER, label)
        across.limb([(-0.1, 0.82), (0.1, 0.82)], 0.1, (45, 40, 215), label)


def draw_rider(
    view: View, rng: np.random.Generator, x: float, z: float, squeeze: float, *, motorized: bool
) -> None:
    """Draw someone riding a bicycle or a motorcycle."""
    vehicle = draw_motorcycle if motorized else draw_bicycle
    vehicle(view, rng, x, z, squeeze)
    figure, label = _Figure(view, x, z, max(squeeze, 0.6)), Label.RIDER
    shirt, trousers, skin = pick(rng, CLOTHES), pick(rng, TROUSERS), pick(rng, SKIN)
    seat = 0.86 if motorized else 0.95
    figure.limb([(-0.22, seat), (0.12, seat - 0.25), (-0.02, 0.36)], 0.17, trousers, label)
    if squeeze < 0.6:
        figure.limb([(0.2, seat), (0.26, seat - 0.3), (0.2, 0.38)], 0.16, trousers, label)
        figure.limb([(-0.2, seat), (-0.26, seat - 0.3), (-0.2, 0.38)], 0.16, trousers, label)
    figure.shape(
        [(-0.38, seat - 0.06), (-0.02, seat - 0.06), (0.2, seat + 0.52), (-0.2, seat + 0.56)]
        if squeeze >= 0.6
        else [(-0.3, seat - 0.06), (0.3, seat - 0.06), (0.34, seat + 0.54), (-0.34, seat + 0.54)],
        shirt,
        label,
    )
    figure.limb([(0.08, seat + 0.46), (0.22, seat + 0.2), (0.36, seat + 0.12)], 0.12, shirt, label)
    helmet = pick(rng, CLOTHES)
    figure.disc((0.06, seat + 0.74), (0.13, 0.15), skin, label)
    figure.disc((0.05, seat + 0.8), (0.16, 0.13) if motorized else (0.14, 0.1), helmet, label)
