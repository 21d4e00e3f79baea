"""The files of a result: pictures and JSON, all beside each other under one stem.

``STEM_polygons.json`` is::

    {"height": 272, "width": 640, "polygons": [
        {"label": 13, "name": "car", "area": 412, "exterior": [[x, y], ...], "holes": [...]}, ...]}

with the outlines of `polygons.Polygon`. ``STEM_coco.json`` is a COCO dataset of one image, and
``STEM_summary.json`` what ``Segmentation.to_dict`` gives.
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from alignseg_infer.datasets.labelled import require_cityscapes
from alignseg_infer.errors import OptionError
from alignseg_infer.spec.model import ClassSpec


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
