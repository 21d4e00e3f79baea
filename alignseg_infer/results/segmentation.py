"""The result of segmenting an image."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats, Image, Labels, Size
from alignseg_infer.choices import check_kinds, choose
from alignseg_infer.datasets.class_tables import label_of
from alignseg_infer.datasets.labelled import cityscapes_ids
from alignseg_infer.drawing.masks import (
    blend,
    colorize,
    draw_legend,
    outline_regions,
    share_text,
    shrink_picture,
    stack_pictures,
)
from alignseg_infer.errors import OptionError, OutputError
from alignseg_infer.files.reading import is_folder, user_path
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.results.coco_rle import (
    CocoAnnotation,
    CocoRle,
    coco_annotations,
    coco_dataset,
    coco_rle,
)
from alignseg_infer.results.label_studio import brush_config, brush_results
from alignseg_infer.results.polygons import Polygon, polygons_of
from alignseg_infer.results.saving import (
    PICTURES,
    SavedFormat,
    folder_error,
    parse_formats,
    paths_to_save,
)
from alignseg_infer.results.times import StageTimes
from alignseg_infer.spec.model import ChannelOrder, ClassSpec

if TYPE_CHECKING:
    from fiftyone import ColorScheme
    from fiftyone import Segmentation as FiftyOneSegmentation
    from matplotlib.axes import Axes
    from rerun import AnnotationContext, SegmentationImage
    from supervision import Detections

MIN_SHEET_WIDTH = 320  # pixels, of a legend
BLOCK = 1 << 20  # pixels that are counted at once
MAX_SHEET_SIDE = 1024  # pixels, of the picture in a notebook


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One segmented image.

    Attributes:
        labels: (H, W) uint8 (uint16 for labels above 255), at the image's own size. Where the model
            leaves out classes or has a threshold, some pixels have none: their label is above
            those of `classes`, usually 255.
        image: (H, W, 3) uint8 BGR, the image that was segmented.
        classes: Names and colours by label.
        input_size: (height, width) of the network input: the tile of a sliding window, or the
            largest of several scales.
        backend: What ran the network, e.g. ``onnxruntime (CPUExecutionProvider)``.
        times: Milliseconds per stage.
        confidence: (H, W) float32 in 0..1, probability of the label; None if not requested.
        probabilities: (C, H, W) float32; None if not requested.
        source: Path of the image, as it was given; None for an array or a PIL image.
    """

    labels: Labels
    image: Image = field(repr=False)
    classes: ClassSpec
    input_size: Size
    backend: str
    times: StageTimes
    confidence: Floats | None = None
    probabilities: Floats | None = None
    source: str | None = None

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = list(self.class_share().items())[:3]
        seen = ", ".join(f"{name} {share:.0%}" for name, share in shares)
        name = f"{self.source}, " if self.source else ""
        cost = f"{self.times.total:.0f} ms, {self.backend}"
        return f"Segmentation({name}{height}x{width}: {seen}; {cost})"

    @check_kinds
    def color(self, order: str = ChannelOrder.BGR) -> Image:
        """Return each pixel in its class's colour, (H, W, 3) uint8.

        Args:
            order: ``"bgr"`` (for OpenCV) or ``"rgb"``.

        Raises:
            OptionError: `order` is something else.
        """
        return _reorder_channels(colorize(self.labels, self.classes), order)

    @check_kinds
    def overlay(
        self, opacity: float = 0.5, order: str = ChannelOrder.BGR, *, outline: bool = False
    ) -> Image:
        """Return the colours drawn over the image, (H, W, 3) uint8.

        Args:
            opacity: Opacity of the colours, 0..1.
            order: ``"bgr"`` (for OpenCV) or ``"rgb"``.
            outline: Whether to draw a white line where classes meet.

        Raises:
            OptionError: `opacity` or `order` cannot be used.
        """
        picture = blend(self.image, self.color(), opacity)
        if outline:
            picture = outline_regions(picture, self.labels)
        return _reorder_channels(picture, order)

    @property
    def size(self) -> Size:
        """(height, width) of the image and its labels."""
        return self.labels.shape[0], self.labels.shape[1]

    @check_kinds
    def legend(self, width: int | None = None, order: str = ChannelOrder.BGR) -> Image:
        """Draw the classes of this image with colours and shares, largest first.

        The picture is (h, width, 3) uint8.

        Args:
            width: Pixels, 64 or more; None for the image's width, but at least 320.
            order: ``"bgr"`` (for OpenCV) or ``"rgb"``.

        Raises:
            OptionError: `width` or `order` cannot be used.
        """
        width = max(MIN_SHEET_WIDTH, self.size[1]) if width is None else width
        return _reorder_channels(draw_legend(self.classes, width, self.class_share()), order)

    def pixel_counts(self) -> dict[str, int]:
        """Return the number of pixels by class name, largest first, without absent classes."""
        rows = max(1, BLOCK // self.labels.shape[1])
        blocks = (self.labels[top : top + rows] for top in range(0, len(self.labels), rows))
        counts = np.zeros(len(self.classes.names), np.int64)
        for block in blocks:
            counts += _count_labels(block, len(counts))
        order = np.argsort(-counts, kind="stable")
        return {self.classes.names[label]: int(counts[label]) for label in order if counts[label]}

    def class_share(self) -> dict[str, float]:
        """Return the share of pixels (0..1) by class name, largest first, if above 0."""
        return {name: count / self.labels.size for name, count in self.pixel_counts().items()}

    def mask(self, which: str | int) -> NDArray[np.bool_]:
        """Return which pixels belong to a class, (H, W) bool.

        Args:
            which: Name or label of the class. It does not have to occur in the image.

        Raises:
            OptionError: There is no such class.
        """
        return np.equal(self.labels, label_of(self.classes, which))

    @check_kinds
    def polygons(self, tolerance: float = 0.0, min_area: int = 0) -> list[Polygon]:
        """Return the connected regions of each class, as outlines with holes.

        Coordinates are x, y of pixel centres. Filling the exact outlines (`tolerance` 0) of a
        region together gives back its pixels: ``cv2.fillPoly(canvas, [p.exterior, *p.holes], 1)``.

        Args:
            tolerance: Pixels by which simplified outlines may be off.
            min_area: Regions with fewer pixels are left out.

        Returns:
            The polygons in the order of labels, and the largest first within a class.

        Raises:
            OptionError: `tolerance` or `min_area` is negative or not finite.
        """
        return polygons_of(self.labels, self.classes.names, tolerance, min_area)

    def coco_rle(self, which: str | int) -> CocoRle:
        """Return a class's mask as COCO's compressed RLE, ``{"size": [H, W], "counts": "..."}``.

        Args:
            which: Name or label of the class. It does not have to occur in the image.

        Raises:
            OptionError: There is no such class.
        """
        return coco_rle(self.labels, label_of(self.classes, which))

    @check_kinds
    def to_coco(self, image_id: int | None = None) -> list[CocoAnnotation]:
        """Return a COCO stuff annotation for each class of the image, in the order of labels.

        ``category_id`` is the label, counted from 0 as in `classes`.

        Args:
            image_id: Number of the image in its dataset; None to leave it out.
        """
        return coco_annotations(self.labels, len(self.classes.names), image_id)

    def label_ids(self) -> Image:
        """Return (H, W) uint8 labelIds for Cityscapes' test server: 7 for road, 33 for bicycle.

        Raises:
            OptionError: The classes are not those of Cityscapes.
        """
        return cityscapes_ids(self.labels, self.classes)

    @check_kinds
    def to_dict(self, *, rle: bool = False) -> dict[str, Any]:
        """Return sizes, times and classes (largest first) as JSON values.

        Args:
            rle: Whether to include the mask of each class, as `coco_rle` returns it.
        """
        height, width = self.size
        return {
            "source": self.source,
            "height": height,
            "width": width,
            "input_size": list(self.input_size),
            "backend": self.backend,
            "times_ms": {**asdict(self.times), "total": self.times.total},
            "dataset": self.classes.dataset,
            "classes": self._list_classes(rle=rle),
        }

    def _list_classes(self, *, rle: bool) -> list[dict[str, Any]]:
        shares = self.class_share()
        masks = (
            {part["category_id"]: part["segmentation"] for part in self.to_coco()} if rle else {}
        )
        classes = []
        for name, pixels in self.pixel_counts().items():
            label = self.classes.names.index(name)
            facts = {
                "label": label,
                "name": name,
                "color": list(self.classes.colors[label]),
                "pixels": pixels,
                "share": shares[name],
            }
            classes.append({**facts, "rle": masks[label]} if rle else facts)
        return classes

    @check_kinds
    def to_json(self, *, rle: bool = False) -> str:
        """Return `to_dict` as a JSON string."""
        return json.dumps(self.to_dict(rle=rle), indent=2)

    @check_kinds
    def plot(
        self,
        ax: "Axes | None" = None,
        opacity: float = 0.5,
        legend: bool = True,
        *,
        outline: bool = False,
    ) -> "Axes":
        """Draw the overlay with Matplotlib.

        Pyplot keeps a new figure until it is closed: ``plt.close(result.plot().figure)``.

        Args:
            ax: Axes to draw in; None for a new figure.
            opacity: Opacity of the colours, 0..1.
            legend: Whether to list the classes of the image with their shares.
            outline: Whether to draw a white line where classes meet.

        Returns:
            The axes with the picture.

        Raises:
            MissingDependencyError: Matplotlib is not installed.
            OptionError: `ax` or `opacity` cannot be used.
        """
        from alignseg_infer.results.plotting import LegendEntry, plot_overlay

        if ax is not None and not hasattr(ax, "imshow"):
            raise OptionError(f"ax={ax!r}", "Axes of Matplotlib, or None", "result.plot()")
        colors = dict(zip(self.classes.names, self.classes.colors, strict=True))
        entries = [
            LegendEntry(f"{name} {share_text(share)}", colors[name])
            for name, share in self.class_share().items()
        ]
        overlay = self.overlay(opacity, order="rgb", outline=outline)
        return plot_overlay(overlay, entries if legend else [], ax)

    @check_kinds
    def to_supervision(self, *, regions: bool = False, min_area: int = 0) -> "Detections":
        """Return the classes of the image as ``supervision.Detections``.

        Use it to annotate, filter or count them. Each detection has a mask (H, W) bool, a box,
        ``class_id``, ``data["class_name"]`` and, if the result has `confidence`, the mean
        confidence of its pixels. All masks together are (N, H, W), one byte per pixel and
        detection.

        Args:
            regions: Whether each connected region becomes a separate detection.
            min_area: Classes or regions with fewer pixels are left out.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        from alignseg_infer.results.supervision_detections import detections_of

        if regions:
            polygons = self.polygons(min_area=min_area)
            labels = [polygon.label for polygon in polygons]
            masks = [polygon.mask(self.size) for polygon in polygons]
        else:
            found = [name for name, count in self.pixel_counts().items() if count >= min_area]
            labels = [self.classes.names.index(name) for name in found]
            masks = [self.mask(label) for label in labels]
        return detections_of(masks, labels, self.classes.names, self.size, self.confidence)

    def to_fiftyone(self) -> "FiftyOneSegmentation":
        """Return the labels as ``fiftyone.Segmentation``.

        The mask's values are the labels plus 1, because FiftyOne's app never shows the value 0.
        Pixels of no class, such as 255, become 0. `fiftyone_targets` has the names.

        Raises:
            MissingDependencyError: FiftyOne is not installed.
        """
        from alignseg_infer.results.fiftyone_masks import mask_of

        return mask_of(self.labels, self.classes)

    def fiftyone_targets(self) -> "tuple[dict[int, str], ColorScheme]":
        """Return the names and the colours of the values in `to_fiftyone`'s masks, for a dataset.

        ::

            targets, colors = result.fiftyone_targets()
            dataset.default_mask_targets = targets
            dataset.app_config.color_scheme = colors
            dataset.save()

        Raises:
            MissingDependencyError: FiftyOne is not installed.
        """
        from alignseg_infer.results.fiftyone_masks import targets_of

        return targets_of(self.classes)

    def to_rerun(self) -> "tuple[SegmentationImage, AnnotationContext]":
        """Return the labels, and the names and colours of the classes, for Rerun.

        Both belong to one entity: ``rerun.log("street/labels", *result.to_rerun())``. Pixels of
        no class, such as 255, are transparent.

        Raises:
            MissingDependencyError: Rerun is not installed.
        """
        from alignseg_infer.results.rerun_images import segmentation_image

        return segmentation_image(self.labels, self.classes)

    @check_kinds
    def to_label_studio(
        self, from_name: str = "label", to_name: str = "image"
    ) -> list[dict[str, Any]]:
        """Return the ``result`` of a prediction in Label Studio: a brush mask for each class.

        ::

            prediction = {"model_version": "alignseg", "result": result.to_label_studio()}
            task = {"data": {"image": "s3://streets/1.jpg"}, "predictions": [prediction]}

        Pixels of no class, such as 255, stay unlabelled.

        Args:
            from_name: Name of the ``BrushLabels`` in the project's labelling configuration.
            to_name: Name of its ``Image``.
        """
        return brush_results(self.labels, self.classes, from_name, to_name)

    @check_kinds
    def label_studio_config(self, from_name: str = "label", to_name: str = "image") -> str:
        """Return a labelling configuration for Label Studio with the names and colours, as XML.

        Args:
            from_name: Name of its ``BrushLabels``.
            to_name: Name of its ``Image``, which shows ``$image`` of the task's data.
        """
        return brush_config(self.classes, from_name, to_name)

    def _repr_png_(self) -> bytes:
        """Return the PNG that a notebook shows: the overlay above its legend."""
        overlay = shrink_picture(self.overlay(), MAX_SHEET_SIDE)
        width = max(MIN_SHEET_WIDTH, overlay.shape[1])
        return encode_image(stack_pictures(overlay, self.legend(width)), ".png")

    @check_kinds
    def save(
        self,
        stem: str | Path,
        opacity: float = 0.5,
        *,
        formats: str | Sequence[str] = PICTURES,
        tolerance: float = 0.0,
        outline: bool = False,
    ) -> list[Path]:
        """Write ``STEM_labels.png``, ``STEM_color.png`` and ``STEM_overlay.jpg``, or others.

        The labels PNG has one channel with the label of each pixel (8 or 16 bit).

        Args:
            stem: Path without ending, e.g. ``out/street``. Its folder is created if necessary.
            opacity: Opacity of the colours in the overlay.
            formats: Some of ``"labels"``, ``"color"``, ``"overlay"``, ``"label-ids"`` (PNG with
                Cityscapes' labelIds), ``"polygons"``, ``"coco"`` and ``"summary"`` (JSON; `saving`
                describes their contents).
            tolerance: Pixels by which saved polygons may be off.
            outline: Whether to draw a white line where classes meet, in the overlay.

        Returns:
            The paths of the files, in the order of `formats`.

        Raises:
            OptionError: An argument is invalid, or cannot be used with these classes.
            OutputError: The files cannot be written.
        """
        if is_folder(user_path(stem), OutputError):
            raise folder_error(str(stem))
        paths = paths_to_save(stem, formats)
        files = self.encode_files(
            Path(stem).name, opacity, formats=formats, tolerance=tolerance, outline=outline
        )
        for path, content in zip(paths, files.values(), strict=True):
            with write_atomically(path) as temporary:
                temporary.write_bytes(content)
        return paths

    @check_kinds
    def encode_files(
        self,
        name: str,
        opacity: float = 0.5,
        *,
        formats: str | Sequence[str] = PICTURES,
        tolerance: float = 0.0,
        outline: bool = False,
    ) -> dict[str, bytes]:
        """Return the bytes of the files that `save` writes, by their names.

        Args:
            name: Name of the files without ending, e.g. ``street``.
            opacity: As `save` takes it.
            formats: As `save` takes them.
            tolerance: As `save` takes it.
            outline: As `save` takes it.

        Raises:
            OptionError: An argument is invalid, or cannot be used with these classes.
        """
        return {
            name + kind.ending: self._encode_file(kind, name, tolerance, opacity, outline=outline)
            for kind in parse_formats(formats)
        }

    def _file_name(self, stem: str) -> str:
        """Return the name of the image's file, or, for an array, one like those of the results."""
        return Path(self.source).name if self.source else f"{stem}.png"

    def _encode_file(
        self, kind: SavedFormat, name: str, tolerance: float, opacity: float, *, outline: bool
    ) -> bytes:
        """Return the bytes of one of the files of `save`."""
        match kind:
            case SavedFormat.LABELS:
                return encode_image(self.labels, ".png")
            case SavedFormat.COLOR:
                return encode_image(self.color(), ".png")
            case SavedFormat.OVERLAY:
                return encode_image(self.overlay(opacity, outline=outline), ".jpg")
            case SavedFormat.LABEL_IDS:
                return encode_image(self.label_ids(), ".png")
            case SavedFormat.POLYGONS:
                height, width = self.size
                polygons = [polygon.to_dict() for polygon in self.polygons(tolerance)]
                content = {"height": height, "width": width, "polygons": polygons}
                return json.dumps(content).encode()
            case SavedFormat.COCO:
                file_name = self._file_name(name)
                dataset = coco_dataset(self.labels, self.classes.names, file_name)
                return json.dumps(dataset).encode()
            case SavedFormat.SUMMARY:
                return self.to_json().encode()


def _count_labels(labels: Labels, classes: int) -> NDArray[np.int64]:
    """Return the number of pixels by label. At most 2^24 pixels, which OpenCV counts exactly."""
    if labels.dtype == np.uint8:  # a fifth of the time that np.bincount takes
        counts = cv2.calcHist([labels], [0], None, [256], [0, 256])
        return counts.ravel()[:classes].astype(np.int64)
    return np.bincount(labels.ravel(), minlength=classes)[:classes]


def _reorder_channels(picture: Image, order: str) -> Image:
    """Return a BGR picture in another channel order."""
    if choose(ChannelOrder, order, "order") is ChannelOrder.RGB:
        return np.ascontiguousarray(picture[..., ::-1])
    return picture
