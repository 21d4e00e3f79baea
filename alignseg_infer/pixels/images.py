"""Reading images from files, arrays and PIL, always as (H, W, 3) uint8 BGR, and writing them."""

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image
from alignseg_infer.errors import ImageError, OutputError
from alignseg_infer.files.reading import user_path
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.pixels.encoded import (
    MAX_PIXELS,
    decode_gray_png,
    decode_image,
    read_encoded,
    require_max_pixels,
    require_pixels,
)
from alignseg_infer.pixels.header import has_more_pictures
from alignseg_infer.pixels.value_range import ValueRange, scale_to_8_bits

MIN_IMAGE_SIDE = 2
SIXTEEN_BITS = ValueRange(65535)

logger = logging.getLogger(__name__)


@runtime_checkable
class PILImage(Protocol):
    """The part of ``PIL.Image.Image`` used here, so that Pillow itself is not needed."""

    @property
    def mode(self) -> str:
        """How pixels are stored, such as ``RGB``."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        ...

    def convert(self, mode: str) -> Any:
        """Return the same image in another mode."""
        ...


class OwnImage(NamedTuple):
    """An image that belongs to this package: nobody else writes to its pixels.

    Attributes:
        pixels: (H, W, 3) uint8 BGR.
    """

    pixels: Image


Encoded: TypeAlias = bytes | bytearray | memoryview
ImageSource: TypeAlias = str | os.PathLike[str] | Encoded | NDArray[Any] | PILImage | OwnImage


def take_over(source: ImageSource, max_pixels: int = MAX_PIXELS) -> ImageSource:
    """Copy the pixels of an array or a PIL image, so that its owner may use the memory again.

    Call it in the thread that received `source`, before the owner goes on. Paths stay paths: what
    is in the file belongs to nobody. The bytes of a file are copied, and decoded later.

    Raises:
        ImageError: As `load_image` does for an array or a PIL image.
    """
    if isinstance(source, np.ndarray | PILImage):
        return OwnImage(load_image(source, max_pixels))
    return bytes(source) if isinstance(source, bytearray | memoryview) else source


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image:
    """Return any supported image as (H, W, 3) uint8, BGR, 0..255.

    Args:
        source: One of

            * a path to any format that OpenCV reads, or to a pipe, such as ``/dev/stdin``. The
              picture is turned upright, gray becomes three channels, alpha is dropped, and 16 bits
              per channel are scaled to 8. Of several pictures in a file, the first is read;
            * the bytes of such a file;
            * an array (H, W, 3) uint8 in BGR, (H, W, 4) in BGRA, or (H, W) or (H, W, 1) gray;
            * a PIL image. 16 bits are scaled to 8; modes I and F are refused. EXIF rotation is
              not applied, as in Pillow;
            * what `take_over` returned.
        max_pixels: The largest number of pixels of a file or a PIL image. Larger ones are refused
            before they are decoded.

    Returns:
        Pixels that share no memory with an array or PIL image that was given.

    Raises:
        ImageError: The source is none of these, has too many pixels, or cannot be decoded.
    """
    if isinstance(source, OwnImage):
        return source.pixels
    if isinstance(source, str | os.PathLike):
        path = user_path(source)
        return _image_from_bytes(read_encoded(path, max_pixels), path, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        return _image_from_bytes(data, f"the encoded image of {len(data)} bytes", max_pixels)
    if isinstance(source, np.ndarray):
        source = np.asarray(source)  # of np.matrix, whose views have two dimensions always
        image = image_from_array(source)
        # A camera loop may reuse its buffer while results still refer to the image.
        return image.copy() if np.may_share_memory(image, source) else image
    if isinstance(source, PILImage):
        return _image_from_pil(source, max_pixels)
    raise _kind_error(source)


def _kind_error(source: object) -> ImageError:
    """Return the error for what is no image."""
    if source is None:
        return ImageError(
            "an image was given as None",
            "a path, the bytes of a file, a uint8 array or a PIL image",
            "pass the path: cv2.imread returns None for a file that it cannot read; this package "
            "says why",
        )
    return ImageError(
        f"an image was given as {type(source).__name__}",
        "a path, the bytes of a file, a uint8 array or a PIL image",
        "a tensor: image.permute(1, 2, 0).cpu().numpy() as uint8 BGR; a file object: file.read(); "
        "nested lists: numpy.array(image, numpy.uint8); a generator: list(images)",
    )


def _image_from_bytes(data: bytes, name: Path | str, max_pixels: int) -> Image:
    require_max_pixels(max_pixels)
    image = image_from_array(decode_image(data, name, max_pixels))
    if has_more_pictures(data):
        _tell_of_more_pictures(name)
    return image


@lru_cache(maxsize=1024)
def _tell_of_more_pictures(name: Path | str) -> None:
    """Say once for each file that only its first picture is used."""
    logger.warning(
        "%s has several pictures, of which the first is used; for all pictures of an animation: "
        "alignseg video MODEL FILE -o OUTPUT.mp4",
        name,
    )


def _image_from_pil(source: PILImage, max_pixels: int) -> Image:
    require_max_pixels(max_pixels)
    require_pixels(source.size[::-1], max_pixels, "the PIL image")
    try:
        return _pixels_from_pil(source)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow decodes late, and says what is wrong in many ways
        reason = f"{error}" or type(error).__name__
        raise ImageError(
            f"the PIL image of mode {source.mode!r} cannot be decoded: {reason}",
            "a complete image that is still open, in a mode that converts to RGB",
            "image.load() inside the block that opens it; for mode La, image.convert('LA')",
        ) from error


def _pixels_from_pil(source: PILImage) -> Image:
    if source.mode.startswith("I;16"):
        return image_from_array(scale_to_8_bits(np.asarray(source, np.uint16), SIXTEEN_BITS))
    if source.mode in ("I", "F"):  # Pillow would clip them to 0..255
        raise ImageError(
            f"the PIL image has mode {source.mode!r}, whose range of values is unknown",
            "mode RGB, RGBA, L, P, 1, I;16 or another mode with 8 or 16 bits",
            "scale it to 0..255 first: Image.fromarray(values.astype(np.uint8))",
        )
    return image_from_array(np.asarray(source.convert("RGB"))[..., ::-1])


def image_from_array(array: NDArray[Any]) -> Image:
    """Return an image array as (H, W, 3) uint8 BGR, C-contiguous.

    Args:
        array: uint8, (H, W) or (H, W, 1) gray, (H, W, 3) BGR, or (H, W, 4) BGRA.

    Raises:
        ImageError: The array has another dtype or shape; the message says how to convert it.
    """
    _require_uint8(array)
    if array.ndim == 2:
        array = array[..., np.newaxis]  # (H, W, 1)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"the image array has shape {array.shape}",
            "(H, W, 3) BGR, (H, W, 4) BGRA, or (H, W) gray",
            "for (3, H, W): image.transpose(1, 2, 0); for a batch: pass a list of images",
        )
    if min(array.shape[:2]) < MIN_IMAGE_SIDE:
        raise ImageError(
            f"the image is {array.shape[0]}x{array.shape[1]} (height x width)",
            f"at least {MIN_IMAGE_SIDE} pixels per side",
            "check how the image was cropped or decoded",
        )
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)  # (H, W, 3)
    return np.ascontiguousarray(array[..., :3])  # (H, W, 3)


def _require_uint8(array: NDArray[Any]) -> None:
    if array.dtype == np.uint8:
        return
    fixes = {
        "f": "(image * 255).round().astype(np.uint8) if it is in 0..1, after removing any NaN",
        "u": "(image >> 8).astype(np.uint8) for full-range 16 bit, >> 4 for 12 bit",
        "b": "image.astype(np.uint8) * 255",
        "O": "list(images) for images of several sizes",
    }
    raise ImageError(
        f"the image array is {array.dtype}{_describe_nan(array)}",
        "uint8 with values 0..255",
        fixes.get(array.dtype.kind, "image.astype(np.uint8) once its values are in 0..255"),
    )


def _describe_nan(array: NDArray[Any]) -> str:
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return ""
    return f" with {int(np.isnan(array).sum())} NaN"


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Read the image file `path` as (H, W, 3) uint8 BGR, upright.

    Args:
        path: The file. Messages name it by its text, which is an address if the file is a copy.
        max_pixels: The largest number of pixels; more are refused before anything is decoded.

    Raises:
        ImageError: The file is missing, empty or truncated, has too many pixels, or OpenCV cannot
            read it.
    """
    data = read_encoded(Path(path), max_pixels)
    return image_from_array(decode_image(data, str(path), max_pixels))


def read_gray_png(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Read the 8-bit gray PNG `path` as (H, W) uint8, without scaling its values.

    Raises:
        ImageError: The file is missing, empty, truncated, too large, or another kind of image.
    """
    return decode_gray_png(read_encoded(Path(path), max_pixels), str(path), max_pixels)


def encode_image(pixels: NDArray[np.uint8] | NDArray[np.uint16], suffix: str) -> bytes:
    """Return the bytes of an image file.

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8 BGR.
        suffix: ``.png`` or ``.jpg``.

    Raises:
        OutputError: The image is too large for the format.
    """
    try:
        done, content = cv2.imencode(suffix, pixels)
    except cv2.error:  # OpenCV 4 raises; OpenCV 5 returns False
        done = False
    if not done:
        raise OutputError(
            f"an image of {pixels.shape[0]}x{pixels.shape[1]} pixels (height x width) cannot be "
            f"encoded as {suffix}",
            "at most 65500 pixels per side for JPEG",
            "segment the image in parts, or write result.labels with numpy.save",
        )
    return content.tobytes()


def write_image(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write an image file atomically, in the format that its ending names.

    Args:
        path: Ends in ``.png`` or ``.jpg``.
        pixels: As `encode_image` takes them.

    Raises:
        OutputError: The file cannot be written, or the image is too large for the format.
    """
    content = encode_image(pixels, path.suffix)
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)
