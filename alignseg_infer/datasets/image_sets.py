"""Images to calibrate with: from a source, as batches take it, or from a video."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from alignseg_infer.arrays import Image
from alignseg_infer.datasets.addresses import is_address, plain_place
from alignseg_infer.datasets.copies import Copies, FilePath, file_of
from alignseg_infer.datasets.image_paths import IMAGE_ENDINGS, LIST_ENDING, is_glob
from alignseg_infer.datasets.sources import find_source_images, is_manifest, nothing_found_error
from alignseg_infer.errors import AlignSegError, DatasetError, OptionError, OutputError
from alignseg_infer.files.reading import is_folder, require_file, sha256_of
from alignseg_infer.pixels.encoded import MAX_PIXELS, require_max_pixels, require_pixels
from alignseg_infer.pixels.images import image_from_array, read_image

DEFAULT_MAX_IMAGES = 128
PROBLEMS_SHOWN = 20
FEWEST_COLORS = 32  # among every 64th pixel
LEAST_JUMP = 3  # between classes in label files it is 5 to 255; in frames with noise, 1 to 2
SMALLEST_JUDGED = 64  # pixels per side; smaller images have too few pixels to tell
_FLAT = (
    f"has fewer than {FEWEST_COLORS} colours: it looks like a label file, a mask or a dark frame"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFiles:
    """Image files, all of which can be read.

    Attributes:
        name: Description for people: "128 of 500 images in DATA".
        paths: The files, in reading order. Those at addresses have copies, as long as something
            refers to them.
        digests: A hash that identifies each image.
        max_pixels: The largest number of pixels of an image.
    """

    name: str
    paths: tuple[FilePath, ...]
    digests: tuple[str, ...]
    max_pixels: int = MAX_PIXELS

    def read(self, start: int = 0) -> Iterator[Image]:
        """Read the images from number `start` on, (H, W, 3) uint8 BGR."""
        return (read_image(path, self.max_pixels) for path in self.paths[start:])


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video.

    Attributes:
        name: Description for people: "128 of 4500 frames of drive.mp4".
        path: The video.
        frames: Numbers of the frames, increasing.
        digests: A hash that identifies each frame.
        max_pixels: The largest number of pixels of a frame.
    """

    name: str
    path: Path
    frames: tuple[int, ...]
    digests: tuple[str, ...]
    max_pixels: int = MAX_PIXELS

    def read(self, start: int = 0) -> Iterator[Image]:
        """Read the frames from position `start` of `frames` on, (H, W, 3) uint8 BGR.

        Earlier frames are decoded, too, because seeking is not exact in every format.

        Raises:
            DatasetError: The video has changed and ends too early.
        """
        capture, position = _open_video(self.path, self.max_pixels), -1
        for frame in self.frames[start:]:
            while position < frame and capture.grab():
                position += 1
            done, pixels = capture.retrieve()
            if position < frame or not done:
                raise _video_error(self.path, f"it ends before frame {frame}")
            yield image_from_array(np.asarray(pixels))


class _Flat(Enum):
    """What an image with few colours is; a photograph has thousands of colours."""

    LABELS = "label file"
    DARK = "dark or empty frame, or labels whose values are near each other"


CalibrationImages: TypeAlias = ImageFiles | VideoFrames


def choose_images(
    source: str | Path, max_images: int = DEFAULT_MAX_IMAGES, max_pixels: int = MAX_PIXELS
) -> CalibrationImages:
    """Choose images spread evenly over `source`, the same ones each time.

    Args:
        source: A folder, a glob, a list, a manifest, an image or an address, as
            `sources.find_source_images` takes them; or a video. Of an address, only the images that
            are chosen are fetched. Label files are left out, with a warning. Images with few
            colours must be less than half of all images.
        max_images: Maximum number of images.
        max_pixels: The largest number of pixels of an image or a frame.

    Raises:
        DatasetError: There are no images, files are missing or cannot be decoded (they are listed),
            or the video or the address cannot be read.
        OptionError: `max_images` or `max_pixels` is below 1, or the address cannot be opened.
        MissingDependencyError: The package for the address is not installed.
        OutputError: The temporary folder has no room for copies.
    """
    require_max_pixels(max_pixels)
    if max_images < 1:
        raise OptionError(
            f"{max_images} images of {source} were requested",
            "1 or more; about 100 are enough to calibrate, and 8 to compare",
            f"a number such as {DEFAULT_MAX_IMAGES}",
        )
    place = plain_place(source)
    if not is_address(place) and _is_video(path := Path(place)):
        require_file(path, "a folder, a glob, a list of images, or a video", DatasetError)
        return _choose_frames(path, max_images, max_pixels)
    return _choose_files(place, max_images, max_pixels)


def _is_video(source: Path) -> bool:
    """Return whether a file, which may not exist, is no list, manifest or image."""
    if is_manifest(source):
        return False
    if is_folder(source, DatasetError) or (is_glob(str(source)) and not source.exists()):
        return False
    return source.suffix.lower() not in (LIST_ENDING, *IMAGE_ENDINGS)


def spread_evenly(count: int, limit: int) -> list[int]:
    """Choose `limit` of the numbers below `count`, from the middle of equal parts, or all."""
    if count <= limit:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * limit) for part in range(limit)]


def _choose_files(source: str, limit: int, max_pixels: int) -> ImageFiles:
    """Choose some files and look at them."""
    images, copies = list(find_source_images(source)), Copies(max_pixels)
    chosen = [file_of(images[index], copies) for index in spread_evenly(len(images), limit)]
    if not chosen:
        raise nothing_found_error(source)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(partial(_look_at, max_pixels), chosen))
    seen = list(zip(chosen, found, strict=True))
    problems = [look for look in found if look and not isinstance(look, _Flat)]
    labels, dark = ([path for path, look in seen if look is kind] for kind in _Flat)
    if 2 * (len(labels) + len(dark)) >= len(chosen):
        problems += [f"{path} {_FLAT}" for path, look in seen if isinstance(look, _Flat)]
    else:
        _warn_of(labels, f"images of {source} that look like label files are left out")
        _warn_of(dark, f"images of {source} with few colours are kept, as dark or empty frames")
    if problems:
        raise DatasetError(
            f"{len(problems)} of {len(chosen)} images of {source} cannot be used:"
            + _list_first(problems),
            "readable photographs like those that the model will see",
            "pass a folder or a list of such images only, without label files and with few black "
            "frames; copy damaged images again",
        )
    used = [path for path, look in seen if look is not _Flat.LABELS]
    name = f"{len(used)} of {len(images)} images of {source}"
    return ImageFiles(name, tuple(used), tuple(sha256_of(Path(path)) for path in used), max_pixels)


def _warn_of(found: Sequence[FilePath], what: str) -> None:
    """Name the images; a command that chooses again, to verify, says it only of other ones."""
    if found:
        names = list(map(str, found))
        logger.warning("%s:%s", what, _list_first(names), extra={"about": frozenset(names)})


def _list_first(lines: Sequence[str]) -> str:
    """Return the first lines, each indented, and how many more there are."""
    rest = len(lines) - PROBLEMS_SHOWN
    more = [f"and {rest} more"] if rest > 0 else []
    return "".join(f"\n    {line}" for line in [*lines[:PROBLEMS_SHOWN], *more])


def _look_at(max_pixels: int, path: FilePath) -> str | _Flat | None:
    """Return what is wrong with an image, or what it is if it has few colours, or None."""
    try:
        if isinstance(path, Path):
            require_file(path, "an image", DatasetError)  # it is read several times
        image = read_image(path, max_pixels)
    except OutputError:  # no room for a copy of this image, nor of others
        raise
    except AlignSegError as error:
        return error.problem if str(path) in error.problem else f"{path}: {error.problem}"
    if min(image.shape[:2]) < SMALLEST_JUDGED:
        return None
    colors = np.unique(image[::8, ::8].reshape(-1, 3), axis=0)
    if len(colors) >= FEWEST_COLORS:
        return None
    return _Flat.LABELS if _has_jumps(image) else _Flat.DARK


def _has_jumps(image: Image) -> bool:
    """Return whether the regions of an image with few colours have edges, as classes have.

    In a dark frame, values are near each other. The median removes noise and single bright pixels.
    """
    smooth = cv2.medianBlur(image, 5).astype(np.int16)
    steps = [np.abs(np.diff(smooth, axis=axis)).max(2).ravel() for axis in (0, 1)]
    edges = np.concatenate(steps)
    edges = edges[edges > 0]
    return bool(edges.size and edges.mean() >= LEAST_JUMP)


def _choose_frames(path: Path, limit: int, max_pixels: int) -> VideoFrames:
    capture, count = _open_video(path, max_pixels), 0
    while capture.grab():  # the number of frames in the header is often an estimate
        count += 1
    if not count:
        raise _video_error(path, "none of its frames can be decoded")
    frames = tuple(spread_evenly(count, limit))
    digest = sha256_of(path)
    digests = (hashlib.sha256(f"{digest} {frame}".encode()).hexdigest() for frame in frames)
    name = f"{len(frames)} of {count} frames of {path}"
    return VideoFrames(name, path, frames, tuple(digests), max_pixels)


def _open_video(path: Path, max_pixels: int) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise _video_error(path, f"OpenCV cannot open it as a video (ending {path.suffix!r})")
    height, width = cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH
    size = int(capture.get(height)), int(capture.get(width))
    require_pixels(size, max_pixels, f"a frame of {path}")
    return capture


def _video_error(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path} cannot be used: {reason}",
        f"a folder of images, a list of them ({LIST_ENDING}), or a video that OpenCV reads",
        f"ffmpeg -i {path} frames/%05d.png, then pass the folder",
    )
