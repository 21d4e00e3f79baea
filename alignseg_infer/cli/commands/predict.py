"""``alignseg predict``: images in, masks out."""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alignseg_infer.cli.arguments.formats import add_format_arguments
from alignseg_infer.cli.arguments.inference import (
    add_inference_arguments,
    predictor_from,
)
from alignseg_infer.cli.arguments.values import (
    MODEL_HELP,
    add_destination,
    add_overlay_arguments,
    image_path,
)
from alignseg_infer.cli.streams import print_message, print_to_pipe
from alignseg_infer.cli.translation import translate_error
from alignseg_infer.datasets.addresses import is_address
from alignseg_infer.datasets.image_paths import (
    LIST_ENDING,
    find_images,
    is_glob,
    no_images_error,
)
from alignseg_infer.drawing.masks import require_opacity
from alignseg_infer.errors import (
    DatasetError,
    ImageError,
    OptionError,
    OutOfMemoryError,
    OutputError,
    SizeError,
)
from alignseg_infer.files.reading import is_folder, real_path
from alignseg_infer.files.writing import require_writable_folder
from alignseg_infer.predictor import Predictor
from alignseg_infer.results.failure import Failure
from alignseg_infer.results.polygons import require_tolerance
from alignseg_infer.results.saving import (
    SavedFormat,
    paths_to_save,
    require_savable,
)
from alignseg_infer.results.segmentation import Segmentation

HELP = "Segment images, and write labels (PNG), colours (PNG) and an overlay (JPEG) for each."
EXAMPLE = "Example: alignseg predict alignseg.onnx street.jpg -o out/"
CLASSES_SHOWN = 3
_WEB = ("http://", "https://", "ftp://")  # the error about a file says how to download it
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "images",
        nargs="+",
        type=_path_or_address,
        help="images to segment: files, folders with their subfolders, globs, or .txt lists of "
        "paths; - for an image that comes through standard input",
    )
    add_destination(parser, "folder to write the results into")
    add_overlay_arguments(parser)
    add_format_arguments(parser)
    add_inference_arguments(parser)


def _path_or_address(text: str) -> Path | str:
    """Parse a path of images; an address stays text, since a path makes one slash of two."""
    return text if is_address(text) and not text.startswith(_WEB) else image_path(text)


def run(arguments: argparse.Namespace) -> int:
    """Segment each image; report one that fails, and continue with the others."""
    _require_paths(arguments)
    images = _find_images(arguments.images, arguments.destination)
    _require_distinct_names(images)
    _require_no_image_among_results(images, arguments.destination, arguments.formats)
    require_opacity(arguments.opacity)
    require_tolerance(arguments.tolerance)
    _require_folder_name(arguments.destination)
    require_writable_folder(arguments.destination)
    predictor = predictor_from(arguments, arguments.model)
    require_savable(arguments.formats, predictor.spec.classes)
    failures, listened = 0, True
    for image, result in _segment_each(predictor, images):
        try:
            text = _save(result, image, arguments)
        except (ImageError, SizeError, OptionError, OutOfMemoryError, OutputError) as error:
            if len(images) == 1 or arguments.debug:
                raise
            failures += 1
            translate_error(error, arguments.parser)
            print_message(f"error: {error}", sys.stderr)
        else:
            listened &= print_to_pipe(text)
    if failures:
        print_message(f"{failures} of {len(images)} images failed", sys.stderr)
    return 1 if failures or not listened else 0


class _Image(NamedTuple):
    """An image to segment, and the path of its results below the destination, without ending."""

    path: Path
    stem: Path


def _require_paths(arguments: argparse.Namespace) -> None:
    """Check that no image is at an address.

    Raises:
        OptionError: One is.
    """
    for source in arguments.images:
        if isinstance(source, str):
            words = ("alignseg", "batch", arguments.model, source, "-o", arguments.destination)
            raise OptionError(
                f"{source} is an address",
                "files or folders; alignseg batch takes addresses",
                shlex.join(map(str, words)),
            )


def _find_images(sources: list[Path], destination: Path) -> list[_Image]:
    """Find the images; those of a folder or a glob keep their folders, and results are left out.

    Raises:
        DatasetError: A folder or a list cannot be read, or has no images.
    """
    results, images = real_path(destination), []
    for source in sources:
        if not _has_several(source):
            images.append(_Image(source, Path(source.stem)))
            continue
        found = find_images(source, lambda folder: real_path(folder) != results)
        paths = list(found.paths)
        if not paths:
            raise no_images_error(str(source), str(found.root))
        is_list = source.suffix.lower() == LIST_ENDING and not is_folder(source, DatasetError)
        for path in paths:
            below = Path(path.name) if is_list else path.relative_to(found.root)
            images.append(_Image(path, below.with_suffix("")))
    return images


def _has_several(source: Path) -> bool:
    """Return whether a source is a folder, a glob, or a list."""
    if is_folder(source, DatasetError):
        return True
    if is_glob(str(source)) and not os.path.lexists(source):
        return True
    return source.suffix.lower() == LIST_ENDING and source.is_file()


def _segment_each(
    predictor: Predictor, images: list[_Image]
) -> Iterator[tuple[_Image, Segmentation | Failure]]:
    """Segment images, of which those of equal size that follow each other share a network call."""
    if len(images) == 1:
        yield images[0], predictor([images[0].path], errors="return")[0]
        return
    paths = [image.path for image in images]
    with predictor.stream(paths, errors="return") as results:
        yield from zip(images, results, strict=True)


def _save(result: Segmentation | Failure, image: _Image, arguments: argparse.Namespace) -> str:
    """Write the files of one image, and return the lines that tell about them.

    Raises:
        AlignSegError: It could not be segmented, or cannot be saved.
    """
    if isinstance(result, Failure):
        raise result.error
    path = image.path
    written = result.save(
        arguments.destination / image.stem,
        arguments.opacity,
        formats=arguments.formats,
        tolerance=arguments.tolerance,
        outline=arguments.outline,
    )
    return "\n".join([f"{path}: {_summarise(result)}", *(f"  {file}" for file in written)])


def _summarise(result: Segmentation) -> str:
    shares = list(result.class_share().items())[:CLASSES_SHOWN]
    seen = ", ".join(f"{name} {share:.0%}" for name, share in shares)
    times = result.times
    return (
        f"{seen}; {times.total:.0f} ms (load {times.load:.0f}, preprocess {times.preprocess:.0f}, "
        f"infer {times.infer:.0f}, postprocess {times.postprocess:.0f}) on {result.backend}"
    )


def _require_folder_name(output: Path) -> None:
    if output.suffix.lower() in PICTURE_ENDINGS and not is_folder(output, OutputError):
        raise OptionError(
            f"the destination {output} looks like an image file",
            "a folder, since several files are written for each image",
            f"-o {output.with_suffix('')}",
        )


def _require_no_image_among_results(
    images: list[_Image], folder: Path, formats: list[SavedFormat]
) -> None:
    """Check that no result overwrites an image, such as a ``street_overlay.jpg`` of an earlier run.

    Raises:
        OptionError: A result would overwrite an image.
    """
    given = {real_path(image.path) for image in images}
    for image in images:
        for path in paths_to_save(folder / image.stem, formats):
            if real_path(path) in given:
                raise OptionError(
                    f"the result {path} would overwrite an image of this command",
                    "results and images in different folders",
                    "another folder with -o",
                )


def _require_distinct_names(images: list[_Image]) -> None:
    """Check that names differ: results are named after images, and would overwrite each other.

    Raises:
        OptionError: Two images have the same name.
    """
    counts = Counter(image.stem for image in images)
    for stem, count in counts.items():
        if count > 1:
            raise OptionError(
                f"{count} images have the name {str(stem)!r}, and so would their results",
                "images whose names differ without their endings",
                "one command per folder or kind, such as 'FOLDER/*.png', each with its own -o",
            )
