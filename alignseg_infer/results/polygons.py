"""Regions of a label map as polygons with holes.

A region is a connected set of pixels of one class, where diagonal neighbours count as connected
(8-connected), as in ``cv2.findContours``. Coordinates are x (column) and y (row) of pixel centres;
the top left pixel is (0, 0). The exterior and the holes run along pixels of the region itself: a
hole is outlined by the pixels around it. Filling all outlines together therefore gives back exactly
the region's pixels::

    cv2.fillPoly(canvas, [polygon.exterior, *polygon.holes], 1)

The geometric area inside the outlines is smaller than the number of pixels, by about half the
outline's length: a region of one pixel is one point, and the outline of a line one pixel wide goes
there and back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Labels, Size
from alignseg_infer.choices import check_kinds
from alignseg_infer.errors import OptionError
from alignseg_infer.results.runs import extent_of, runs_by_label

Points: TypeAlias = NDArray[np.int32]

MIN_HOLE_POINTS = 3


@dataclass(frozen=True, eq=False)
class Polygon:
    """One connected region of one class.

    Attributes:
        label: Label of the class.
        name: Name of the class.
        exterior: (N, 2) int32, x and y of the outline's corners, which are pixel centres.
        holes: An outline (M, 2) int32 for each hole, on the region's pixels around it. Nothing
            inside a hole belongs to this region, not even other regions of the same class.
        area: Number of pixels in the region, before any simplification.
    """

    label: int
    name: str
    exterior: Points = field(repr=False)
    holes: tuple[Points, ...] = field(repr=False)
    area: int

    @check_kinds
    def mask(self, size: Size) -> NDArray[np.bool_]:
        """Return the region's pixels as (H, W) bool; approximate if the outline was simplified.

        Args:
            size: Height and width of the image.
        """
        canvas = np.zeros(size, np.uint8)
        cv2.fillPoly(canvas, [self.exterior, *self.holes], 1)
        return canvas.view(np.bool_)

    def to_dict(self) -> dict[str, Any]:
        """Return the polygon as JSON values, with points as ``[x, y]``."""
        return {
            "label": self.label,
            "name": self.name,
            "area": self.area,
            "exterior": self.exterior.tolist(),
            "holes": [hole.tolist() for hole in self.holes],
        }


def polygons_of(
    labels: Labels, names: Sequence[str], tolerance: float = 0.0, min_area: int = 0
) -> list[Polygon]:
    """Return the regions of a label map.

    Args:
        labels: (H, W), each below the number of names.
        names: Names of the classes.
        tolerance: Pixels by which simplified outlines may be off; 0 for exact outlines. Holes with
            fewer than three remaining corners are left out.
        min_area: Regions with fewer pixels are left out.

    Returns:
        The polygons in the order of labels, and the largest first within a class.

    Raises:
        OptionError: `tolerance` or `min_area` is negative or not finite.
    """
    require_tolerance(tolerance)
    if not 0 <= min_area < math.inf:
        raise OptionError(f"min_area={min_area}", "0 or more pixels", "min_area=100")
    found: list[Polygon] = []
    for label, runs in runs_by_label(labels).items():
        if label >= len(names):  # void
            continue
        top, bottom, left, right = extent_of(runs, labels.shape[1])
        mask = labels[top : bottom + 1, left : right + 1] == label
        for area, outlines in _find_regions(mask, (left, top), min_area):
            exterior, *holes = outlines if tolerance == 0 else _simplify(outlines, tolerance)
            found.append(Polygon(label, names[label], exterior, tuple(holes), area))
    return found


def require_tolerance(tolerance: float) -> None:
    """Check the number of pixels by which outlines may be off.

    Raises:
        OptionError: `tolerance` is negative or not finite.
    """
    if not 0 <= tolerance < math.inf:
        raise OptionError(
            f"polygons with tolerance={tolerance}",
            "0 (exact) or more pixels",
            "tolerance=1.5",
        )


def _find_regions(
    mask: NDArray[np.bool_], origin: tuple[int, int], min_area: int
) -> list[tuple[int, list[Points]]]:
    """Return the area and the outlines (exterior first) of each region, the largest first."""
    contours, (hierarchy,) = cv2.findContours(
        mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=origin
    )
    outlines = [np.asarray(contour, np.int32)[:, 0] for contour in contours]  # (points, 2) each
    parents = np.asarray(hierarchy)[:, 3]  # (outlines,): the exterior of each hole, else -1
    is_hole = parents >= 0
    areas = _count_pixels(outlines, is_hole)  # (outlines,)
    np.subtract.at(areas, parents[is_hole], areas[is_hole])
    kept = {
        int(index): [outlines[index]]
        for index in np.argsort(-areas, kind="stable")
        if not is_hole[index] and areas[index] >= min_area
    }
    for hole in np.flatnonzero(is_hole):
        if int(parents[hole]) in kept:
            kept[int(parents[hole])].append(outlines[hole])
    return [(int(areas[index]), region) for index, region in kept.items()]


def _count_pixels(outlines: list[Points], is_hole: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the pixels inside each outline by Pick's theorem.

    The pixels of the outline itself count for exteriors, but not for holes.
    """
    ends = np.cumsum([len(outline) for outline in outlines])  # (outlines,)
    starts = np.concatenate(([0], ends[:-1]))  # (outlines,)
    points = np.concatenate(outlines).astype(np.int64)  # (points, 2)
    following = np.roll(points, -1, axis=0)  # (points, 2)
    following[ends - 1] = points[starts]
    cross = points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]  # (points,)
    twice_area = np.abs(np.add.reduceat(cross, starts))  # (outlines,)
    steps = np.add.reduceat(np.abs(following - points).max(axis=1), starts)  # (outlines,)
    enclosed: NDArray[np.int64] = (twice_area + np.where(is_hole, -steps, steps)) // 2 + 1
    return enclosed


def _simplify(outlines: list[Points], tolerance: float) -> list[Points]:
    shorter = [
        np.asarray(cv2.approxPolyDP(outline, tolerance, closed=True), np.int32)[:, 0]
        for outline in outlines
    ]
    return [shorter[0], *(hole for hole in shorter[1:] if len(hole) >= MIN_HOLE_POINTS)]
