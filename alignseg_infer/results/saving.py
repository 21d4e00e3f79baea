"""The files of a result: pictures and JSON, all beside each other under one stem.

``STEM_polygons.json`` is::

    {"height": 272, "width": 640, "polygons": [
        {"label": 13, "name": "car", "area": 412, "exterior": [[x, y], ...], "holes": [...]}, ...]}

with the outlines of `polygons.Polygon`. ``STEM_coco.json`` is a COCO dataset of one image, and
``STEM_summary.json`` what ``Segmentation.to_dict`` gives.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignseg_infer.datasets.labelled import require_cityscapes
from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.images import encoded_image
from alignseg_infer.results.coco_rle import coco_dataset
from alignseg_infer.spec.model import ClassSpec

if TYPE_CHECKING:
    from alignseg_infer.results.segmentation import Segmentation


class SavedFormat(StrEnum):
    """What can be saved of a result.

    Labels, colours and overlay are pictures; ``label-ids`` is a PNG with Cityscapes' labelIds.
    """

    LABELS = "labels"
    COLOR = "color"
    OVERLAY = "overlay"
    LABEL_IDS = "label-ids"
    POLYGONS = "polygons"
    COCO = "coco"
    SUMMARY = "summary"

    @property
    def ending(self) -> str:
        """What is added to the stem."""
        return _ENDINGS[self]


_ENDINGS = {
    SavedFormat.LABELS: "_labels.png",
    SavedFormat.COLOR: "_color.png",
    SavedFormat.OVERLAY: "_overlay.jpg",
    SavedFormat.LABEL_IDS: "_labelIds.png",
    SavedFormat.POLYGONS: "_polygons.json",
    SavedFormat.COCO: "_coco.json",
    SavedFormat.SUMMARY: "_summary.json",
}
PICTURES = (SavedFormat.LABELS, SavedFormat.COLOR, SavedFormat.OVERLAY)


def saved_formats(formats: Iterable[str]) -> list[SavedFormat]:
    """Formats from their names, each once.

    Raises:
        OptionError: There is no such format, or none was named.
    """
    names = [name.strip() for name in ([formats] if isinstance(formats, str) else formats)]
    known = [member.value for member in SavedFormat]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise OptionError(
            f"results cannot be saved as {unknown[0]!r}" if unknown else "no format was named",
            f"some of {', '.join(known)}, without spaces",
            "formats=['overlay', 'polygons']",
        )
    return [SavedFormat(name) for name in dict.fromkeys(names)]


def require_savable(formats: Iterable[SavedFormat], classes: ClassSpec) -> None:
    """Checks that results with these classes can be saved so.

    Raises:
        OptionError: They cannot.
    """
    if SavedFormat.LABEL_IDS in formats:
        require_cityscapes(classes)


def saved_paths(stem: str | Path, formats: Iterable[str] = PICTURES) -> list[Path]:
    """What `Segmentation.save` writes.

    Raises:
        OptionError: `stem` names a folder, or there is no such format.
    """
    stem, text = Path(stem), str(stem)
    if not stem.name or text.endswith(("/", "\\")):
        raise OptionError(
            f"save({text!r}) names a folder",
            "a path without ending, to which _labels.png and others are added",
            f"save({str(stem / 'street')!r})",
        )
    return [stem.with_name(stem.name + kind.ending) for kind in saved_formats(formats)]


def summary_of(result: "Segmentation", *, rle: bool) -> dict[str, Any]:
    """Sizes, times and classes as JSON values; see `Segmentation.to_dict`."""
    height, width = result.size
    shares = result.class_share()
    masks = {part["category_id"]: part["segmentation"] for part in result.to_coco()} if rle else {}
    classes = []
    for name, pixels in result.pixel_counts().items():
        label = result.classes.names.index(name)
        facts = {
            "label": label,
            "name": name,
            "color": list(result.classes.colors[label]),
            "pixels": pixels,
            "share": shares[name],
        }
        classes.append({**facts, "rle": masks[label]} if rle else facts)
    return {
        "height": height,
        "width": width,
        "input_size": list(result.input_size),
        "backend": result.backend,
        "times_ms": {**asdict(result.times), "total": result.times.total},
        "dataset": result.classes.dataset,
        "classes": classes,
    }


def file_content(
    result: "Segmentation", kind: SavedFormat, *, opacity: float, tolerance: float
) -> bytes:
    """The bytes of one file.

    Args:
        result: What to save.
        kind: How.
        opacity: Opacity of the overlay, 0..1.
        tolerance: Pixels by which polygons may be off.

    Raises:
        OptionError: `opacity` or `tolerance` cannot be used, or the result cannot be saved so.
        OutputError: The format does not hold so many pixels.
    """
    match kind:
        case SavedFormat.LABELS:
            return encoded_image(result.labels, ".png")
        case SavedFormat.COLOR:
            return encoded_image(result.color(), ".png")
        case SavedFormat.OVERLAY:
            return encoded_image(result.overlay(opacity), ".jpg")
        case SavedFormat.LABEL_IDS:
            return encoded_image(result.label_ids(), ".png")
        case SavedFormat.POLYGONS:
            return _json(_polygons(result, tolerance))
        case SavedFormat.COCO:
            return _json(coco_dataset(result.labels, result.classes.names))
        case SavedFormat.SUMMARY:
            return result.to_json().encode()


def _polygons(result: "Segmentation", tolerance: float) -> dict[str, Any]:
    height, width = result.size
    polygons = [polygon.to_dict() for polygon in result.polygons(tolerance)]
    return {"height": height, "width": width, "polygons": polygons}


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
