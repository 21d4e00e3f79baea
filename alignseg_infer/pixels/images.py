"""Reading images from files, arrays and PIL, always as (H, W, 3) uint8 BGR, and writing them."""

import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image
from alignseg_infer.errors import ImageError, OutputError
from alignseg_infer.files import require_file, user_path, write_atomically
from alignseg_infer.pixels.value_range import (
    PNG_SIGNATURE,
    ValueRange,
    colors_of_avif,
    value_range_of,
)
from alignseg_infer.pixels.wide_color import color_name, to_bt709

MIN_IMAGE_SIDE = 2
SIXTEEN_BITS = ValueRange(65535)


@runtime_checkable
class PILImage(Protocol):
    """The part of ``PIL.Image.Image`` used here, so that Pillow itself is not needed."""

    mode: str

    def convert(self, mode: str) -> Any:
        """Return the same image in another mode."""
        ...


class OwnImage(NamedTuple):
    """An image that belongs to this package: nobody else writes to its pixels.

    Attributes:
        pixels: (H, W, 3) uint8 BGR.
    """

    pixels: Image


ImageSource: TypeAlias = str | os.PathLike[str] | NDArray[Any] | PILImage | OwnImage


def take_over(source: ImageSource) -> ImageSource:
    """Copy the pixels of an array or a PIL image, so that its owner may use the memory again.

    Call it in the thread that received `source`, before the owner goes on. Paths stay paths: what
    is in the file belongs to nobody.

    Raises:
        ImageError: As `load_image` does for an array or a PIL image.
    """
    if isinstance(source, np.ndarray | PILImage):
        return OwnImage(load_image(source))
    return source


def load_image(source: ImageSource) -> Image:
    """Return any supported image as (H, W, 3) uint8, BGR, 0..255.

    Args:
        source: One of

            * a path to any format that OpenCV reads. EXIF rotation is applied, gray becomes three
              channels, alpha is dropped, and 16 bits per channel are scaled to 8;
            * an array (H, W, 3) uint8 in BGR, (H, W, 4) in BGRA, or (H, W) or (H, W, 1) gray;
            * a PIL image. 16 bits are scaled to 8; modes I and F are refused. EXIF rotation is
              not applied, as in Pillow;
            * what `take_over` returned.

    Returns:
        Pixels that share no memory with an array or PIL image that was given.

    Raises:
        ImageError: The source is none of these, or cannot be decoded.
    """
    if isinstance(source, OwnImage):
        return source.pixels
    if isinstance(source, str | os.PathLike):
        return read_image(user_path(source))
    if isinstance(source, np.ndarray):
        source = np.asarray(source)  # of np.matrix, whose views have two dimensions always
        image = image_from_array(source)
        # A camera loop may reuse its buffer while results still refer to the image.
        return image.copy() if np.may_share_memory(image, source) else image
    if isinstance(source, PILImage):
        return _image_from_pil(source)
    raise ImageError(
        f"an image was given as {type(source).__name__}",
        "a path, a uint8 array or a PIL image",
        "a tensor: image.permute(1, 2, 0).cpu().numpy() as uint8 BGR; bytes: cv2.imdecode; "
        "a generator: list(images)",
    )


def _image_from_pil(source: PILImage) -> Image:
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
        return image_from_array(_scale_to_8_bits(np.asarray(source, np.uint16)))
    if source.mode in ("I", "F"):  # Pillow would clip them to 0..255
        raise ImageError(
            f"the PIL image has mode {source.mode!r}, whose range of values is unknown",
            "mode RGB, RGBA, L, P, 1, I;16 or another mode with 8 or 16 bits",
            "scale it to 0..255 first: Image.fromarray(values.astype(np.uint8))",
        )
    return image_from_array(np.asarray(source.convert("RGB"))[..., ::-1])


def _scale_to_8_bits(
    image: NDArray[np.uint8] | NDArray[np.uint16], values: ValueRange = SIXTEEN_BITS
) -> Image:
    """Scale values so that ``values.maximum`` becomes 255, rounding to the nearest."""
    numbers = np.minimum(image, values.maximum).astype(np.uint32)
    scaled = ((numbers * 255 + values.maximum // 2) // values.maximum).astype(np.uint8)
    return 255 - scaled if values.inverted else scaled


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


def read_image(path: Path) -> Image:
    """Read the image file `path` as (H, W, 3) uint8 BGR, and apply its EXIF rotation.

    Raises:
        ImageError: The file is missing, empty or truncated, or OpenCV cannot read it.
    """
    data = _read_bytes(path)
    values = value_range_of(data)
    image = _decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype not in (np.uint8, np.uint16) or (values is None and image.dtype != np.uint8):
        raise ImageError(
            f"{path} holds {image.dtype} values, and its header does not say which one is white",
            "an image of 8 bits per channel, or one whose header tells how many bits it has",
            "convert it first: scale its values to 0..255 and write them as an 8-bit PNG",
        )
    primaries, transfer = colors_of_avif(data)
    if values is not None and color_name(primaries, transfer):
        sixteen = np.asarray(image.astype(np.uint32) * 65535 // values.maximum, np.uint16)
        image = to_bt709(sixteen, primaries, transfer)
    elif values is not None and values != (255, False):
        image = _scale_to_8_bits(image, values)
    return image_from_array(image)


def read_gray_png(path: Path) -> Image:
    """Read the 8-bit gray PNG `path` as (H, W) uint8, without scaling its values.

    Raises:
        ImageError: The file is missing, empty, truncated, or another kind of image. Other PNGs are
            refused because OpenCV returns the colours of a palette instead of its values, and
            scales values of 1, 2 or 4 bits.
    """
    data = _read_bytes(path)
    kind = data[24:26]  # bit depth and colour type in the header, which comes first
    if not data.startswith(PNG_SIGNATURE) or kind != b"\x08\x00":
        raise ImageError(
            f"{path} is not an 8-bit gray PNG{_describe_png(data)}",
            "labels in a PNG with one channel of 8 bits and no palette",
            "with Pillow: Image.fromarray(numpy.asarray(Image.open(OLD))).save(NEW) keeps the "
            "values of a palette PNG",
        )
    return np.asarray(_decode(path, data, cv2.IMREAD_UNCHANGED), np.uint8)


def _describe_png(data: bytes) -> str:
    if not data.startswith(PNG_SIGNATURE):
        return f": its first bytes are {data[:8]!r}"
    kinds = {0: "gray", 2: "RGB", 3: "palette", 4: "gray and alpha", 6: "RGB and alpha"}
    bits, color_type = (data[24], data[25]) if len(data) > 25 else (0, -1)
    return f": it has {kinds.get(color_type, 'unknown')} pixels of {bits} bits per channel"


def _read_bytes(path: Path) -> bytes:
    require_file(path, "an image", ImageError)
    data = path.read_bytes()
    if _is_truncated(data):
        raise _decoding_error(path, "the file ends before its image data does (truncated)")
    return data


def _decode(path: Path, data: bytes, flags: int) -> NDArray[Any]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        raise _decoding_error(path, f"OpenCV says {error.err}") from error
    if image is None:
        raise _decoding_error(path, f"its first bytes are {data[:8]!r}")
    return image


def _decoding_error(path: Path, reason: str) -> ImageError:
    return ImageError(
        f"{path} cannot be decoded as an image: {reason}",
        "a complete JPEG, PNG, BMP, TIFF, WebP or other image that OpenCV reads",
        f"check its type: file {path}; if it is a video: alignseg video MODEL {path} -o OUT.mp4",
    )


def _is_truncated(data: bytes) -> bool:
    """Return whether the end of a JPEG or PNG is missing.

    OpenCV decodes truncated files and fills the rest with gray.
    """
    if data.startswith(b"\xff\xd8"):
        # Scan data never contains FFD9 (its FF bytes are stuffed), so the first FFD9 in or after
        # the scan ends the image. A thumbnail has an end of its own, but lies before the scan.
        scan = _find_jpeg_scan(data)
        return scan is None or data.find(b"\xff\xd9", scan) < 0
    if data.startswith(PNG_SIGNATURE):
        return b"IEND" not in data
    return False


def _find_jpeg_scan(data: bytes) -> int | None:
    """Return the position of the main image's first start-of-scan marker; None if there is none."""
    position = data.find(b"\xff", 2)  # decoders skip stray bytes between segments
    while 0 <= position <= len(data) - 4:
        marker = data[position + 1]
        if marker == 0xDA:
            return position
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position = data.find(b"\xff", position + (1 if marker == 0xFF else 2 + length))
    return None


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
