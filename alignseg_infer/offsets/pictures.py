"""Pictures of offset fields: colours by direction and length, arrows, and a sheet of both.

Colours follow the optical-flow convention (Baker et al., "A Database and Evaluation Methodology for
Optical Flow", IJCV 2011) on the plain HSV wheel. Hue is the direction, from red (right) clockwise
through yellow-green (down), cyan (left) and violet (up). Saturation is the length, from white (0)
to the full colour at a limit. Vectors longer than the limit are darker by a quarter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from alignseg_infer.arrays import Image
from alignseg_infer.drawing.masks import blend
from alignseg_infer.drawing.writing import text_width, write_text
from alignseg_infer.offsets.displacement import HIGH_PERCENTILE, Displacement, Vectors
from alignseg_infer.ops.offset_fields import OffsetField

SHEET_WIDTH = 1840
BEYOND_LIMIT = 0.75  # brightness of vectors that are longer than the limit
ROUNDING = 1e-4  # relative; vectors as long as the limit must not count as longer
ARROW_SPACING = 20  # least distance between arrows, in pixels of the picture
MOST_ARROWS = 30  # in a row
LONGEST_ARROW = 40  # pixels of the picture
DIMMED = 0.35  # opacity of the black over the image below arrows

MARGIN = 16
CAPTION = 48  # height below each picture; its wheel is as high
LINE = 20
LEGEND_HEIGHT = 180
LEGEND = (
    "Colours and arrows point to",
    "where a pixel reads its",
    "feature. White = in place.",
    f"Wheel radius = {HIGH_PERCENTILE}th",
    "percentile of displacement;",
    "longer vectors are darker.",
    "px = network input pixels.",
)
WHITE, GRAY = (255, 255, 255), (160, 160, 160)


def direction_colors(vectors: Vectors, limit: float) -> Image:
    """Return the colour of each vector.

    Args:
        vectors: (H, W, 2) float32, x (right) then y (down).
        limit: Length that gets the full colour; if 0, everything is white.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    x, y = vectors[..., 0], vectors[..., 1]
    relative = np.hypot(x, y) / limit if limit > 0 else np.zeros_like(x)
    hue = np.degrees(np.arctan2(y, x)) % 360
    value = np.where(relative > 1 + ROUNDING, BEYOND_LIMIT, 1.0)
    hsv = np.stack((hue, np.minimum(relative, 1), value), -1).astype(np.float32)
    return np.asarray(np.rint(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)), np.uint8)


def color_wheel(diameter: int) -> Image:
    """Draw the colour wheel: each point has the colour of the vector from the centre to it.

    Returns:
        (diameter, diameter, 3) uint8 BGR, full colour at the rim and white outside.
    """
    radius = diameter / 2
    steps = np.arange(diameter, dtype=np.float32) + 0.5 - radius
    vectors = np.stack(np.meshgrid(steps, steps), -1)
    wheel = direction_colors(vectors, radius)
    wheel[np.hypot(vectors[..., 0], vectors[..., 1]) > radius] = WHITE
    center = (diameter * 8 - 8, diameter * 8 - 8)  # in sixteenths of a pixel
    cv2.circle(wheel, center, int(16 * radius) - 8, GRAY, 1, cv2.LINE_AA, 4)
    return wheel


def color_map(displacement: Displacement, size: tuple[int, int]) -> Image:
    """Draw the field in colours, with the full colour at the limit of `color_limit`.

    Args:
        displacement: The field.
        size: (height, width) of the picture.

    Returns:
        (height, width, 3) uint8 BGR.
    """
    colors = direction_colors(displacement.vectors, color_limit(displacement))
    larger = size[1] > colors.shape[1]
    interpolation = cv2.INTER_NEAREST if larger else cv2.INTER_AREA
    return np.asarray(cv2.resize(colors, size[::-1], interpolation=interpolation), np.uint8)


def color_limit(displacement: Displacement) -> float:
    """Return the length that gets the full colour.

    This is the 95th percentile, or the maximum if the 95th percentile is 0.
    """
    magnitudes = displacement.magnitudes
    return magnitudes.high or magnitudes.largest


class ArrowMap(NamedTuple):
    """A picture with arrows.

    Attributes:
        picture: (height, width, 3) uint8 BGR.
        step: Distance between arrows, in pixels of the field.
        zoom: Length of an arrow divided by the displacement that it shows, both in pixels of the
            picture.
    """

    picture: Image
    step: int
    zoom: float


def arrow_map(image: Image, displacement: Displacement, size: tuple[int, int]) -> ArrowMap:
    """Draw the field as arrows over the darkened image, from each pixel to where it reads.

    Lengths are scaled so that an arrow of the full colour fills the space between arrows. Longer
    arrows are cut to this length.

    Args:
        image: (input_h, input_w, 3) uint8 BGR at the network's input size.
        displacement: The field.
        size: (height, width) of the picture.
    """
    picture = _resized(image, size)
    picture = blend(picture, np.zeros_like(picture), DIMMED)
    rows, columns = displacement.vectors.shape[:2]
    spread = np.array([size[1] / columns, size[0] / rows])
    step = int(np.ceil(max(ARROW_SPACING, size[1] / MOST_ARROWS) / spread[0]))
    places = np.ix_(_centred(rows, step), _centred(columns, step))
    vectors, limit = displacement.vectors[places], color_limit(displacement)
    scale = 0.9 * min(step * spread[0], LONGEST_ARROW) / limit if limit > 0 else 0.0
    colors = direction_colors(vectors, limit)
    starts = (np.stack(np.meshgrid(places[1], places[0]), -1) + 0.5) * spread
    lengths = np.maximum(np.hypot(vectors[..., 0], vectors[..., 1]), np.finfo(np.float32).tiny)
    ends = starts + vectors * (scale * np.minimum(1, limit / lengths))[..., np.newaxis]
    _draw_arrows(picture, starts.reshape(-1, 2), ends.reshape(-1, 2), colors.reshape(-1, 3))
    return ArrowMap(picture, step, scale * image.shape[1] / size[1])


def _centred(count: int, step: int) -> list[int]:
    return list(range((count - 1) % step // 2, count, step))


def _draw_arrows(picture: Image, starts: Vectors, ends: Vectors, colors: Image) -> None:
    """Draw all outlines first, so that no outline covers an arrow."""
    for outline in (True, False):
        for start, end, color in zip(starts * 16, ends * 16, colors.tolist(), strict=True):
            a, b = np.rint(start).astype(int).tolist(), np.rint(end).astype(int).tolist()
            ink, thickness = (WHITE, 3) if outline else (color, 1)
            cv2.arrowedLine(picture, a, b, ink, thickness, cv2.LINE_AA, 4, 0.35)


def _resized(image: Image, size: tuple[int, int]) -> Image:
    larger = size[1] > image.shape[1]
    interpolation = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size[::-1], interpolation=interpolation), np.uint8)


class _Cell(NamedTuple):
    """One picture of the sheet, two lines below it, and what the radius of its wheel is."""

    picture: Image
    title: str
    note: str
    radius: str = ""


class _Layout(NamedTuple):
    """The sheet's number of columns, the space for each picture, and the scale of the font."""

    columns: int
    width: int
    height: int
    text: float


def offsets_sheet(image: Image, fields: Sequence[Displacement]) -> Image:
    """Draw one picture of everything: the image, a legend, and each field as colours and arrows.

    Args:
        image: (input_h, input_w, 3) uint8 BGR at the network's input size.
        fields: The fields to show. A single field is shown larger.

    Returns:
        (height, SHEET_WIDTH, 3) uint8 BGR.
    """
    columns = 4 if len(fields) > 1 else 2
    width = (SHEET_WIDTH - (columns + 1) * MARGIN) // columns
    scale = width / max(image.shape[:2])
    size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    layout = _Layout(columns, width, max(size[0], LEGEND_HEIGHT), 0.45 if columns == 4 else 0.6)
    note = f"network input, {image.shape[0]}x{image.shape[1]} pixels"
    cells = [_Cell(_resized(image, size), "image", note), _Cell(_legend(layout), "", "")]
    for field in fields:
        cells += [_map_cell(field, size), _arrow_cell(image, field, size)]
    return _sheet_of(cells, layout)


def _map_cell(field: Displacement, size: tuple[int, int]) -> _Cell:
    rows, columns = field.vectors.shape[:2]
    median, high, largest = map(pixels_text, field.magnitudes)
    note = f"median {median}, {HIGH_PERCENTILE}th percentile {high}, max {largest} px"
    radius = f"radius {pixels_text(color_limit(field))} px"
    title = f"{field.field}, {rows}x{columns}"
    if field.field is OffsetField.CAM:
        title += ", into the 3x3 context map"
    return _Cell(color_map(field, size), title, note, radius)


def _arrow_cell(image: Image, field: Displacement, size: tuple[int, int]) -> _Cell:
    arrows = arrow_map(image, field, size)
    title = f"{field.field}, arrows scaled {pixels_text(arrows.zoom)}x"
    every = "every pixel" if arrows.step == 1 else f"every {arrows.step} pixels"
    note = f"one arrow {every} of the field, clipped at {pixels_text(color_limit(field))} px"
    return _Cell(arrows.picture, title, note)


def pixels_text(length: float) -> str:
    """Return a length with three digits, without an exponent if that is readable."""
    return f"{length:.0f}" if 100 <= length < 1e6 else f"{length:.3g}"


def _legend(layout: _Layout) -> Image:
    """Draw the colour wheel with its directions, and explain the pictures."""
    canvas = np.full((layout.height, layout.width, 3), WHITE, np.uint8)
    line = round(LINE * layout.text / 0.45)
    diameter = min(layout.height - 3 * line, layout.width // 3)
    middle, left = layout.height // 2, 3 * line
    _paste(canvas, color_wheel(diameter), (middle - diameter // 2, left))
    center = left + diameter // 2
    for text, x, y in (
        ("up", center - line // 2, middle - diameter // 2 - line // 3),
        ("down", center - line, middle + diameter // 2 + line),
        ("left", left - 2 * line, middle + line // 3),
        ("right", left + diameter + line // 2, middle + line // 3),
    ):
        write_text(canvas, text, (x, y), scale=layout.text)
    x = left + diameter + 3 * line
    widest = max(text_width(text, layout.text) for text in LEGEND)
    scale = layout.text * min(1, (layout.width - x) / widest)
    for index, text in enumerate(LEGEND):
        y = middle + round((index - len(LEGEND) / 2 + 0.8) * line)
        write_text(canvas, text, (x, y), scale=scale)
    return canvas


def _sheet_of(cells: list[_Cell], layout: _Layout) -> Image:
    rows = [cells[i : i + layout.columns] for i in range(0, len(cells), layout.columns)]
    heights = [max(cell.picture.shape[0] for cell in row) for row in rows]
    bottoms = np.cumsum(heights) + MARGIN + np.arange(len(rows)) * (CAPTION + MARGIN)
    canvas = np.full((int(bottoms[-1]) + CAPTION + MARGIN, SHEET_WIDTH, 3), WHITE, np.uint8)
    for row, bottom in zip(rows, bottoms.tolist(), strict=True):
        for column, cell in enumerate(row):
            left = MARGIN + column * (layout.width + MARGIN)
            _draw_cell(canvas, cell, (bottom, left), layout)
    return canvas


def _draw_cell(canvas: Image, cell: _Cell, place: tuple[int, int], layout: _Layout) -> None:
    """Draw `cell`, from the left end and the bottom of its picture: (y, x) in `place`."""
    bottom, left = place
    height, width = cell.picture.shape[:2]
    x = left + (layout.width - width) // 2
    _paste(canvas, cell.picture, (bottom - height, x))
    if not cell.title:
        return
    cv2.rectangle(canvas, (x - 1, bottom - height - 1), (x + width, bottom), GRAY)
    room = beside = layout.width
    if cell.radius:
        diameter = CAPTION - 6
        _paste(canvas, color_wheel(diameter), (bottom + 4, left + layout.width - diameter))
        room -= diameter + 6
        beside = room - text_width(cell.radius, layout.text)
        write_text(canvas, cell.radius, (left + beside, bottom + LINE), scale=layout.text)
    title, note = (left, bottom + LINE), (left, bottom + 2 * LINE)
    write_text(canvas, cell.title, title, scale=layout.text, room=beside - 6)
    write_text(canvas, cell.note, note, scale=layout.text, room=room)


def _paste(canvas: Image, picture: Image, place: tuple[int, int]) -> None:
    height, width = picture.shape[:2]
    canvas[place[0] : place[0] + height, place[1] : place[1] + width] = picture
