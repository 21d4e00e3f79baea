"""The files of a result: pictures and JSON in one folder, with one stem.

``STEM_polygons.json`` is::

    {"height": 272, "width": 640, "polygons": [
        {"label": 13, "name": "car", "area": 412, "exterior": [[x, y], ...], "holes": [...]}, ...]}

with the outlines of `polygons.Polygon`. ``STEM_coco.json`` is a COCO dataset of one image.
``STEM_summary.json`` has the values that ``Segmentation.to_dict`` returns.
"""

from collections.abc import Iterable
from pathlib import Path

from alignseg_infer.backports import StrEnum
from alignseg_infer.datasets.labelled import require_cityscapes
from alignseg_infer.errors import OptionError
from alignseg_infer.files.reading import user_path
from alignseg_infer.spec.model import ClassSpec
from alignseg_infer.text import near_words


class SavedFormat(StrEnum):
    """The files that a result can be saved as.

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
        """End of the file name, which follows the stem."""
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
ENDINGS = tuple(_ENDINGS.values())
PICTURES = (SavedFormat.LABELS, SavedFormat.COLOR, SavedFormat.OVERLAY)


def parse_formats(formats: Iterable[str]) -> list[SavedFormat]:
    """Return the formats with these names, without duplicates.

    Raises:
        OptionError: There is no format with one of these names, or there are no names.
    """
    names = [name.strip() for name in ([formats] if isinstance(formats, str) else formats)]
    known = [member.value for member in SavedFormat]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        near = near_words(unknown[0], known) if unknown else []
        raise OptionError(
            f"results cannot be saved as {unknown[0]!r}" if unknown else "no format was named",
            f"one or more of {', '.join(known)}, without spaces",
            f"formats={near or ['overlay', 'polygons']}",
        )
    return [SavedFormat(name) for name in dict.fromkeys(names)]


def require_savable(formats: Iterable[SavedFormat], classes: ClassSpec) -> None:
    """Check that results with these classes can be saved in these formats.

    Raises:
        OptionError: Cityscapes' labelIds were requested, but the classes are others.
    """
    if SavedFormat.LABEL_IDS in formats:
        require_cityscapes(classes)


def folder_error(stem: str) -> OptionError:
    """Return the error for a stem that names a folder."""
    return OptionError(
        f"save({stem!r}) names a folder",
        "a path without ending, to which _labels.png and other endings are added",
        f"save({str(Path(stem) / 'street')!r})",
    )


def paths_to_save(stem: str | Path, formats: Iterable[str] = PICTURES) -> list[Path]:
    """Return the paths that `Segmentation.save` writes.

    Raises:
        OptionError: `stem` names a folder, or there is no format with one of these names.
    """
    stem, text = user_path(stem), str(stem)
    if not stem.name or text.endswith(("/", "\\")):
        raise folder_error(text)
    return [stem.with_name(stem.name + kind.ending) for kind in parse_formats(formats)]
