"""Reading and decoding the bytes of image files, with OpenCV and what it does not do by itself."""

import re
import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.errors import ImageError, OptionError, OutOfMemoryError
from alignseg_infer.files.reading import require_readable
from alignseg_infer.pixels.containers import JPEG_SCAN, JPEG_SIGNATURE, PNG_SIGNATURE, jpeg_segments
from alignseg_infer.pixels.header import colors_of_avif, orientation_of, size_of
from alignseg_infer.pixels.value_range import scale_to_8_bits, value_range_of
from alignseg_infer.pixels.wide_color import color_name, to_bt709

MAX_PIXELS = 178_956_970  # as in Pillow: a quarter of a GiB, at 3 bytes per pixel half a GiB
# An image without compression has at most 8 bytes per pixel; the rest is for what surrounds it.
_BYTES_PER_PIXEL, _OTHER_BYTES = 8, 64 << 20
_LIMIT_OF_OPENCV = re.compile("CV_IO_MAX_IMAGE_(WIDTH|HEIGHT|PIXELS)")


def require_max_pixels(max_pixels: object) -> None:
    """Raise OptionError unless `max_pixels` is a whole number of at least 1."""
    if type(max_pixels) is not int or max_pixels < 1:
        raise OptionError(
            f"max_pixels={max_pixels!r}",
            "the largest number of pixels that an image may have",
            f"max_pixels={MAX_PIXELS}, which is the default",
        )


def require_pixels(size: Size, max_pixels: int, name: Path | str) -> None:
    """Raise ImageError if an image of `size` has more than `max_pixels` pixels.

    Args:
        size: (height, width).
        max_pixels: The largest number of pixels.
        name: What to call the image in the message.
    """
    height, width = size
    if height * width > max_pixels:
        raise ImageError(
            f"{name} has {height}x{width} (height x width) = {height * width} pixels",
            f"at most {max_pixels} pixels, since a small file can take all memory",
            f"max_pixels={height * width} if you trust where the image comes from",
        )


def read_encoded(path: Path, max_pixels: int) -> bytes:
    """Return the bytes of an image file or of a pipe, which is read to its end.

    Raises:
        ImageError: The file cannot be read, is empty or truncated, or holds more bytes than an
            image of `max_pixels` pixels.
    """
    require_max_pixels(max_pixels)
    status = require_readable(path, "an image", ImageError)
    limit = _BYTES_PER_PIXEL * max_pixels + _OTHER_BYTES
    try:
        if stat.S_ISREG(status.st_mode) and status.st_size > limit:
            data = b""
        else:
            with path.open("rb") as file:
                data = file.read() if stat.S_ISREG(status.st_mode) else file.read(limit + 1)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror or error}",
            "an image file, or a pipe that an image comes through",
            f"copy it to a file first: cat {path} > image.jpg",
        ) from error
    require_encoded(path, data, max(status.st_size, len(data)), max_pixels)
    return data


def require_encoded(path: Path | str, data: bytes, size: int, max_pixels: int) -> None:
    """Check that bytes may be those of an image with at most `max_pixels` pixels.

    Args:
        path: Where they come from.
        data: The bytes.
        size: How many there are at `path`.
        max_pixels: The largest number of pixels.

    Raises:
        ImageError: There are none, too few or too many.
    """
    limit = _BYTES_PER_PIXEL * max_pixels + _OTHER_BYTES
    if size > limit:
        raise ImageError(
            f"{path} has more than {limit} bytes",
            "an image file; the largest one that max_pixels= allows needs fewer bytes",
            f"for a video: alignseg video MODEL {path} -o OUTPUT.mp4; for an image: a larger "
            "max_pixels=",
        )
    if not data:
        raise ImageError(
            f"nothing came through {path}",
            "the bytes of an image",
            "check the command that writes to it",
        )
    if _is_truncated(data):
        raise _decoding_error(path, "the file ends before its image data does (truncated)")


def decode_image(data: bytes, name: Path | str, max_pixels: int) -> Image:
    """Return the picture in the bytes of an image file as (H, W, 3) uint8 BGR, upright.

    Args:
        data: The whole file.
        name: Its path, or what to call it in messages.
        max_pixels: The largest number of pixels; more are refused before anything is decoded.

    Raises:
        ImageError: The picture cannot be decoded, or is too large.
    """
    values, orientation = value_range_of(data), orientation_of(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if orientation is not None:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image = _decode(name, data, flags, max_pixels)
    if image.dtype not in (np.uint8, np.uint16) or (values is None and image.dtype != np.uint8):
        raise ImageError(
            f"{name} holds {image.dtype} values, and its header does not say which one is white",
            "an image of 8 bits per channel, or one whose header tells how many bits it has",
            "convert it first: scale its values to 0..255 and write them as an 8-bit PNG",
        )
    primaries, transfer = colors_of_avif(data)
    if values is not None and color_name(primaries, transfer):
        sixteen = np.asarray(image.astype(np.uint32) * 65535 // values.maximum, np.uint16)
        image = to_bt709(sixteen, primaries, transfer)
    elif values is not None and values != (255, False):
        image = scale_to_8_bits(image, values)
    pixels = np.asarray(image, np.uint8)
    return pixels if orientation is None else orientation.apply(pixels)


def decode_gray_png(data: bytes, name: Path | str, max_pixels: int) -> Image:
    """Return the values of an 8-bit gray PNG as (H, W) uint8, without scaling them.

    Raises:
        ImageError: The bytes are those of another kind of image. Other PNGs are refused because
            OpenCV returns the colours of a palette instead of its values, and scales values of 1, 2
            or 4 bits.
    """
    kind = data[24:26]  # bit depth and colour type in the header, which comes first
    if not data.startswith(PNG_SIGNATURE) or kind != b"\x08\x00":
        raise ImageError(
            f"{name} is not an 8-bit gray PNG{_describe_png(data)}",
            "labels in a PNG with one channel of 8 bits and no palette",
            "with Pillow: Image.fromarray(numpy.asarray(Image.open(OLD))).save(NEW) keeps the "
            "values of a palette PNG",
        )
    return np.asarray(_decode(name, data, cv2.IMREAD_UNCHANGED, max_pixels), np.uint8)


def _describe_png(data: bytes) -> str:
    if not data.startswith(PNG_SIGNATURE):
        return f": its first bytes are {data[:8]!r}"
    kinds = {0: "gray", 2: "RGB", 3: "palette", 4: "gray and alpha", 6: "RGB and alpha"}
    bits, color_type = (data[24], data[25]) if len(data) > 25 else (0, -1)
    return f": it has {kinds.get(color_type, 'unknown')} pixels of {bits} bits per channel"


def _decode(name: Path | str, data: bytes, flags: int, max_pixels: int) -> NDArray[Any]:
    size = size_of(data)
    if size is not None:
        require_pixels(size, max_pixels, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise OutOfMemoryError(
                f"{name} does not fit into the memory that is left: {error.err}",
                "enough free memory; what is needed grows with the pixels of the image",
                "a smaller image; or max_pixels=, which refuses images like this one",
            ) from error
        limit = _LIMIT_OF_OPENCV.search(error.err)
        if limit and size is not None:
            raise _opencv_limit_error(name, size, limit[1]) from error
        raise _decoding_error(name, f"OpenCV says {error.err}") from error
    if image is None:
        raise _decoding_error(name, f"its first bytes are {data[:8]!r}")
    require_pixels((image.shape[0], image.shape[1]), max_pixels, name)  # if the header lied
    return image


def _opencv_limit_error(name: Path | str, size: Size, limit: str) -> ImageError:
    needed = {"HEIGHT": size[0], "WIDTH": size[1], "PIXELS": size[0] * size[1]}[limit]
    return ImageError(
        f"{name} has {size[0]}x{size[1]} pixels (height x width), more than OpenCV reads",
        f"a {limit.lower()} within OpenCV's own limit",
        f"start Python with the environment variable OPENCV_IO_MAX_IMAGE_{limit}={needed}, or cut "
        "the image into parts",
    )


def _decoding_error(name: Path | str, reason: str) -> ImageError:
    fix = "write the bytes to a file, and check its type: file FILE"
    if isinstance(name, Path):
        fix = f"check its type: file {name}"
        fix += f"; if it is a video: alignseg video MODEL {name} -o OUT.mp4"
    return ImageError(
        f"{name} cannot be decoded as an image: {reason}",
        "a complete JPEG, PNG, BMP, TIFF, WebP or other image that OpenCV reads",
        fix,
    )


def _is_truncated(data: bytes) -> bool:
    """Return whether the end of a JPEG or PNG is missing.

    OpenCV decodes truncated files and fills the rest with gray.
    """
    if data.startswith(JPEG_SIGNATURE):
        # Scan data never contains FFD9 (its FF bytes are stuffed), so the first FFD9 in or after
        # the scan ends the image. A thumbnail has an end of its own, but lies before the scan.
        scans = (place for marker, place in jpeg_segments(data) if marker == JPEG_SCAN)
        scan = next(scans, None)
        return scan is None or data.find(b"\xff\xd9", scan) < 0
    if data.startswith(PNG_SIGNATURE):
        return b"IEND" not in data
    return False
